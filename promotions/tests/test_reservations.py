"""Holds, sales and the units that come back."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models import F
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promotions import exceptions
from promotions.models import FlashPromo, Reservation
from promotions.services import reservations

pytestmark = pytest.mark.django_db


def hold(promo, shopper) -> Reservation:
    return reservations.reservation_create(promo_id=promo.pk, shopper_id=shopper.pk)


def let_holds_run_out() -> None:
    Reservation.objects.update(reserved_until=F("reserved_until") - timedelta(hours=1))


def counters(promo) -> tuple[int, int]:
    return FlashPromo.objects.values_list("held", "completed").get(pk=promo.pk)


def test_a_hold_lasts_as_long_as_the_setting_says(make_promo, make_shopper, settings):
    settings.RESERVATION_HOLD_SECONDS = 90
    before = timezone.now()
    reservation = hold(make_promo(), make_shopper())
    assert timedelta(seconds=89) < reservation.reserved_until - before < timedelta(seconds=95)
    reservation.refresh_from_db()
    assert reservation.status == Reservation.Status.HELD


@pytest.mark.parametrize(
    ("promo", "shopper", "refusal"),
    [
        ({"status": "SCHEDULED"}, {}, exceptions.PromoNotActive),
        ({"starts_at": timedelta(minutes=30)}, {}, exceptions.PromoNotActive),
        ({"ends_at": timedelta(seconds=-1)}, {}, exceptions.PromoNotActive),
        ({"eligible_segments": ["new"]}, {}, exceptions.NotEligible),
        ({}, {"latitude": 19.5}, exceptions.TooFar),
        ({}, {"latitude": None, "longitude": None}, exceptions.TooFar),
    ],
)
def test_a_hold_is_refused_with_its_reason(make_promo, make_shopper, promo, shopper, refusal):
    with pytest.raises(refusal):
        hold(make_promo(**promo), make_shopper(**shopper))
    assert not Reservation.objects.exists()


def test_an_unknown_promo_is_none(make_shopper):
    with pytest.raises(FlashPromo.DoesNotExist):
        reservations.reservation_create(promo_id=1, shopper_id=make_shopper().pk)


def test_the_last_unit_sells_out(make_promo, make_shopper):
    promo = make_promo(quantity=1)
    hold(promo, make_shopper())
    with pytest.raises(exceptions.SoldOut):
        hold(promo, make_shopper())


def test_a_shopper_holds_one_unit_at_a_time(make_promo, make_shopper):
    promo, shopper = make_promo(), make_shopper()
    first = hold(promo, shopper)
    with pytest.raises(exceptions.AlreadyHolding):
        hold(promo, shopper)
    reservations.reservation_complete(first)
    hold(promo, shopper)
    assert counters(promo) == (1, 1)


def test_a_hold_that_is_over_frees_itself_at_once_for_the_next_buyer(make_promo, make_shopper):
    promo = make_promo(quantity=1)
    late = hold(promo, make_shopper())
    let_holds_run_out()
    hold(promo, make_shopper())
    late.refresh_from_db()
    assert late.status == Reservation.Status.EXPIRED
    assert counters(promo) == (1, 0)


def test_a_shopper_whose_hold_is_over_may_hold_again(make_promo, make_shopper):
    promo, shopper = make_promo(), make_shopper()
    hold(promo, shopper)
    let_holds_run_out()
    hold(promo, shopper)
    assert counters(promo) == (1, 0)


def test_the_release_frees_only_what_is_over(make_promo, make_shopper, monkeypatch):
    monkeypatch.setattr(reservations, "BATCH", 2)
    promo, other = make_promo(), make_promo()
    for _ in range(5):
        hold(promo, make_shopper())
    let_holds_run_out()
    hold(other, make_shopper())
    assert reservations.reservations_release() == 5
    assert reservations.reservations_release() == 0
    assert (counters(promo), counters(other)) == ((0, 0), (1, 0))


def test_a_hold_becomes_a_sale_once(make_promo, make_shopper):
    reservation = hold(promo := make_promo(), make_shopper())
    for _ in range(2):
        done = reservations.reservation_complete(reservation)
        assert done.status == Reservation.Status.COMPLETED
    assert done.completed_at is not None
    assert counters(promo) == (0, 1)


def test_a_hold_that_is_over_is_no_sale(make_promo, make_shopper):
    reservation = hold(make_promo(), make_shopper())
    let_holds_run_out()
    with pytest.raises(exceptions.ReservationClosed):
        reservations.reservation_complete(reservation)


def test_a_cancelled_hold_frees_its_unit(make_promo, make_shopper):
    reservation = hold(promo := make_promo(quantity=1), make_shopper())
    for _ in range(2):
        reservations.reservation_cancel(reservation)
    hold(promo, make_shopper())
    with pytest.raises(exceptions.ReservationClosed):
        reservations.reservation_complete(reservation)


def test_a_sale_cannot_be_cancelled(make_promo, make_shopper):
    reservation = hold(make_promo(), make_shopper())
    reservations.reservation_complete(reservation)
    with pytest.raises(exceptions.ReservationClosed):
        reservations.reservation_cancel(reservation)


@given(st.lists(st.sampled_from(["hold", "complete", "cancel", "run out", "release"]), max_size=25))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_the_counters_agree_with_the_rows_whatever_happens(make_promo, make_shopper, steps):
    promo = make_promo(quantity=2)
    for step in steps:
        held = Reservation.objects.filter(promo=promo, status="HELD").first()
        try:
            if step == "hold":
                hold(promo, make_shopper())
            elif step == "complete" and held:
                reservations.reservation_complete(held)
            elif step == "cancel" and held:
                reservations.reservation_cancel(held)
            elif step == "run out":
                let_holds_run_out()
            elif step == "release":
                reservations.reservations_release()
        except exceptions.PromotionsError:
            pass
        rows = Reservation.objects.filter(promo=promo)
        expected = tuple(rows.filter(status=s).count() for s in ("HELD", "COMPLETED"))
        assert counters(promo) == expected
        assert sum(expected) <= promo.quantity


@pytest.mark.django_db(transaction=True)
def test_buyers_cancellers_and_releases_at_once_never_oversell_nor_deadlock(
    make_promo, make_shopper
):
    promos = [make_promo(quantity=5) for _ in range(3)]
    shoppers = [make_shopper() for _ in range(40)]

    def act(number: int) -> None:
        try:
            promo = promos[number % 3]
            if number % 10 == 9:
                reservations.reservations_release()
                return
            reservation = hold(promo, shoppers[number % 40])
            if number % 4 == 0:
                reservations.reservation_complete(reservation)
            elif number % 4 == 1:
                reservations.reservation_cancel(reservation)
            elif number % 4 == 2:
                Reservation.objects.filter(pk=reservation.pk).update(reserved_until=timezone.now())
        except (exceptions.SoldOut, exceptions.AlreadyHolding, exceptions.ReservationClosed):
            pass
        finally:
            connection.close()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(act, range(300)))
    for promo in promos:
        rows = Reservation.objects.filter(promo=promo)
        assert counters(promo) == tuple(
            rows.filter(status=status).count() for status in ("HELD", "COMPLETED")
        )
        assert sum(counters(promo)) <= 5
