"""Each rule of the database is a clear 400 of the API, found beforehand or by the database."""

import json
from typing import Any

import pytest
from django.apps import apps

from marketplace.api import NON_FIELD, ConstrainedSerializer
from promotions import exceptions
from promotions.api.serializers import RuledSerializer
from promotions.models import PROMO_PRICE_BELOW_LIST_PRICE, FlashPromo, Product

pytestmark = pytest.mark.django_db

STORE = {"name": "New", "latitude": 1.0, "longitude": 2.0}
PROMO = {
    "promo_price": "60.00",
    "starts_at": "2030-05-01T17:00:00Z",
    "ends_at": "2030-05-01T19:00:00Z",
    "quantity": 20,
}
SAME_PLACE = {"name": "Corner", "latitude": 19.4326, "longitude": -99.1332}
#: For each rule: what to send where, and the field under which the message stands.
BROKEN = {
    "store_latitude_in_range": ("stores", {"latitude": 90.1}, "latitude"),
    "store_longitude_in_range": ("stores", {"longitude": -180.1}, "longitude"),
    "store_name_and_place_unique": ("stores", SAME_PLACE, NON_FIELD),
    "product_name_unique_in_store": ("products", {"name": "Bread"}, NON_FIELD),
    "product_list_price_positive": ("products", {"list_price": "0.00"}, "list_price"),
    "product_stock_not_negative": ("products", {"stock": -1}, "stock"),
    "promo_price_positive": ("promos", {"promo_price": "-1"}, "promo_price"),
    "promo_ends_after_start": ("promos", {"ends_at": PROMO["starts_at"]}, NON_FIELD),
    "promo_quantity_at_least_one": ("promos", {"quantity": 0}, "quantity"),
    "promo_distance_in_range": ("promos", {"max_distance_km": 0}, "max_distance_km"),
    "promo_unique": ("promos", {"ends_at": PROMO["ends_at"]}, NON_FIELD),
    PROMO_PRICE_BELOW_LIST_PRICE: ("promos", {"promo_price": "100.00"}, "promo_price"),
    "promo_units_within_quantity": ("the promo", {"quantity": 2}, "quantity"),
    "shopper_latitude_in_range": ("profile", {"latitude": -91}, "latitude"),
    "shopper_longitude_in_range": ("profile", {"longitude": 181}, "longitude"),
    "shopper_place_whole": ("profile", {"latitude": None}, NON_FIELD),
}
#: A field's own check leaves the constraint nothing to refuse, or nobody may write the field.
BY_FIELD = {"promo_segments_known", "shopper_channel_known"}
NOT_WRITABLE = {
    "promo_status_known",
    "shopper_segment_known",
    "reservation_status_known",
    "reservation_one_hold_a_shopper",
    "notification_status_known",
    "notification_channel_known",
    "notification_one_a_day",
}
MESSAGES = {
    constraint.name: str(constraint.get_violation_error_message())
    for model in apps.get_app_config("promotions").get_models()
    for constraint in model._meta.constraints
} | {PROMO_PRICE_BELOW_LIST_PRICE: str(exceptions.PROMO_PRICE_TOO_HIGH)}


@pytest.fixture(params=["checked", "left to the database"])
def _both_ways(request, monkeypatch):
    """As it is, and as if another request had come between the check and the write."""
    if request.param != "checked":
        for serializer in (ConstrainedSerializer, RuledSerializer):
            monkeypatch.setattr(serializer, "validate", lambda self, attrs: attrs)


@pytest.fixture
def send(client_of, owned, make_promo):
    """Sends a body that is whole but for what is given; returns the response."""
    store, owner = owned
    bread = Product.objects.create(store=store, name="Bread", list_price=100)
    taken = make_promo(product=bread, **PROMO)
    FlashPromo.objects.filter(pk=taken.pk).update(held=3)
    rest = {
        "stores": STORE,
        "products": {"store": store.pk, "name": "Cake", "list_price": "100.00"},
        "promos": {"product": bread.pk, **PROMO, "ends_at": "2030-05-01T20:00:00Z"},
    }

    def post(kind: str, change: dict[str, Any]):
        client = client_of(owner)
        if kind in rest:
            body = json.dumps(rest[kind] | change)
            return client.post(f"/api/{kind}/", body, content_type="application/json")
        address = {
            "profile": "/api/profile/",
            "the promo": f"/api/promos/{taken.pk}/",
            "the product": f"/api/products/{bread.pk}/",
        }[kind]
        return client.patch(address, json.dumps(change), content_type="application/json")

    return post


def test_every_constraint_is_in_the_table():
    assert set(MESSAGES) == BROKEN.keys() | BY_FIELD | NOT_WRITABLE


@pytest.mark.usefixtures("_both_ways")
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_constraint_is_a_clear_400(send, name):
    kind, change, field = BROKEN[name]
    response = send(kind, change)
    message = MESSAGES[name]
    assert (response.status_code, response.json()) == (
        400,
        {
            "error": {
                "code": "invalid",
                "message": message if field == NON_FIELD else f"{field}: {message}",
                "fields": {field: [message]},
            }
        },
    )


@pytest.mark.usefixtures("_both_ways")
def test_a_list_price_stays_above_its_promos(send):
    response = send("the product", {"list_price": "60.00"})
    assert response.status_code == 400
    assert response.json()["error"]["fields"] == {"list_price": [exceptions.LIST_PRICE_TOO_LOW]}
    assert send("the product", {"list_price": "60.01"}).status_code == 200


def test_several_broken_constraints_are_told_together(send):
    response = send("stores", {"latitude": 91, "longitude": 181})
    assert list(response.json()["error"]["fields"]) == ["latitude", "longitude"]


#: What a field cannot be.
IMPOSSIBLE: dict[tuple[str, str], list[Any]] = {
    ("stores", "latitude"): ["nan", "inf", "-Infinity", "1e400", "x", 10**400, [], {}, None],
    ("stores", "name"): ["x" * 201, "\x00", "\ud800", "  ", ["x"]],
    ("products", "list_price"): ["NaN", "Infinity", "1e999", "1.001", 10**11, "9" * 2000, True],
    ("products", "stock"): [2**31, -(10**30), 1.5, "1e3", True],
    ("products", "store"): [0, -1, 10**30, True, "x", [], 1.5, None],
    ("promos", "quantity"): [2**31, "9" * 5000, None],
    ("promos", "max_distance_km"): ["nan", "inf", 20_100.5, -1, None],
    ("promos", "eligible_segments"): [["vip"], "new", [None], {}, None],
    ("promos", "starts_at"): ["soon", "2030-02-30T00:00:00Z", 5, "0001-01-01T00:00:00+14:00"],
    ("promos", "ends_at"): ["9999-12-31T23:59:59-14:00", None],
    ("profile", "channel"): ["sms", "", "\ud800", None, ["email"]],
    ("profile", "notifications_enabled"): ["perhaps", None, []],
    ("profile", "phone"): ["5" * 31],
    ("profile", "latitude"): ["nan"],
}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [(*place, value) for place, values in IMPOSSIBLE.items() for value in values],
)
def test_an_impossible_value_is_refused_under_its_field(send, kind, field, value):
    response = send(kind, {field: value})
    assert response.status_code == 400, response.json()
    [named] = response.json()["error"]["fields"]
    assert named.split(".")[0] == field


@pytest.mark.parametrize("body", [[], [1], "text", 5, True])
def test_a_body_that_is_no_object_is_refused(client_of, make_shopper, body):
    response = client_of(make_shopper()).post("/api/stores/", body, format="json")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid")


@pytest.mark.parametrize("place", [(90, 180), (-90, -180), (1e-300, -1e-300), (5e-324, 0)])
def test_every_place_on_earth_can_be_stored_and_read(client, send, place):
    latitude, longitude = place
    made = send("stores", {"latitude": latitude, "longitude": longitude}).json()
    shown = client.get(f"/api/stores/{made['id']}/").json()
    assert (shown["latitude"], shown["longitude"]) == place
