"""Reservations, notifications and the profile over HTTP: what a shopper has."""

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from rest_framework.test import APIClient

from promotions.models import FlashPromo, Notification, Reservation, ShopperProfile
from promotions.services.reservations import reservation_create

pytestmark = pytest.mark.django_db

RESERVATIONS = "/api/reservations/"


@pytest.fixture
def shopper(make_shopper):
    return make_shopper()


@pytest.fixture
def client(client_of, shopper):
    return client_of(shopper)


def reserve(client: APIClient, promo: FlashPromo) -> Any:
    return client.post(f"/api/promos/{promo.pk}/reserve/")


def code_of(response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def let_holds_run_out() -> None:
    Reservation.objects.update(reserved_until=F("reserved_until") - timedelta(hours=1))


# --- Reserving -----------------------------------------------------------------------------------
def test_a_reservation_says_until_when_it_holds(client, make_promo, shopper):
    promo = make_promo()
    response = reserve(client, promo)
    body = response.json()
    assert (response.status_code, body["status"], body["promo"]) == (201, "HELD", promo.pk)
    until = parse_datetime(body["reserved_until"])
    assert until is not None
    assert 50 < (until - timezone.now()).total_seconds() <= 60
    assert Reservation.objects.get(pk=body["id"]).shopper == shopper


@pytest.mark.parametrize(
    ("promo", "answer"),
    [
        ({"status": "SCHEDULED"}, (400, "promo_not_active")),
        ({"starts_at": timedelta(minutes=30)}, (400, "promo_not_active")),
        ({"ends_at": -timedelta(seconds=1)}, (400, "promo_not_active")),
        ({"eligible_segments": ["new", "frequent"]}, (403, "not_eligible")),
    ],
)
def test_a_refusal_says_why(client, make_promo, promo, answer):
    assert code_of(reserve(client, make_promo(**promo))) == answer


@pytest.mark.parametrize("place", [{"latitude": 19.5}, {"latitude": None, "longitude": None}])
def test_who_is_too_far_may_not_reserve(client_of, make_promo, make_shopper, place):
    assert code_of(reserve(client_of(make_shopper(**place)), make_promo())) == (403, "too_far")


def test_a_user_without_a_profile_is_too_far(client, make_promo, shopper):
    ShopperProfile.objects.all().delete()
    assert code_of(reserve(client, make_promo())) == (403, "too_far")


def test_a_second_unit_is_refused_while_one_is_held(client, make_promo):
    promo = make_promo()
    reserve(client, promo)
    assert code_of(reserve(client, promo)) == (409, "already_holding")


def test_the_unit_too_many_is_sold_out(client, client_of, make_promo, make_shopper):
    promo = make_promo(quantity=1)
    reserve(client_of(make_shopper()), promo)
    assert code_of(reserve(client, promo)) == (409, "sold_out")


def test_a_hold_that_ran_out_is_free_at_once(client, client_of, make_promo, make_shopper):
    promo = make_promo(quantity=1)
    reserve(client_of(make_shopper()), promo)
    let_holds_run_out()
    assert reserve(client, promo).status_code == 201


def test_reserving_an_unknown_promo_is_404(client):
    for number in (0, 10**18, 10**30):
        assert client.post(f"/api/promos/{number}/reserve/").status_code == 404


def test_a_reservation_costs_few_queries(client, make_promo, django_assert_max_num_queries):
    promo = make_promo()
    with django_assert_max_num_queries(5):  # the caller, a savepoint and its end, the hold, its row
        assert reserve(client, promo).status_code == 201


def test_a_reservation_can_be_made_in_the_browser(client, make_promo):
    response = client.post(
        f"/api/promos/{make_promo().pk}/reserve/", headers={"accept": "text/html"}
    )
    assert (response.status_code, "reserved_until" in response.text) == (201, True)


# --- Completing and cancelling -------------------------------------------------------------------
@pytest.mark.parametrize(("verb", "status"), [("complete", "COMPLETED"), ("cancel", "CANCELLED")])
def test_a_held_unit_is_bought_or_given_back_once(client, make_promo, verb, status):
    reservation = reserve(client, make_promo()).json()
    answers = [client.post(f"{RESERVATIONS}{reservation['id']}/{verb}/") for _ in range(2)]
    assert [(a.status_code, a.json()["status"]) for a in answers] == [(200, status)] * 2
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize(("first", "then"), [("complete", "cancel"), ("cancel", "complete")])
def test_what_is_closed_stays_closed(client, make_promo, first, then):
    reservation = reserve(client, make_promo()).json()
    client.post(f"{RESERVATIONS}{reservation['id']}/{first}/")
    response = client.post(f"{RESERVATIONS}{reservation['id']}/{then}/")
    assert code_of(response) == (409, "reservation_closed")


def test_a_hold_that_ran_out_is_not_bought(client, make_promo):
    reservation = reserve(client, make_promo()).json()
    let_holds_run_out()
    response = client.post(f"{RESERVATIONS}{reservation['id']}/complete/")
    assert code_of(response) == (409, "reservation_closed")


@pytest.mark.parametrize("address", ["", "complete/", "cancel/"])
def test_the_reservation_of_another_does_not_exist(
    client, client_of, make_promo, make_shopper, address
):
    other = reserve(client_of(make_shopper()), make_promo()).json()
    method = client.post if address else client.get
    assert code_of(method(f"{RESERVATIONS}{other['id']}/{address}")) == (404, "not_found")


def test_the_listing_holds_one_s_own_the_newest_first(
    client, make_promo, make_shopper, shopper, django_assert_num_queries
):
    own = [reservation_create(promo_id=make_promo().pk, shopper_id=shopper.pk).pk for _ in range(4)]
    reservation_create(promo_id=make_promo().pk, shopper_id=make_shopper().pk)
    with django_assert_num_queries(3):  # the caller, the count, the page
        shown = client.get(RESERVATIONS).json()
    assert [row["id"] for row in shown["results"]] == own[::-1]


def test_the_listing_filters_by_status(client, make_promo):
    reservation = reserve(client, make_promo()).json()
    assert client.get(RESERVATIONS, {"status": "HELD"}).json()["count"] == 1
    assert client.get(RESERVATIONS, {"status": "EXPIRED"}).json()["count"] == 0
    error = client.get(RESERVATIONS, {"status": "held"}).json()["error"]
    assert error["fields"] == {"status": ["Use one of: HELD, COMPLETED, EXPIRED, CANCELLED."]}
    assert client.get(f"{RESERVATIONS}{reservation['id']}/").json() == reservation


# --- Notifications -------------------------------------------------------------------------------
def notify(promo, shopper, **fields) -> Notification:
    day = timezone.now().date() - timedelta(days=Notification.objects.count())
    defaults = {"local_day": day, "channel": "in_app", "status": "DELIVERED"}
    return Notification.objects.create(promo=promo, shopper=shopper, **(defaults | fields))


def test_the_notifications_are_one_s_own_and_delivered(
    client, make_promo, make_shopper, shopper, django_assert_num_queries
):
    promo = make_promo()
    own = [notify(promo, shopper).pk for _ in range(4)]
    notify(promo, shopper, status="PUBLISHED")
    notify(promo, make_shopper())
    with django_assert_num_queries(3):  # the caller, the count, the page
        shown = client.get("/api/notifications/").json()
    assert [row["id"] for row in shown["results"]] == own


def test_a_notification_says_what_is_on_offer(client, make_promo, shopper):
    promo = make_promo()
    notify(promo, shopper, delivered_at=timezone.now())
    [row] = client.get("/api/notifications/").json()["results"]
    assert (row["promo"], row["promo_price"], row["list_price"]) == (promo.pk, "60.00", "100.00")
    assert (row["product_name"], row["store_name"]) == (promo.product.name, "Corner")


# --- The profile ---------------------------------------------------------------------------------
def test_a_shopper_sees_and_changes_their_profile(client, shopper):
    change = {
        "latitude": 1.5,
        "longitude": -2.5,
        "phone": "+52 55 1234",
        "notifications_enabled": False,
        "channel": "email",
        "time_zone": "America/Mexico_City",
    }
    assert client.patch("/api/profile/", change).json() == {"segment": "regular", **change}
    assert client.get("/api/profile/").json() == {"segment": "regular", **change}


def test_a_shopper_cannot_give_themselves_a_segment(client, shopper):
    assert client.patch("/api/profile/", {"segment": "new"}).json()["segment"] == "regular"


def test_a_user_without_a_profile_gets_one(client, shopper):
    ShopperProfile.objects.all().delete()
    assert client.get("/api/profile/").json()["segment"] == "new"


@pytest.mark.parametrize("zone", ["Mars/Base", "", "utc+6", "UTC\x00", "../etc/passwd", "x" * 65])
def test_a_time_zone_must_be_known(client, zone):
    response = client.patch("/api/profile/", {"time_zone": zone})
    assert code_of(response) == (400, "invalid")
    assert list(response.json()["error"]["fields"]) == ["time_zone"]


def test_a_time_zone_that_only_python_knows_is_refused(client, monkeypatch):
    monkeypatch.setattr("promotions.selectors.time_zones", lambda: {"Mars/Base"})
    response = client.patch("/api/profile/", {"time_zone": "Mars/Base"})
    assert code_of(response) == (400, "invalid")
    assert "IANA" in response.json()["error"]["fields"]["time_zone"][0]
