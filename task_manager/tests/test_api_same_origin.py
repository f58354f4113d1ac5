"""A page of ours cancels a task with the session alone; another site's page cannot."""

import pytest
from django.test import Client

from task_manager.models import TaskExecution

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


@pytest.fixture
def cancel(make_shopper, make_execution):
    """Posts as the component does: the session's cookie, no token, and these headers."""
    ana = make_shopper("ana")
    client = Client(enforce_csrf_checks=True)
    client.force_login(ana)
    execution = make_execution(user=ana)

    def post(**headers: str) -> tuple[int, str]:
        address = f"/api/tasks/cancel/{execution.pk}/"
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        response = client.post(address, headers=names)
        execution.refresh_from_db()
        return response.status_code, execution.status

    return post


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "same-origin", "origin": "http://testserver"},
        {"sec_fetch_site": "same-origin"},
        {"origin": "http://testserver"},  # a browser without fetch metadata
    ],
)
def test_a_page_of_the_same_origin_needs_no_token(cancel, headers):
    assert cancel(**headers) == (200, "REVOKED")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec_fetch_site": "cross-site", "origin": "https://evil.example"},
        {"sec_fetch_site": "cross-site", "origin": "http://testserver"},
        {"sec_fetch_site": "same-site", "origin": "http://other.testserver"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": ""},
        {"origin": "https://evil.example"},
        {"origin": "https://testserver"},  # the scheme differs
        {"origin": "http://testserver:81"},
        {"origin": "http://testserver.evil.example"},
        {"origin": "null"},
        {"referer": "http://testserver/"},
    ],
)
def test_any_other_page_needs_the_token(cancel, headers):
    assert cancel(**headers) == (403, "PENDING")


def test_the_token_serves_as_everywhere(make_shopper, make_execution):
    ana = make_shopper("ana")
    client = Client(enforce_csrf_checks=True)
    client.force_login(ana)
    client.get("/api/auth/login/")
    token = client.cookies["csrftoken"].value
    execution = make_execution(user=ana)
    response = client.post(f"/api/tasks/cancel/{execution.pk}/", headers={"x-csrftoken": token})
    assert response.status_code == 200


def test_the_same_origin_is_not_a_login(make_execution):
    client = Client(enforce_csrf_checks=True)
    address = f"/api/tasks/cancel/{make_execution().pk}/"
    assert client.post(address, headers={"sec-fetch-site": "same-origin"}).status_code == 401
    assert TaskExecution.objects.get().status == "PENDING"


def test_the_rest_of_the_api_asks_for_the_token_as_before(make_shopper, make_promo):
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_shopper("ana"))
    response = client.post(
        f"/api/promos/{make_promo().pk}/reserve/", headers={"sec-fetch-site": "same-origin"}
    )
    assert response.status_code == 403
