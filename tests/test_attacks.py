"""What strangers try on every site, tried on every address of this one."""

import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils.http import urlencode
from rest_framework.test import APIClient

from promotions.models import FlashPromo, Product, ShopperProfile, Store
from task_manager.models import TaskTemplate
from tests.world import schema, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

METHODS = ("get", "post", "put", "patch", "delete")


def operations(*methods: str) -> list[tuple[str, str]]:
    return [
        (method, path)
        for path, known in schema()["paths"].items()
        for method in known
        if method in (methods or METHODS)
    ]


def snapshot() -> dict[str, str]:
    """Each table's rows as one number."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        told = {}
        for table in tables:
            if table == "django_session":
                continue
            rows = "coalesce(string_agg(t::text, chr(10) ORDER BY t::text), '')"
            cursor.execute(f'SELECT md5({rows}) FROM "{table}" t')
            told[table] = cursor.fetchone()[0]
    return told


# --- SQL -----------------------------------------------------------------------------------------
SQL = [
    "'",
    '"',
    "\\",
    "1' OR '1'='1",
    '1" OR "1"="1',
    "1; DROP TABLE promotions_store; --",
    "'; CREATE TABLE injected (a int); --",
    "1 UNION SELECT password FROM auth_user --",
    "' UNION SELECT NULL, password FROM auth_user --",
    "id; SELECT pg_sleep(10)",
    "1 AND (SELECT count(*) FROM auth_user) > 0",
    "%' --",
    "%",
    "_",
    "$$",
    "%s",
    "-1",
    "0x1F",
    "1e309",
    "NaN",
    "\x00",
    "\ud800",
    "🙂" * 100,
    "a" * 5000,
]


def parameters(path: str, method: str, place: str) -> list[str]:
    known = schema()["paths"][path][method].get("parameters", [])
    return [parameter["name"] for parameter in known if parameter["in"] == place]


@pytest.mark.parametrize(("method", "path"), operations("get"))
def test_no_filter_takes_sql(client_of, callers, addresses, path, method):
    client: APIClient = client_of(callers["superuser"])
    before = snapshot()
    names = [*parameters(path, method, "query"), "order_by", "format"]
    queries = [{name: text} for name in names for text in SQL]
    queries += [{f"{name}{end}": SQL[3]} for name in names for end in ("__in", "[]", "__regex")]
    for query in queries:
        response = client.get(addresses(path), encoded(query))
        assert response.status_code in (200, 400, 404), (query, response.content)
        assert "md5$" not in text_of(response)  # as passwords begin here
    assert snapshot() == before


def encoded(query: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode(errors="surrogatepass") for name, text in query.items()}


@pytest.mark.parametrize(
    ("method", "path"), [(method, path) for method, path in operations() if "{" in path]
)
def test_no_address_takes_sql(client_of, callers, world, method, path):
    client: APIClient = client_of(callers["superuser"])
    before = snapshot()
    for text in SQL:
        start, end = path[: path.index("{")], path[path.index("}") + 1 :]
        address = start + quoted(text) + end
        response = client.generic(method.upper(), address, "{}", content_type="application/json")
        assert response.status_code in (400, 404, 405), (address, response.content)
    assert snapshot() == before


def quoted(text: str) -> str:
    return (
        urlencode({"": text.encode(errors="surrogatepass")}).removeprefix("=").replace("+", "%20")
    )


def test_no_search_or_filter_of_the_admin_takes_sql(callers, world):
    client = Client()
    client.force_login(callers["superuser"])
    before = snapshot()
    for model, options in admin.site._registry.items():
        page = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        request = client.get(page).wsgi_request
        names = ["q", "o", "p", "all", "id", "pk__in", "user__password__startswith"]
        for each in options.get_list_filter(request):
            name = getattr(each, "parameter_name", None) or (
                each[0] if isinstance(each, tuple) else each
            )
            names += [str(name), f"{name}__exact"]
        for name in names:
            for text in SQL[::3]:
                response = client.get(page, encoded({name: text}))
                # What is no lookup of this page is refused, or leads to the page without it.
                assert response.status_code in (200, 302, 400, 404), (page, name, text)
    assert snapshot() == before


def test_no_field_of_a_body_runs_sql(client_of, callers, world):
    client: APIClient = client_of(callers["superuser"])
    for text in SQL:
        kept = {"name": text, "latitude": 1, "longitude": 2}
        response = client.post("/api/stores/", json.dumps(kept), content_type="application/json")
        assert response.status_code in (201, 400), text
        if response.status_code == 201:
            assert Store.objects.get(pk=response.json()["id"]).name == text.strip()
    with connection.cursor() as cursor:
        assert "injected" not in connection.introspection.table_names(cursor)


@pytest.mark.parametrize(
    ("header", "start"),
    [
        ("Cookie", "sessionid="),
        ("Authorization", "Bearer "),
        ("Accept-Language", ""),
        ("Accept", ""),
    ],
)
def test_no_header_runs_sql(client, world, header, start):
    before = snapshot()
    for text in SQL:
        text = text.replace("\x00", "").encode(errors="replace").decode("latin-1")
        response = client.get("/api/profile/", headers={header: start + text})
        assert response.status_code in (401, 406), text
    assert snapshot() == before


# --- Fields that a client may not set ------------------------------------------------------------
def valid(world: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By address, a body that makes a row."""
    return {
        "/api/stores/": {"name": "new", "latitude": 1, "longitude": 2},
        "/api/products/": {"store": world["store"].pk, "name": "new", "list_price": "9"},
        "/api/promos/": {
            "product": world["product"].pk,
            "promo_price": "5",
            "quantity": 9,
            "starts_at": "2030-05-01T17:00:00Z",
            "ends_at": "2030-05-01T19:00:00Z",
        },
        "/api/tasks/templates/": {"name": "new", "task_name": "a", "module": "m"},
    }


MODELS: dict[str, Any] = {
    "/api/stores/": Store,
    "/api/products/": Product,
    "/api/promos/": FlashPromo,
    "/api/profile/": ShopperProfile,
    "/api/tasks/templates/": TaskTemplate,
}


#: What a client may set; a new field needs its entry here, and every other column is out of reach.
WRITABLE = {
    "/api/stores/": {"name", "owner", "latitude", "longitude"},
    "/api/products/": {"store", "name", "list_price", "stock"},
    "/api/promos/": {
        "product",
        "promo_price",
        "starts_at",
        "ends_at",
        "quantity",
        "eligible_segments",
        "max_distance_km",
    },
    "/api/profile/": {
        "latitude",
        "longitude",
        "phone",
        "notifications_enabled",
        "channel",
        "time_zone",
    },
    "/api/tasks/templates/": {
        "name",
        "task_name",
        "module",
        "description",
        "default_parameters",
        "estimated_duration",
        "notification_settings",
    },
}


@pytest.mark.parametrize("path", sorted(MODELS))
def test_a_client_may_set_what_is_listed_and_nothing_else(path):
    method = "patch" if path == "/api/profile/" else "post"
    content = schema()["paths"][path][method]["requestBody"]["content"]["application/json"]
    name = content["schema"]["$ref"].rpartition("/")[2]
    assert set(schema()["components"]["schemas"][name]["properties"]) == WRITABLE[path]


#: No sequence gets there by itself.
FORGED = 2_000_000_077


def forbidden(path: str) -> dict[str, Any]:
    """Each other column of the model, with a value that it might take."""
    values: dict[str, Any] = {}
    for field in MODELS[path]._meta.concrete_fields:
        if field.name in WRITABLE[path]:
            continue
        value: Any = {
            "DateTimeField": "2001-01-01T00:00:00Z",
            "BooleanField": True,
            "CharField": str(field.choices[-1][0]) if field.choices else "forged",
        }.get(field.get_internal_type(), FORGED)
        values[field.name] = values[field.attname] = value
    return values


#: What is on users and on nothing that a client writes.
OF_USERS = {"is_staff": True, "is_superuser": True, "password": "forged", "username": "forged"}


def column_values(row: Any, names: Any) -> dict[str, Any]:
    row.refresh_from_db()
    columns = {field.attname for field in row._meta.concrete_fields} & set(names) - {"updated_at"}
    return {name: getattr(row, name) for name in columns}


def test_the_models_are_those_that_the_schema_writes():
    """A new operation with a body needs an entry, or a reason not to have one."""
    bodies = {
        path.partition("{")[0]
        for method, path in operations("post", "put", "patch")
        if "requestBody" in schema()["paths"][path][method]
    }
    assert bodies == MODELS.keys() | {"/api/token/", "/api/token/refresh/"}


@pytest.mark.parametrize("path", sorted(MODELS.keys() - {"/api/profile/"}))
def test_what_a_client_may_not_set_is_not_set_in_a_new_row(client_of, callers, world, path):
    client: APIClient = client_of(callers["staff" if "tasks" in path else "owner"])
    extra = forbidden(path) | OF_USERS
    body = valid(world)[path]
    plain = client.post(path, body).json()
    MODELS[path].objects.filter(**plain_key(path, plain)).delete()
    response = client.post(path, extra | body)
    assert response.status_code == 201, response.content
    row = MODELS[path].objects.get(**plain_key(path, response.json()))
    values = column_values(row, extra)
    assert not [name for name, value in values.items() if value in (FORGED, "forged")]
    assert getattr(row, "status", "") in ("", "SCHEDULED")
    assert getattr(row, "held", 0) == getattr(row, "completed", 0) == 0
    assert not User.objects.exclude(username="superuser").filter(is_superuser=True).exists()


def plain_key(path: str, told: dict[str, Any]) -> dict[str, Any]:
    return {"name": told["name"]} if "templates" in path else {"pk": told["id"]}


@pytest.mark.parametrize("path", sorted(MODELS))
def test_what_a_client_may_not_set_is_not_changed(client_of, callers, world, path):
    client: APIClient = client_of(callers["staff" if "tasks" in path else "owner"])
    model = MODELS[path]
    row = world[model._meta.model_name]
    address = (
        path if path == "/api/profile/" else f"{path}{row.name if 'tasks' in path else row.pk}/"
    )
    extra = forbidden(path) | OF_USERS
    before = column_values(row, extra)
    response = client.patch(address, extra)
    assert response.status_code == 200, response.content
    assert column_values(row, extra) == before


# --- Redirects -----------------------------------------------------------------------------------
ELSEWHERE = [
    "https://evil.example/",
    "http://evil.example",
    "//evil.example/",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https:evil.example",
    "https:///evil.example",
    "javascript:alert(1)",
    "data:text/html,a",
    "\thttps://evil.example",
    " //evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "http://testserver@evil.example/",
    "http://testserver.evil.example/",
    "https://[evil.example",
    "/%0d%0aSet-Cookie:%20a=b",
    "/a\r\nSet-Cookie: a=b",
]


@pytest.mark.parametrize("place", ["query", "form"])
@pytest.mark.parametrize("way", ["/admin/login/", "/api/auth/login/"])
@pytest.mark.parametrize("target", ELSEWHERE)
def test_signing_in_leads_nowhere_else(callers, way, target, place):
    client = Client()
    callers["superuser"].set_password("right")
    callers["superuser"].save()
    form = {"username": "superuser", "password": "right"}
    address = f"{way}?{urlencode({'next': target})}" if place == "query" else way
    response = client.post(address, form | ({"next": target} if place == "form" else {}))
    assert response.status_code == 302
    assert is_local(response["location"])
    assert "a" not in client.cookies


def is_local(location: str) -> bool:
    """As a browser reads it, which takes backslashes for slashes and leaves out what is no text."""
    read = location.replace("\\", "/").translate(dict.fromkeys(range(33), None))
    parts = urlsplit(read)
    return not parts.netloc and not parts.scheme and not read.startswith("//")


def test_a_page_of_ours_is_led_to():
    assert is_local("/admin/promotions/")
    assert not any(map(is_local, ["//evil.example", "/\\evil.example", "https://evil.example"]))


@pytest.mark.parametrize(
    "address",
    [
        "//evil.example/admin",
        "//evil.example/api/promos",
        "/\\evil.example/admin",
        "/admin//evil.example",
        "/api//evil.example/..",
        "/%2F%2Fevil.example/admin",
        "/admin/%0d%0aSet-Cookie:%20a=b",
        "/api/promos%0d%0aSet-Cookie:%20a=b",
        "/api/promos?%0d%0aSet-Cookie:%20a=b",
    ],
)
def test_a_missing_slash_leads_nowhere_else(client, address):
    response = client.get(address)
    assert response.status_code in (301, 302, 400, 404)
    if "location" in response:
        assert is_local(response["location"])
        assert not {"\r", "\n"} & set(response["location"])
    assert not response.cookies


# --- Other sites' pages --------------------------------------------------------------------------
#: Whoever may use these is told by what they send in the body, not by a cookie.
WITHOUT_SESSION = {"/api/token/", "/api/token/refresh/"}
UNSAFE = [
    operation
    for operation in operations("post", "put", "patch", "delete")
    if operation[1] not in WITHOUT_SESSION
]
FROM_ELSEWHERE: list[dict[str, str]] = [
    {},
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"origin": "https://testserver.evil.example", "sec-fetch-site": "same-site"},
    {"referer": "https://evil.example/"},
    {"origin": "https://evil.example", "x-requested-with": "XMLHttpRequest"},
]


@pytest.mark.parametrize(("method", "path"), UNSAFE)
def test_another_site_s_page_does_nothing_with_the_session(callers, addresses, method, path):
    client = Client(enforce_csrf_checks=True)
    client.force_login(callers["superuser"])
    before = snapshot()
    for secure in (False, True):
        for headers in FROM_ELSEWHERE:
            for kind in ("application/json", "application/x-www-form-urlencoded"):
                response = client.generic(
                    method.upper(), addresses(path), "{}", kind, headers=headers, secure=secure
                )
                assert response.status_code == 403, (headers, kind)
    assert snapshot() == before


def test_another_site_s_page_does_nothing_in_the_admin(callers, world):
    client = Client(enforce_csrf_checks=True)
    client.force_login(callers["superuser"])
    before = snapshot()
    for row in world.values():
        start = f"admin:{row._meta.app_label}_{row._meta.model_name}"
        for page in ("changelist", "add", "change", "delete"):
            arguments = [row.pk] if page in ("change", "delete") else []
            for headers in FROM_ELSEWHERE:
                address = reverse(f"{start}_{page}", args=arguments)
                response = client.post(address, {"post": "yes"}, headers=headers)
                assert response.status_code == 403, address
    assert snapshot() == before


@pytest.mark.parametrize("way", ["/admin/login/", "/api/auth/login/", "/admin/logout/"])
def test_another_site_s_page_signs_nobody_in_or_out(callers, way):
    client = Client(enforce_csrf_checks=True)
    client.force_login(callers["superuser"])
    for headers in FROM_ELSEWHERE:
        form = {"username": "owner", "password": "pass"}
        assert client.post(way, form, headers=headers).status_code == 403
    assert client.get("/api/profile/").status_code == 200


@pytest.mark.parametrize(("method", "path"), [*operations(), ("get", "/admin/"), ("get", "/")])
def test_no_other_site_s_script_reads_an_answer(client_of, callers, addresses, method, path):
    client: APIClient = client_of(callers["superuser"])
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for asked in ("OPTIONS", "GET"):
        response = client.generic(asked, addresses(path), headers=headers)
        assert not [name for name in response.headers if name.lower().startswith("access-control")]


# --- Methods, hosts ------------------------------------------------------------------------------
OVERRIDES: list[dict[str, Any]] = [
    {"headers": {name: "DELETE"}}
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override")
]


@pytest.mark.parametrize("method", ["get", "post"])
def test_no_header_or_field_makes_it_another_method(client_of, callers, world, method):
    client: APIClient = client_of(callers["superuser"])
    address = f"/api/products/{world['product'].pk}/"
    expected = {"get": 200, "post": 405}[method]
    for options in OVERRIDES:
        assert getattr(client, method)(address, **options).status_code == expected
    for name in ("_method", "_http_method", "X-HTTP-Method-Override"):
        response = getattr(client, method)(f"{address}?{name}=DELETE", {name: "DELETE"})
        assert response.status_code == expected
    assert Product.objects.filter(pk=world["product"].pk).exists()


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "DEBUG", "A" * 50])
def test_no_other_method_does_anything(client, world, method):
    assert client.generic(method, f"/api/products/{world['product'].pk}/").status_code in (401, 405)


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-host": "evil.example"},
        {"x-host": "evil.example"},
        {"x-original-url": "/admin/"},
        {"x-rewrite-url": "/admin/"},
        {"x-forwarded-prefix": "//evil.example"},
        {"x-script-name": "//evil.example"},
    ],
)
def test_no_header_makes_it_another_host_or_address(client, make_store, headers):
    for number in range(3):
        make_store(name=str(number))
    page = client.get("/api/stores/?page_size=1", headers=headers).json()
    assert page["next"] == "http://testserver/api/stores/?page=2&page_size=1"


@pytest.mark.parametrize(
    "host", ["evil.example", "testserver.evil.example", "testserver:80@evil", ""]
)
def test_a_host_that_is_not_ours_is_refused(client, host):
    assert client.get("/api/stores/", headers={"host": host}).status_code == 400


# --- The world itself ----------------------------------------------------------------------------
def test_the_snapshot_sees_a_change(world):
    before = snapshot()
    Store.objects.filter(pk=world["store"].pk).update(name="other")
    assert {name for name, told in snapshot().items() if told != before[name]} == {
        "promotions_store"
    }
