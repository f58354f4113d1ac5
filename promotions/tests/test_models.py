"""The database refuses every invalid row, whoever writes it."""

from datetime import timedelta

import pytest
from django.db import DataError, IntegrityError, transaction
from django.utils import timezone

from promotions.models import FlashPromo, Notification, Product, Reservation, ShopperProfile, Store

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"promo_price": 0}, "promo_price_positive"),
        ({"promo_price": 100}, "promo_price_below_list_price"),
        ({"quantity": 0}, "promo_quantity_at_least_one"),
        ({"ends_at": -timedelta(days=1)}, "promo_ends_after_start"),
        ({"max_distance_km": 0}, "promo_distance_in_range"),
        ({"max_distance_km": float("nan")}, "promo_distance_in_range"),
        ({"eligible_segments": ["vip"]}, "promo_segments_known"),
        ({"status": "OPEN"}, "promo_status_known"),
    ],
)
def test_an_invalid_promo_is_refused(make_promo, fields, constraint):
    with pytest.raises(IntegrityError) as refused, transaction.atomic():
        make_promo(**fields)
    assert getattr(refused.value.__cause__, "diag").constraint_name == constraint  # noqa: B009
    assert not FlashPromo.objects.exists()


@pytest.mark.parametrize(
    "place", [(90.1, 0), (-90.1, 0), (0, 180.1), (0, -180.1), (float("nan"), 0), (0, float("inf"))]
)
def test_a_place_out_of_range_is_refused(make_store, make_shopper, place):
    latitude, longitude = place
    with pytest.raises(IntegrityError, match="in_range"), transaction.atomic():
        make_store(latitude=latitude, longitude=longitude)
    with pytest.raises(IntegrityError, match="in_range"), transaction.atomic():
        make_shopper(latitude=latitude, longitude=longitude)


def test_half_a_place_is_refused(make_shopper):
    with pytest.raises(IntegrityError, match="shopper_place_whole"):
        make_shopper(latitude=None)


def test_an_unknown_time_zone_is_refused(make_shopper):
    with pytest.raises(DataError, match="Mars/Olympus"):
        make_shopper(time_zone="Mars/Olympus")


@pytest.mark.parametrize("price", ["0", "-1"])
def test_a_list_price_not_above_zero_is_refused(make_store, price):
    with pytest.raises(IntegrityError, match="product_list_price_positive"):
        Product.objects.create(store=make_store(), name="x", list_price=price)


def test_the_list_price_cannot_fall_to_an_open_promo(make_promo):
    promo = make_promo(promo_price=60)
    with pytest.raises(IntegrityError, match="not above the price"), transaction.atomic():
        Product.objects.update(list_price=60)
    FlashPromo.objects.filter(pk=promo.pk).update(status="EXPIRED")
    assert Product.objects.update(list_price=50) == 1


def test_the_promo_price_cannot_rise_to_the_list_price(make_promo):
    make_promo(promo_price=60)
    with pytest.raises(IntegrityError, match="not below the list price"):
        FlashPromo.objects.update(promo_price=100)


def test_a_reservation_too_many_is_refused(make_promo, make_shopper):
    promo = make_promo(quantity=1)
    until = timezone.now()
    Reservation.objects.create(promo=promo, shopper=make_shopper(), reserved_until=until)
    with pytest.raises(IntegrityError, match="promo_units_within_quantity"):
        Reservation.objects.create(
            promo=promo, shopper=make_shopper(), reserved_until=until, status="COMPLETED"
        )


def test_the_quantity_cannot_fall_below_what_is_held_and_sold(make_promo, make_shopper):
    promo = make_promo(quantity=2)
    for _ in range(2):
        Reservation.objects.create(
            promo=promo, shopper=make_shopper(), reserved_until=timezone.now()
        )
    with pytest.raises(IntegrityError, match="promo_units_within_quantity"):
        FlashPromo.objects.update(quantity=1)


def test_counters_follow_reservations_moved_in_bulk(make_promo, make_shopper):
    first, second = make_promo(), make_promo()
    until = timezone.now()
    Reservation.objects.bulk_create(
        Reservation(promo=promo, shopper=make_shopper(), reserved_until=until)
        for promo in (first, first, first, second)
    )
    Reservation.objects.filter(promo=first, pk__in=first.reservations.values("pk")[:1]).update(
        status="COMPLETED"
    )
    Reservation.objects.filter(promo=first, status="HELD").earliest("pk").delete()
    Reservation.objects.filter(promo=first, status="HELD").update(promo=second)
    assert list(FlashPromo.objects.order_by("pk").values_list("held", "completed")) == [
        (0, 1),
        (2, 0),
    ]


def test_one_hold_a_shopper_and_promo(make_promo, make_shopper):
    promo, shopper = make_promo(), make_shopper()
    Reservation.objects.create(promo=promo, shopper=shopper, reserved_until=timezone.now())
    with pytest.raises(IntegrityError, match="reservation_one_hold_a_shopper"):
        Reservation.objects.create(promo=promo, shopper=shopper, reserved_until=timezone.now())


def test_one_notification_a_shopper_and_day(make_promo, make_shopper):
    shopper, day = make_shopper(), timezone.now().date()
    Notification.objects.create(
        promo=make_promo(), shopper=shopper, local_day=day, channel="in_app"
    )
    with pytest.raises(IntegrityError, match="notification_one_a_day"):
        Notification.objects.create(
            promo=make_promo(), shopper=shopper, local_day=day, channel="in_app"
        )


def test_a_sale_keeps_its_promo_from_being_deleted(make_promo, make_shopper):
    promo = make_promo()
    Reservation.objects.create(
        promo=promo, shopper=make_shopper(), reserved_until=timezone.now(), status="COMPLETED"
    )
    with pytest.raises(IntegrityError):
        FlashPromo.objects.filter(pk=promo.pk).delete()


def test_every_user_has_a_profile(django_user_model):
    user = django_user_model.objects.create_user("somebody")
    assert ShopperProfile.objects.get(user=user).segment == "new"


def test_a_store_outlives_its_owner(make_store, make_shopper):
    owner = make_shopper()
    store = make_store(owner=owner)
    owner.delete()
    assert Store.objects.get(pk=store.pk).owner is None
