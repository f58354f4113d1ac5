"""The OpenAPI document and its page, which needs nothing from elsewhere."""

import re
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client
from drf_spectacular.generators import SchemaGenerator


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    made: dict[str, Any] = SchemaGenerator().get_schema(  # type: ignore[no-untyped-call]
        request=None, public=True
    )
    return made


def operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for methods in schema["paths"].values() for operation in methods.values()]


def test_the_schema_is_made_without_a_warning_and_valid(tmp_path):
    path = tmp_path / "schema.yml"
    call_command("spectacular", "--fail-on-warn", "--validate", "--file", str(path))
    assert path.read_text().startswith("openapi: 3.")


def test_every_operation_has_a_summary_and_a_description(schema):
    for operation in operations(schema):
        assert operation["summary"], operation["operationId"]
        assert operation["description"], operation["operationId"]


def test_every_error_is_documented_as_the_envelope(schema):
    envelope = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for operation in operations(schema):
        errors = {code: r for code, r in operation["responses"].items() if code[0] != "2"}
        assert "default" in errors
        assert all(r["content"] == envelope and r["description"] for r in errors.values())


def test_reserving_documents_each_refusal(schema):
    responses = schema["paths"]["/api/promos/{id}/reserve/"]["post"]["responses"]
    assert {"201", "400", "401", "403", "404", "409"} <= set(responses)
    assert "sold_out" in responses["409"]["description"]


def test_browsing_needs_no_sign_in_and_reserving_does(schema):
    paths = schema["paths"]
    assert {} in paths["/api/promos/"]["get"]["security"]
    assert {} not in paths["/api/promos/"]["post"]["security"]
    assert {} not in paths["/api/promos/{id}/reserve/"]["post"]["security"]


@pytest.mark.parametrize("accept", ["application/vnd.oai.openapi", "application/json"])
def test_the_schema_is_served(client, accept):
    response = client.get("/api/schema/", headers={"accept": accept})
    assert (response.status_code, "/api/promos/{id}/reserve/" in response.text) == (200, True)


def assets(client: Client) -> list[str]:
    """The addresses of the static files that the page loads, beside the script that it has."""
    page = client.get("/api/schema/swagger/").text
    found: list[str] = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(found) == 5
    assert found.pop() == "/api/schema/swagger/?script="
    return found


def test_the_page_loads_nothing_from_elsewhere(client):
    for address in assets(client):
        assert address.startswith("/static/drf_spectacular_sidecar/")
        assert finders.find(address.removeprefix("/static/"))


@pytest.mark.django_db  # closing a response looks at the connections
def test_the_page_s_assets_are_served_as_in_production(settings, tmp_path):
    settings.STATIC_ROOT = str(tmp_path)
    settings.WHITENOISE_AUTOREFRESH = settings.WHITENOISE_USE_FINDERS = False
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"}
    }
    call_command("collectstatic", "--noinput", verbosity=0)
    client = Client()
    for address in assets(client):
        assert re.search(r"\.[0-9a-f]{12}\.(css|js|png)$", address)
        response = client.get(address, headers={"accept-encoding": "gzip"})
        assert (response.status_code, "immutable" in response["cache-control"]) == (200, True)
        response.close()
