"""Who may reach what: every address of the site, walked from its URLs, for everybody.

The tables of the API's operations stand with the apps (`test_api_permissions.py`), and have every
operation of the schema. Here is what is in no schema: that nothing else exists, the admin by
permission, and that nobody reads on a page of theirs what is somebody else's.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.contrib.contenttypes.models import ContentType
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from rest_framework.test import APIClient

from tests.world import schema, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

#: In no schema; who may: marketplace/tests/test_api.py, test_metrics.py and test_logins.py.
ELSEWHERE = {
    "",
    "metrics",
    "api/",
    "^api(/|$)",
    "api/schema/",
    "api/schema/swagger/",
    "api/auth/login/",
    "api/auth/logout/",
}


def routes(patterns: Any = None, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for pattern in get_resolver().url_patterns if patterns is None else patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from routes(pattern.url_patterns, route)
        else:
            yield route, pattern


def without_names(route: str) -> str:
    return "/".join(
        "{}" if part[:1] in ("<", "{") else part for part in route.strip("/").split("/")
    )


def test_every_address_is_in_a_table():
    """A new one needs an entry: in the schema and its app's table, in the admin, or above."""
    in_schema = {without_names(path) for path in schema()["paths"]}
    unknown = [
        route
        for route, _ in routes()
        if not route.startswith("admin/")
        and route not in ELSEWHERE
        and without_names(route) not in in_schema
    ]
    assert unknown == []


# --- The admin -----------------------------------------------------------------------------------
ADMIN = [route for route, _ in routes() if route.startswith("admin/")]
#: Open to whoever is not signed in; and, to any staff, beside what permissions open.
OPEN = {"admin/login/"}
OWN = {
    "admin/",
    "admin/logout/",
    "admin/password_change/",
    "admin/password_change/done/",
    "admin/jsi18n/",
}


def address(route: str, world: dict[str, Any]) -> str:
    """The route with the rows of the world in the place of its parameters."""
    model = route.split("/")[2] if route.count("/") > 2 else ""
    owner_type = ContentType.objects.get_for_model(User)
    filled = (
        route.replace("<path:object_id>", str(world[model].pk) if model in world else "1")
        .replace("<path:content_type_id>", str(owner_type.pk))
        .replace("<id>", str(world["user"].pk))
        .replace("(?P<url>.*)$", "nothing/")
    )
    filled = re.sub(r"\^\(\?P<app_label>[^)]*\)/\$", "auth/", filled)
    assert not set("<(^") & set(filled), f"an admin address of another form: {route}"
    return f"/{filled}"


def client_for(user: User | None) -> Client:
    client = Client()
    if user:
        client.force_login(user)
    return client


def counts(world: dict[str, Any]) -> dict[str, int]:
    return {name: type(row)._default_manager.count() for name, row in world.items()}


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("caller", ["anonymous", "other", "owner"])
def test_only_staff_come_into_the_admin(callers, world, caller, method):
    before = counts(world)
    for route in (route for route in ADMIN if route not in OPEN):
        response = getattr(client_for(callers[caller]), method)(address(route, world))
        assert response.status_code == 302, route
        # Signing out leads there as well.
        assert response["location"].startswith("/admin/"), route
        assert "/login/" in response["location"] or route == "admin/logout/", route
    assert counts(world) == before


@pytest.mark.parametrize("method", ["get", "post"])
def test_staff_without_permissions_see_nothing_in_the_admin(callers, world, method):
    client, before = client_for(callers["staff"]), counts(world)
    for route in (route for route in ADMIN if route not in OPEN | OWN):
        response = getattr(client, method)(address(route, world), {"post": "yes"})
        # What leads to a page elsewhere, or to none, tells nothing.
        assert response.status_code in ((302, 403, 404, 405) if is_way(route) else (403,)), route
        assert "marker" not in response.content.decode(), route
    assert counts(world) == before


def is_way(route: str) -> bool:
    """Whether a route has no page of its own."""
    return (
        route.startswith("admin/r/")
        or route.endswith(("(?P<url>.*)$", "<path:object_id>/", "autocomplete/"))
        or "app_label" in route
    )


@pytest.mark.parametrize("route", sorted(OWN - {"admin/logout/"}))
def test_staff_without_permissions_have_their_own_pages(callers, world, route):
    response = client_for(callers["staff"]).get(f"/{route}")
    assert response.status_code == 200
    assert "marker" not in response.content.decode()


MODELS = [model._meta.model_name for model in admin.site._registry]


@pytest.mark.parametrize("model", MODELS)
def test_a_permission_to_view_opens_that_model_to_reading_and_no_other(callers, world, model):
    staff = callers["staff"]
    staff.user_permissions.add(Permission.objects.get(codename=f"view_{model}"))
    client = client_for(staff)
    for name, row in world.items():
        opts = row._meta
        start = f"admin:{opts.app_label}_{opts.model_name}"
        pages = [reverse(f"{start}_changelist"), reverse(f"{start}_change", args=[row.pk])]
        expected = 200 if name == model else 403
        assert [client.get(page).status_code for page in pages] == [expected] * 2, name
        writes = [*pages, reverse(f"{start}_delete", args=[row.pk]), reverse(f"{start}_add")]
        answers = [client.post(page, {"post": "yes"}).status_code for page in writes[1:]]
        assert answers == [403] * 3, name
        assert type(row)._default_manager.filter(pk=row.pk).exists()


@pytest.mark.parametrize("model", MODELS)
def test_a_permission_to_view_gives_no_action(callers, world, model):
    staff = callers["staff"]
    staff.user_permissions.add(Permission.objects.get(codename=f"view_{model}"))
    row = world[model]
    page = reverse(f"admin:{row._meta.app_label}_{model}_changelist")
    before = type(row)._default_manager.filter(pk=row.pk).values().get()
    for action in ("delete_selected", "cancel", "requeue", "discard", "deliver_again"):
        client_for(staff).post(page, {"action": action, "_selected_action": [row.pk]})
    assert type(row)._default_manager.filter(pk=row.pk).values().get() == before


def test_every_model_of_the_admin_is_in_the_world(world):
    assert set(MODELS) == set(world)


def test_a_superuser_sees_every_page_that_there_is(callers, world):
    client = client_for(callers["superuser"])
    for route in (route for route in ADMIN if route not in OPEN | {"admin/logout/"}):
        status = client.get(address(route, world)).status_code
        # What tasks write is not edited by hand, not even by a superuser.
        is_free = is_way(route) or route.endswith(("add/", "delete/", "password/"))
        assert status in ((200, 302, 403, 404) if is_free else (200,)), route


# --- What is somebody else's ---------------------------------------------------------------------
def readable() -> list[str]:
    return [path for path, methods in schema()["paths"].items() if "get" in methods]


@pytest.mark.parametrize("caller", ["anonymous", "other"])
@pytest.mark.parametrize("accept", ["application/json", "text/html"])
def test_nobody_else_reads_what_is_the_owner_s(client_of, callers, addresses, caller, accept):
    client: APIClient = client_of(callers[caller])
    for path in readable():
        for query in ({}, {"user": callers["owner"].pk}, {"search": "marker"}):
            response = client.get(addresses(path), query, headers={"accept": accept})
            # The page for the browser repeats what was asked for.
            text = re.sub(
                r"marker-(task|template)|search=marker|value=.marker.", "", text_of(response)
            )
            assert "marker" not in text, path


def test_the_owner_and_staff_do_read_it(client_of, callers, addresses):
    """So that the test above is not passed by a world without anything to see."""

    def seen(caller: str) -> set[str]:
        client = client_of(callers[caller])
        answers = {path: client.get(addresses(path)) for path in readable()}
        return {path for path, answer in answers.items() if "marker" in text_of(answer)}

    tasks = {
        "/api/tasks/executions/",
        "/api/tasks/executions/{task_id}/",
        "/api/tasks/{task_id}/status/",
    }
    own = {"/api/profile/", "/api/tasks/user-tasks/", "/api/tasks/notifications/"}
    for_staff = {
        "/api/tasks/stats/",
        "/api/tasks/dead-letters/",
        "/api/tasks/dead-letters/{id}/",
        "/api/tasks/templates/",
        "/api/tasks/templates/{name}/",
        "/api/telemetry/records/",
        "/api/telemetry/records/{record_id}/",
        "/api/telemetry/records/export/",
        "/api/telemetry/merged/",
        "/api/telemetry/merged/{record_id}/",
        "/api/telemetry/merged/export/",
        "/api/telemetry/quarantine/",
        "/api/telemetry/quarantine/{id}/",
        "/api/telemetry/quarantine/export/",
        "/api/telemetry/state/",
    }
    assert seen("owner") == tasks | own
    assert seen("staff") == tasks | for_staff
