"""Who may do what: one table of every endpoint, method and caller."""

import json
from typing import Any

import pytest
from drf_spectacular.generators import SchemaGenerator

from promotions.models import FlashPromo, Product
from promotions.services.reservations import reservation_create

pytestmark = pytest.mark.django_db

#: The API asks whether somebody is staff, and not for permissions, so a superuser may no more.
CALLERS = ("anonymous", "other", "owner", "staff", "superuser")
PLACE = {"latitude": 1, "longitude": 2}
PROMO = {"product": "{product}", "promo_price": 5, "quantity": 9, **PLACE}
WINDOW = {"starts_at": "2030-05-01T17:00:00Z", "ends_at": "2030-05-01T19:00:00Z"}

#: The status for each of CALLERS, the superuser's being that of staff. `{store}` and the like stand
#: for the owner's rows, and `{reservation}` for a unit that the owner holds.
TABLE: dict[tuple[str, str], tuple[dict[str, Any] | None, tuple[int, int, int, int]]] = {
    ("GET", "/api/stores/"): (None, (200, 200, 200, 200)),
    ("POST", "/api/stores/"): ({"name": "New", **PLACE}, (401, 201, 201, 201)),
    ("GET", "/api/stores/{store}/"): (None, (200, 200, 200, 200)),
    ("PUT", "/api/stores/{store}/"): ({"name": "New", **PLACE}, (401, 403, 200, 200)),
    ("PATCH", "/api/stores/{store}/"): ({"name": "New"}, (401, 403, 200, 200)),
    ("DELETE", "/api/stores/{empty_store}/"): (None, (401, 403, 204, 204)),
    ("GET", "/api/products/"): (None, (200, 200, 200, 200)),
    ("POST", "/api/products/"): (
        {"store": "{store}", "name": "New", "list_price": 9},
        (401, 403, 201, 201),
    ),
    ("GET", "/api/products/{product}/"): (None, (200, 200, 200, 200)),
    ("PUT", "/api/products/{product}/"): (
        {"store": "{store}", "name": "New", "list_price": 100},
        (401, 403, 200, 200),
    ),
    ("PATCH", "/api/products/{product}/"): ({"stock": 3}, (401, 403, 200, 200)),
    ("DELETE", "/api/products/{bare_product}/"): (None, (401, 403, 204, 204)),
    ("GET", "/api/promos/"): (None, (200, 200, 200, 200)),
    ("POST", "/api/promos/"): (PROMO | WINDOW, (401, 403, 201, 201)),
    ("GET", "/api/promos/{promo}/"): (None, (200, 200, 200, 200)),
    ("PUT", "/api/promos/{promo}/"): (PROMO | WINDOW, (401, 403, 200, 200)),
    ("PATCH", "/api/promos/{promo}/"): ({"quantity": 8}, (401, 403, 200, 200)),
    ("DELETE", "/api/promos/{bare_promo}/"): (None, (401, 403, 204, 204)),
    ("POST", "/api/promos/{bare_promo}/reserve/"): (None, (401, 201, 201, 201)),
    ("POST", "/api/promos/{promo}/cancel/"): (None, (401, 403, 200, 200)),
    ("GET", "/api/reservations/"): (None, (401, 200, 200, 200)),
    ("GET", "/api/reservations/{reservation}/"): (None, (401, 404, 200, 404)),
    ("POST", "/api/reservations/{reservation}/complete/"): (None, (401, 404, 200, 404)),
    ("POST", "/api/reservations/{reservation}/cancel/"): (None, (401, 404, 200, 404)),
    ("GET", "/api/notifications/"): (None, (401, 200, 200, 200)),
    ("GET", "/api/profile/"): (None, (401, 200, 200, 200)),
    ("PATCH", "/api/profile/"): ({"phone": "5"}, (401, 200, 200, 200)),
    ("POST", "/api/token/"): (
        {"username": "owner", "password": "pass"},
        (200, 200, 200, 200),
    ),
    ("POST", "/api/token/refresh/"): ({"refresh": "wrong"}, (401, 401, 401, 401)),
    # Open to all, and in no schema.
    ("GET", "/api/"): (None, (200, 200, 200, 200)),
    ("GET", "/api/schema/"): (None, (200, 200, 200, 200)),
    ("GET", "/api/schema/swagger/"): (None, (200, 200, 200, 200)),
    ("GET", "/api/auth/login/"): (None, (200, 200, 200, 200)),
}


@pytest.fixture
def rows(callers, make_store, make_promo) -> dict[str, int]:
    owner = callers["owner"]
    store, empty_store = (make_store(name=name, owner=owner) for name in ("a", "b"))
    promo, bare_promo = (make_promo(store=store) for _ in range(2))
    held = reservation_create(promo_id=promo.pk, shopper_id=owner.pk)
    bare_product = Product.objects.create(store=store, name="bare", list_price=1)
    return {
        "store": store.pk,
        "empty_store": empty_store.pk,
        "product": promo.product_id,
        "bare_product": bare_product.pk,
        "promo": promo.pk,
        "bare_promo": bare_promo.pk,
        "reservation": held.pk,
    }


def cases() -> list[Any]:
    return [
        pytest.param(method, path, body, caller, status, id=f"{method} {path} {caller} {status}")
        for (method, path), (body, statuses) in TABLE.items()
        for caller, status in zip(CALLERS, (*statuses, statuses[-1]), strict=True)
    ]


@pytest.mark.parametrize(("method", "path", "body", "caller", "status"), cases())
def test_who_may_do_what(client_of, callers, rows, method, path, body, caller, status):
    filled = {
        key: value.format(**rows) if isinstance(value, str) else value
        for key, value in (body or {}).items()
    }
    before = FlashPromo.objects.count(), Product.objects.count()
    response = client_of(callers[caller]).generic(
        method, path.format(**rows), json.dumps(filled), content_type="application/json"
    )
    assert response.status_code == status, response.content
    if status >= 400:
        assert set(response.json()["error"]) == {"code", "message"}
        assert (FlashPromo.objects.count(), Product.objects.count()) == before


def test_the_table_has_every_operation_of_the_schema():
    schema = SchemaGenerator().get_schema(  # type: ignore[no-untyped-call]
        request=None, public=True
    )
    operations = {
        (method.upper(), path.replace("{id}", "{}"))
        for path, methods in schema["paths"].items()
        for method in methods
        if not path.startswith(("/api/tasks/", "/api/telemetry/"))
    }
    listed = {(method, without_names(path)) for method, path in TABLE}
    assert operations <= listed


def without_names(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize("path", sorted({path for _method, path in TABLE if "auth" not in path}))
def test_every_other_method_is_405_for_staff(client_of, callers, rows, path):
    allowed = {m for m, p in TABLE if without_names(p) == without_names(path)}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
        response = client_of(callers["staff"]).generic(method, path.format(**rows))
        assert response.status_code == 405, method
        assert response.json()["error"]["code"] == "method_not_allowed"
