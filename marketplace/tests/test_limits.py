"""How large a body may be, and that nothing takes a file."""

import tempfile
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from rest_framework.test import APIClient

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

JSON = "application/json"


@pytest.fixture
def client():
    return Client()


@pytest.mark.parametrize(("more", "status"), [(0, 401), (1, 413)])
def test_the_limit_is_the_last_size_that_is_taken(client, settings, more, status):
    settings.MAX_BODY_BYTES = 1000
    start, end = '{"username": "ana", "password": "', '"}'
    body = start + "x" * (1000 + more - len(start + end)) + end
    assert client.post("/api/token/", body, content_type=JSON).status_code == status


@pytest.mark.parametrize("address", ["/api/token/", "/admin/login/", "/api/auth/login/", "/"])
def test_whoever_sends_too_much_is_told_in_their_form(client, settings, address):
    settings.MAX_BODY_BYTES = 10
    response = client.post(address, "x" * 11, content_type=JSON)
    assert (response.status_code, response.json()["error"]) == (
        413,
        {"code": "too_large", "message": "The request is too large."},
    )
    page = client.post(
        address,
        "x" * 11,
        content_type=JSON,
        headers={"accept": "text/html", "accept-language": "es"},
    )
    assert (page.status_code, page["content-type"]) == (413, "text/html; charset=utf-8")
    assert "demasiado grande" in page.text


@pytest.mark.parametrize("length", ["9" * 30, "9" * 5000, "-1", "1e3", "\u0661"])
def test_a_length_that_is_no_number_counts_as_too_large(client, length):
    response = client.generic("POST", "/api/token/", "{}", JSON, CONTENT_LENGTH=length)
    assert response.status_code == 413


def test_a_body_without_a_length_is_asked_for_it(client):
    response = client.post(
        "/api/token/", "{}", content_type=JSON, headers={"transfer-encoding": "chunked"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (411, "length_required")


def test_more_fields_than_any_form_has_are_refused(client):
    fields = {f"field{number}": "" for number in range(1001)}
    assert client.post("/api/auth/login/", fields).status_code == 400
    assert client.get("/api/promos/", fields).status_code == 400


@pytest.fixture
def staff_client() -> Client:
    user = User.objects.create_superuser("staff")
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize(
    "address",
    [
        "/admin/login/",
        "/admin/promotions/store/add/",
        "/api/auth/login/",
        "/api/token/",
        "/api/stores/",
    ],
)
def test_a_file_is_refused_everywhere_and_kept_nowhere(
    staff_client, tmp_path, monkeypatch, address
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    file = SimpleUploadedFile("a.csv", b"x" * 500_000)
    response = staff_client.post(address, {"name": "a", "file": file})
    assert response.status_code == 400
    assert list(Path(tmp_path).iterdir()) == []


def test_a_form_of_the_browsable_api_is_taken(staff_client):
    data = {"name": "a", "latitude": "1", "longitude": "2"}
    response = APIClient.post(_session(staff_client), "/api/stores/", data, format="multipart")
    assert response.status_code == 201


def _session(client: Client) -> APIClient:
    api = APIClient()
    api.cookies = client.cookies
    return api


def test_a_nul_where_no_field_looks_for_one_is_a_bad_request(staff_client):
    """As in the admin's filters; which PostgreSQL's driver refuses."""
    response = staff_client.get("/admin/task_manager/taskexecution/?status__exact=%00")
    assert response.status_code == 400
