"""The admin's pages: all there, few queries each, and no way around tasks and triggers."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.urls import reverse
from django.utils import timezone

from promotions import exceptions
from promotions.models import (
    FlashPromo,
    Notification,
    Product,
    Reservation,
    ShopperProfile,
    Store,
)
from promotions.services.reservations import reservation_create

pytestmark = pytest.mark.django_db

ADDABLE = [Store, Product, FlashPromo]
NOT_ADDABLE = [ShopperProfile, Reservation, Notification]
MODELS = ADDABLE + NOT_ADDABLE


@pytest.fixture
def rows(make_promo, make_shopper, make_store) -> None:
    """Some of everything."""
    for number in range(5):
        shopper = make_shopper(f"shopper-{number}")
        store = make_store(name=f"Store {number}", owner=shopper)
        promo = make_promo(store=store, max_distance_km=20_000)
        reservation_create(promo_id=promo.pk, shopper_id=shopper.pk)
        Notification.objects.create(
            promo=promo, shopper=shopper, local_day=timezone.now(), channel="email", status="FAILED"
        )


def page(model: Any, name: str, *args: Any) -> str:
    return reverse(f"admin:promotions_{model._meta.model_name}_{name}", args=args)


def change(client, row, **fields: Any):
    """Sends the row's form with some fields changed; returns the messages, or None when saved."""
    form = client.get(page(type(row), "change", row.pk)).context["adminform"].form
    data: dict[str, Any] = {}
    for field in form:
        value = fields.get(field.name, field.value())
        if isinstance(value, list):
            data[field.html_name] = value
        elif hasattr(value, "isoformat"):
            data[f"{field.html_name}_0"] = f"{value:%Y-%m-%d}"
            data[f"{field.html_name}_1"] = f"{value:%H:%M:%S}"
        elif value is not None and value is not False:
            data[field.html_name] = value
    response = client.post(page(type(row), "change", row.pk), data)
    if response.status_code == 302:
        return None
    errors = response.context["adminform"].form.errors.as_data()
    return [message for found in errors.values() for e in found for message in e.messages]


def act(client, model, action: str):
    data = {"action": action, "_selected_action": [row.pk for row in model.objects.all()]}
    return client.post(page(model, "changelist"), data, follow=True)


# --- The pages -----------------------------------------------------------------------------------
def test_every_model_is_in_the_admin():
    registered = {model for model in admin.site._registry if model._meta.app_label == "promotions"}
    assert registered == set(MODELS)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("model", MODELS)
def test_a_listing_asks_little_however_many_rows(
    admin_client, model, django_assert_max_num_queries
):
    with django_assert_max_num_queries(5):  # session, user, count, page, and the profile's own
        response = admin_client.get(page(model, "changelist"))
    assert response.status_code == 200
    assert response.context["cl"].result_count == model.objects.count()


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("model", MODELS)
def test_a_listing_can_be_searched_and_filtered(admin_client, model):
    assert admin_client.get(page(model, "changelist"), {"q": "shopper-1"}).status_code == 200
    for name in admin.site._registry[model].list_filter:
        parameters = {f"{name}__exact": "x", "q": "\x00"}
        assert admin_client.get(page(model, "changelist"), parameters).status_code in (200, 302)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("model", MODELS)
def test_a_row_has_its_page(admin_client, model, django_assert_max_num_queries):
    address = page(model, "change", model.objects.first().pk)
    with django_assert_max_num_queries(10):
        assert admin_client.get(address).status_code == 200


@pytest.mark.parametrize("model", ADDABLE)
def test_the_catalogue_can_be_added_to(admin_client, model):
    assert admin_client.get(page(model, "add")).status_code == 200


@pytest.mark.parametrize("model", NOT_ADDABLE)
def test_what_the_system_writes_cannot_be_added(admin_client, model):
    assert admin_client.get(page(model, "add")).status_code == 403


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("model", [Reservation, Notification])
def test_what_the_system_writes_cannot_be_changed(admin_client, model):
    row = model.objects.earliest("pk")
    response = admin_client.post(page(model, "change", row.pk), {"status": "COMPLETED"})
    assert (response.status_code, model.objects.get(pk=row.pk).status) == (403, row.status)


@pytest.mark.usefixtures("rows")
def test_a_reservation_cannot_be_deleted(admin_client):
    row = Reservation.objects.earliest("pk")
    assert (
        admin_client.post(page(Reservation, "delete", row.pk), {"post": "yes"}).status_code == 403
    )


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("model", "field"),
    [("product", "store"), ("flashpromo", "product"), ("store", "owner")],
)
def test_a_reference_is_chosen_by_search(admin_client, model, field):
    parameters = {"app_label": "promotions", "model_name": model, "field_name": field, "term": "1"}
    response = admin_client.get(reverse("admin:autocomplete"), parameters)
    assert len(response.json()["results"]) == 1


# --- Promos --------------------------------------------------------------------------------------
def test_a_promo_is_added(admin_client, make_promo):
    product = make_promo().product
    data = {
        "product": product.pk,
        "promo_price": "60",
        "quantity": "5",
        "eligible_segments": ["regular", "new"],
        "max_distance_km": "3",
        **{f"starts_at_{n}": part for n, part in enumerate(("2030-05-01", "17:00"))},
        **{f"ends_at_{n}": part for n, part in enumerate(("2030-05-01", "19:00"))},
    }
    assert admin_client.post(page(FlashPromo, "add"), data).status_code == 302
    promo = FlashPromo.objects.latest("pk")
    assert (promo.eligible_segments, promo.status) == (["new", "regular"], "SCHEDULED")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("quantity", 2, "More units are held or sold than the quantity."),
        ("quantity", 0, "The quantity must be at least 1."),
        ("promo_price", 100, exceptions.PROMO_PRICE_TOO_HIGH),
        ("max_distance_km", 20_101, "The distance must be above 0 and at most 20100 km."),
        ("max_distance_km", "nan", "Enter a number."),
        ("eligible_segments", ["vip"], "Select a valid choice."),
    ],
)
def test_the_form_of_a_promo_says_what_the_database_would_refuse(
    admin_client, make_promo, field, value, message
):
    promo = make_promo()
    FlashPromo.objects.filter(pk=promo.pk).update(held=3)
    errors = change(admin_client, promo, **{field: value})
    assert any(str(message) in found for found in errors)


def test_a_list_price_stays_above_its_promos(admin_client, make_promo):
    errors = change(admin_client, make_promo().product, list_price=60)
    assert errors == [exceptions.LIST_PRICE_TOO_LOW]


def test_a_change_of_a_promo_leaves_what_a_task_writes_meanwhile(admin_client, make_promo):
    promo = make_promo(status="SCHEDULED")

    class Meanwhile:
        """The client, before whose post a task opens the promo and a shopper holds a unit."""

        get = admin_client.get

        def post(self, *args: Any):
            FlashPromo.objects.update(status="ACTIVE", held=1)
            return admin_client.post(*args)

    assert change(Meanwhile(), promo, quantity=7) is None
    promo.refresh_from_db()
    assert (promo.quantity, promo.status, promo.held) == (7, "ACTIVE", 1)


@pytest.mark.parametrize("status", ["EXPIRED", "CANCELLED", "ARCHIVED"])
def test_a_promo_that_is_over_is_only_shown(admin_client, make_promo, status):
    promo = make_promo(status=status)
    assert admin_client.get(page(FlashPromo, "change", promo.pk)).status_code == 200
    assert admin_client.post(page(FlashPromo, "change", promo.pk), {}).status_code == 403


def test_promos_are_cancelled_together(admin_client, make_promo):
    for status in ("SCHEDULED", "ACTIVE", "EXPIRED"):
        make_promo(status=status)
    response = act(admin_client, FlashPromo, "cancel")
    assert "2 promos cancelled." in response.text
    statuses = FlashPromo.objects.order_by("pk").values_list("status", flat=True)
    assert list(statuses) == ["CANCELLED", "CANCELLED", "EXPIRED"]


def test_the_segments_are_ticked(admin_client, make_promo):
    promo = make_promo(eligible_segments=["regular"])
    shown = admin_client.get(page(FlashPromo, "change", promo.pk)).text
    assert shown.count('type="checkbox" name="eligible_segments"') == 3
    assert change(admin_client, promo, eligible_segments=["regular", "frequent"]) is None
    promo.refresh_from_db()
    assert promo.eligible_segments == ["frequent", "regular"]


# --- Notifications -------------------------------------------------------------------------------
@pytest.mark.usefixtures("rows")
def test_failed_notifications_are_published_again(admin_client):
    delivered = Notification.objects.earliest("pk")
    Notification.objects.filter(pk=delivered.pk).update(status="DELIVERED")
    response = act(admin_client, Notification, "publish_again")
    assert "4 notifications will be published again." in response.text
    assert Notification.objects.filter(status="PENDING", published_at=None).count() == 4
    assert Notification.objects.get(pk=delivered.pk).status == "DELIVERED"


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(
    ("model", "action"), [(FlashPromo, "cancel"), (Notification, "publish_again")]
)
def test_who_may_only_look_may_not_act(client, model, action):
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view"))
    client.force_login(viewer)
    act(client, model, action)
    assert not model.objects.filter(status__in=["CANCELLED", "PENDING"]).exists()
    assert client.get(page(model, "changelist")).status_code == 200


# --- Shoppers ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("time_zone", "Mars/Base", exceptions.TIME_ZONE_UNKNOWN),
        ("latitude", 91, "The latitude must be between -90 and 90 degrees."),
        ("longitude", "", "Give both latitude and longitude, or neither."),
    ],
)
def test_the_form_of_a_profile_says_what_the_database_would_refuse(
    admin_client, make_shopper, field, value, message
):
    errors = change(admin_client, make_shopper().shopper_profile, **{field: value})
    assert any(str(message) in found for found in errors)


def test_staff_give_a_shopper_their_segment(admin_client, make_shopper):
    profile = make_shopper().shopper_profile
    assert change(admin_client, profile, segment="frequent") is None
    profile.refresh_from_db()
    assert profile.segment == "frequent"


def test_a_store_with_products_is_not_deleted(admin_client, make_promo):
    store = make_promo(ends_at=timezone.now() + timedelta(days=1)).product.store
    response = admin_client.post(page(Store, "delete", store.pk), {"post": "yes"})
    assert (response.status_code, Store.objects.count()) == (200, 1)
