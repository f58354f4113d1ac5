"""Promos over HTTP: listed, filtered, written."""

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from promotions.exceptions import PromoClosed
from promotions.models import FlashPromo, Product, Store
from promotions.services.promos import promo_update
from promotions.services.reservations import reservation_create

pytestmark = pytest.mark.django_db

PROMOS = "/api/promos/"
NEW_YORK = {"latitude": 40.71, "longitude": -74.0}


def ids(client: Client, **parameters: Any) -> list[int]:
    response = client.get(PROMOS, parameters)
    assert response.status_code == 200, response.json()
    return [promo["id"] for promo in response.json()["results"]]


def refusal(response: Any) -> Any:
    assert response.status_code == 400, response.content
    return response.json()["error"]


@pytest.fixture
def body(owned) -> dict[str, Any]:
    """What makes a promo, for a product of a store of one's own."""
    product = Product.objects.create(store=owned[0], name="Bread", list_price="100.00")
    return {
        "product": product.pk,
        "promo_price": "60.00",
        "starts_at": "2030-05-01T17:00:00Z",
        "ends_at": "2030-05-01T19:00:00Z",
        "quantity": 20,
    }


# --- Reading -------------------------------------------------------------------------------------
def test_a_promo_shows_what_a_shopper_needs(client, make_promo):
    promo = make_promo(eligible_segments=["new"])
    shown = client.get(f"{PROMOS}{promo.pk}/").json()
    assert shown == {
        "id": promo.pk,
        "product": promo.product_id,
        "product_name": promo.product.name,
        "store": promo.product.store_id,
        "store_name": "Corner",
        "list_price": "100.00",
        "promo_price": "60.00",
        "starts_at": promo.starts_at.isoformat().replace("+00:00", "Z"),
        "ends_at": promo.ends_at.isoformat().replace("+00:00", "Z"),
        "quantity": 10,
        "held": 0,
        "completed": 0,
        "eligible_segments": ["new"],
        "max_distance_km": 2.0,
        "status": "ACTIVE",
        "is_open": True,
        "distance_km": None,
    }


def test_the_newest_promo_comes_first(client, make_promo):
    old, new = make_promo(), make_promo()
    assert ids(client) == [new.pk, old.pk]


@pytest.mark.parametrize("parameters", ["", "?active=true", "?near=19.4326,-99.1332"])
def test_the_listing_asks_twice_however_many_promos(
    client, make_promo, django_assert_num_queries, parameters
):
    for _ in range(7):
        make_promo()
    with django_assert_num_queries(2):
        assert client.get(f"{PROMOS}{parameters}").json()["count"] == 7


def test_active_means_open_at_this_very_moment(client, make_promo):
    now = timezone.now()
    open_now = make_promo()
    closed = [
        make_promo(status="SCHEDULED"),
        make_promo(starts_at=now + timedelta(minutes=1)),
        make_promo(ends_at=now - timedelta(seconds=1)),
        make_promo(status="CANCELLED"),
    ]
    assert ids(client, active="true") == [open_now.pk]
    assert sorted(ids(client, active="false")) == [promo.pk for promo in closed]


def test_of_the_open_promos_the_soonest_to_end_comes_first(client, make_promo):
    now = timezone.now()
    later, sooner = (make_promo(ends_at=now + timedelta(minutes=m)) for m in (20, 10))
    assert ids(client, active="true") == [sooner.pk, later.pk]


def test_segment_means_open_to_that_segment(client, make_promo):
    for_all = make_promo()
    for_new = make_promo(eligible_segments=["frequent", "new"])
    make_promo(eligible_segments=["regular"])
    assert ids(client, segment="new") == [for_new.pk, for_all.pk]


def test_near_means_within_the_promo_s_own_distance(client, make_promo, make_store):
    near = make_promo(max_distance_km=1)
    far_store = make_store(name="Far", latitude=19.4776)  # 5 km north
    make_promo(store=far_store, max_distance_km=4.9)
    far_reaching = make_promo(store=far_store, max_distance_km=5.1)
    assert ids(client, near="19.4326,-99.1332") == [near.pk, far_reaching.pk]


@pytest.mark.parametrize(
    ("store", "place", "km"),
    [
        ((0, 179.99), "0,-179.99", 2.224),
        ((89.99, 0), "89.99,180", 2.224),
        ((-90, 0), "-89.98,77", 2.224),
        ((19.4326, -99.1332), "19.6124,-99.1332", 19.993),
        ((0, 179.9), "0,-179.9", 22.239),
        ((10, 10), "-10,-170", 20_015.115),
    ],
)
def test_near_holds_across_the_antimeridian_the_poles_and_the_globe(
    client, make_promo, make_store, store, place, km
):
    store = make_store(name="There", latitude=store[0], longitude=store[1])
    make_promo(store=store, max_distance_km=km - 0.01)
    reached = make_promo(store=store, max_distance_km=km + 0.01)
    assert ids(client, near=place) == [reached.pk]


def test_near_gives_the_distance(client, make_promo):
    make_promo()
    [promo] = client.get(PROMOS, {"near": "19.4416,-99.1332"}).json()["results"]
    assert promo["distance_km"] == pytest.approx(1.0007, abs=0.001)


def test_store_means_the_promos_of_that_store(client, make_promo, make_store):
    other = make_promo(store=make_store(name="Other"))
    make_promo(store=make_store(name="Third"))
    assert ids(client, store=other.product.store_id) == [other.pk]
    assert ids(client, store=10**30) == []


def test_filters_combine(client, make_promo):
    wanted = make_promo(eligible_segments=["new"])
    make_promo(eligible_segments=["new"], status="EXPIRED")
    make_promo(eligible_segments=["regular"])
    store = wanted.product.store_id
    parameters = {"active": "true", "segment": "new", "near": "19.4326,-99.1332", "store": store}
    assert ids(client, **parameters) == [wanted.pk]


@pytest.mark.parametrize(
    ("parameter", "value", "right"),
    [
        ("active", "yes", "true, false"),
        ("active", "True", "true, false"),
        ("segment", "vip", "new, frequent, regular"),
        ("store", "corner", "number of a store"),
        ("store", "1.5", "number of a store"),
        ("store", "0", "number of a store"),
        ("store", "9" * 5000, "number of a store"),
        ("near", "here", "latitude,longitude"),
        ("near", "19.4", "latitude,longitude"),
        ("near", "19.4,-99.1,7", "latitude,longitude"),
        ("near", "91,0", "latitude,longitude"),
        ("near", "0,-180.1", "latitude,longitude"),
        ("near", "nan,0", "latitude,longitude"),
        ("near", "0,inf", "latitude,longitude"),
        ("near", "\x00", "latitude,longitude"),
        ("page_size", "many", "1 to 100"),
        ("page_size", "0", "1 to 100"),
        ("page_size", "-1", "1 to 100"),
    ],
)
def test_a_bad_parameter_is_named_with_what_would_be_right(client, parameter, value, right):
    error = refusal(client.get(PROMOS, {parameter: value}))
    assert right in error["fields"][parameter][0]
    assert error["message"].startswith(f"{parameter}: ")


@pytest.mark.parametrize("near", ["90,180", "-90,-180", "1e-300,1e-300", " 19.4 , -99.1 "])
def test_every_place_on_earth_can_be_near(client, make_promo, near):
    make_promo(max_distance_km=20_100)
    assert len(ids(client, near=near)) == 1


@pytest.mark.parametrize("key", ["0", "9" * 19, "9" * 5000, "abc", "1.5", "%00", "-1"])
def test_an_unknown_promo_is_404_whatever_its_number(client, key):
    assert client.get(f"{PROMOS}{key}/").status_code == 404


# --- Writing -------------------------------------------------------------------------------------
def test_an_owner_makes_a_promo(client_of, owned, body):
    response = client_of(owned[1]).post(PROMOS, body)
    assert response.status_code == 201, response.json()
    made = FlashPromo.objects.get(pk=response.json()["id"])
    assert (made.status, made.max_distance_km, made.eligible_segments) == ("SCHEDULED", 2.0, [])


def test_segments_are_stored_once_each_and_in_order(client_of, owned, body):
    body["eligible_segments"] = ["regular", "new", "regular"]
    response = client_of(owned[1]).post(PROMOS, body)
    assert response.json()["eligible_segments"] == ["new", "regular"]


def test_the_same_promo_in_other_words_is_refused(client_of, owned, body):
    client = client_of(owned[1])
    client.post(PROMOS, body | {"eligible_segments": ["new", "regular"]})
    error = refusal(client.post(PROMOS, body | {"eligible_segments": ["regular", "new"]}))
    assert "has a promo with this window" in error["message"]


@pytest.mark.parametrize("field", ["status", "held", "completed", "is_open", "id"])
def test_what_tasks_and_triggers_own_cannot_be_written(client_of, owned, body, field):
    client = client_of(owned[1])
    made = client.post(PROMOS, body).json()
    changed = client.patch(f"{PROMOS}{made['id']}/", {field: 7, "quantity": 21}).json()
    assert changed == made | {"quantity": 21}


def test_an_update_leaves_what_a_task_wrote_meanwhile(client_of, owned, make_promo, make_shopper):
    promo = make_promo(store=owned[0], status="SCHEDULED")
    client = client_of(owned[1])
    FlashPromo.objects.filter(pk=promo.pk).update(status="ACTIVE")
    reservation_create(promo_id=promo.pk, shopper_id=make_shopper().pk)
    changed = client.patch(f"{PROMOS}{promo.pk}/", {"quantity": 11}).json()
    assert (changed["status"], changed["held"], changed["quantity"]) == ("ACTIVE", 1, 11)


@pytest.mark.parametrize("status", ["EXPIRED", "CANCELLED", "ARCHIVED"])
def test_a_promo_that_is_over_cannot_be_changed(client_of, owned, make_promo, status):
    promo = make_promo(store=owned[0], status=status)
    response = client_of(owned[1]).patch(f"{PROMOS}{promo.pk}/", {"quantity": 11})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "promo_closed")


def test_a_promo_that_closes_while_it_is_changed_stays_as_it_is(make_promo):
    promo = make_promo()
    FlashPromo.objects.filter(pk=promo.pk).update(status="EXPIRED")
    with pytest.raises(PromoClosed):
        promo_update(promo, quantity=11)
    promo.refresh_from_db()
    assert promo.quantity == 10


def test_a_cancelled_promo_takes_no_reservations(client_of, owned, make_promo, make_shopper):
    promo = make_promo(store=owned[0])
    owner = client_of(owned[1])
    answers = [owner.post(f"{PROMOS}{promo.pk}/cancel/") for _ in range(2)]
    assert [(a.status_code, a.json()["status"]) for a in answers] == [(200, "CANCELLED")] * 2
    response = client_of(make_shopper()).post(f"{PROMOS}{promo.pk}/reserve/")
    assert response.json()["error"]["code"] == "promo_not_active"


def test_a_promo_that_is_over_cannot_be_cancelled(client_of, owned, make_promo):
    promo = make_promo(store=owned[0], status="EXPIRED")
    response = client_of(owned[1]).post(f"{PROMOS}{promo.pk}/cancel/")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "promo_closed")


def test_a_promo_with_reservations_is_not_deleted(client_of, owned, make_promo, make_shopper):
    promo = make_promo(store=owned[0])
    reservation_create(promo_id=promo.pk, shopper_id=make_shopper().pk)
    response = client_of(owned[1]).delete(f"{PROMOS}{promo.pk}/")
    assert response.status_code == 409
    assert response.json() == {
        "error": {
            "code": "still_used",
            "message": "It cannot be deleted while it has reservations.",
        }
    }


def test_a_promo_without_reservations_is_deleted(client_of, owned, make_promo):
    promo = make_promo(store=owned[0])
    assert client_of(owned[1]).delete(f"{PROMOS}{promo.pk}/").status_code == 204
    assert not FlashPromo.objects.exists()


def test_a_product_stays_in_a_store_of_one_s_own(client_of, owned, make_store):
    product = Product.objects.create(store=owned[0], name="Bread", list_price=1)
    foreign = make_store(name="Foreign")
    response = client_of(owned[1]).patch(f"/api/products/{product.pk}/", {"store": foreign.pk})
    assert (response.status_code, response.json()["error"]["code"]) == (403, "permission_denied")


# --- Stores --------------------------------------------------------------------------------------
def test_who_opens_a_store_owns_it(client_of, make_shopper):
    user = make_shopper()
    response = client_of(user).post("/api/stores/", {"name": "Mine", **NEW_YORK})
    assert (response.status_code, response.json()["owner"]) == (201, user.pk)


@pytest.mark.parametrize("owner", ["other", None])
def test_only_staff_give_a_store_to_another(client_of, owned, make_shopper, owner):
    body = {"owner": owner and make_shopper().pk}
    address = f"/api/stores/{owned[0].pk}/"
    assert client_of(owned[1]).patch(address, body).status_code == 403
    staff = make_shopper()
    staff.is_staff = True
    staff.save()
    assert client_of(staff).patch(address, body).json()["owner"] == body["owner"]


def test_an_owner_may_repeat_who_owns_the_store(client_of, owned):
    store, owner = owned
    shown = client_of(owner).get(f"/api/stores/{store.pk}/").json()
    response = client_of(owner).put(f"/api/stores/{store.pk}/", shown | {"name": "Renamed"})
    assert (response.status_code, Store.objects.get().name) == (200, "Renamed")


@pytest.mark.parametrize("kind", ["stores", "products"])
def test_the_catalogue_listings_ask_twice_however_long(
    client, make_promo, make_store, django_assert_num_queries, kind
):
    for name in "abcd":
        make_promo(store=make_store(name=name))
    with django_assert_num_queries(2):
        assert client.get(f"/api/{kind}/").json()["count"] == 4


def test_the_products_of_a_store_are_listed(client, make_promo, make_store):
    wanted = make_promo(store=make_store(name="a")).product
    make_promo(store=make_store(name="b"))
    [product] = client.get("/api/products/", {"store": wanted.store_id}).json()["results"]
    assert product["id"] == wanted.pk
