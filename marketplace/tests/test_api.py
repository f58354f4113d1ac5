"""One envelope for every error, whatever raises it; pages; tokens."""

import json

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import (
    ObjectDoesNotExist,
    PermissionDenied,
    SuspiciousOperation,
    ValidationError,
)
from django.db import DataError, IntegrityError, OperationalError, connection, transaction
from django.http import Http404
from django.urls import include, path
from django.utils import translation
from rest_framework import exceptions
from rest_framework.permissions import AllowAny
from rest_framework.response import Response
from rest_framework.test import APIClient
from rest_framework.throttling import AnonRateThrottle
from rest_framework.views import APIView
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken

from marketplace.api import BoundedPaginator
from promotions.models import Store

#: What the view below raises.
raised: list[BaseException] = []


class Raising(APIView):
    permission_classes = [AllowAny]

    def get(self, request) -> Response:
        raise raised.pop()


class OneADay(AnonRateThrottle):
    rate = "1/day"


class Throttled(APIView):
    permission_classes = [AllowAny]
    throttle_classes = [OneADay]

    def get(self, request) -> Response:
        return Response({})


def suspicious(request):
    raise SuspiciousOperation


def raising_page(request):
    raise RuntimeError


urlpatterns = [
    path("api/raising/", Raising.as_view()),
    path("api/throttled/", Throttled.as_view()),
    path("api/suspicious/", suspicious),
    path("api/broken/", raising_page),
    path("suspicious/", suspicious),
    path("broken/", raising_page),
    path("", include("marketplace.urls")),
]
handler400 = "marketplace.api.bad_request"
handler500 = "marketplace.api.server_error"

with_raising_views = pytest.mark.urls(__name__)
NOT_FOUND = {"error": {"code": "not_found", "message": "There is no such address."}}


@pytest.fixture
def client():
    return APIClient(raise_request_exception=False)


@pytest.fixture
def user(db) -> User:
    return User.objects.create_user("ana", password="pass")


@pytest.fixture
def user_client(client, user):
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {AccessToken.for_user(user)}")
    return client


def error_of(response) -> tuple[int, str]:
    body = response.json()
    assert list(body) == ["error"]
    assert {"code", "message"} <= set(body["error"]) <= {"code", "message", "fields"}
    assert body["error"]["message"]
    return response.status_code, body["error"]["code"]


def raise_in_view(client, error: BaseException):
    raised.append(error)
    return client.get("/api/raising/")


# --- What Django and REST framework refuse -------------------------------------------------------
@pytest.mark.parametrize("address", ["/api/nothing/", "/api/nothing", "/api/promos/x/y/z/"])
@pytest.mark.parametrize("debug", [False, True])
def test_an_unknown_address_is_404(client, settings, address, debug):
    settings.DEBUG = debug
    for method in ("get", "post", "put", "delete"):
        response = getattr(client, method)(address)
        assert (response.status_code, response.json()) == (404, NOT_FOUND)


def test_an_address_without_its_slash_leads_to_it(client):
    response = client.get("/api/promos?page=2")
    assert (response.status_code, response["location"]) == (301, "/api/promos/?page=2")


def test_a_body_sent_to_an_address_without_its_slash_is_not_lost_in_a_redirect(client):
    response = client.post("/api/promos", {})
    assert error_of(response) == (404, "not_found")
    assert "/api/promos/" in response.json()["error"]["message"]


def test_an_unknown_page_outside_the_api_is_not_json(client):
    response = client.get("/nothing/")
    assert (response.status_code, response["content-type"]) == (404, "text/html; charset=utf-8")


@pytest.mark.django_db
def test_a_wrong_method_is_405(client):
    response = client.delete("/api/promos/")
    assert error_of(response) == (401, "not_authenticated")
    response = client.patch("/api/token/")
    assert error_of(response) == (405, "method_not_allowed")
    assert response["allow"] == "POST, OPTIONS"


@pytest.mark.parametrize(
    ("body", "content_type", "answer"),
    [
        ("{", "application/json", (400, "parse_error")),
        ('{"username": NaN}', "application/json", (400, "parse_error")),
        (b"\xff", "application/json", (400, "parse_error")),
        ("{}", "application/json; charset=utf-16", (400, "parse_error")),
        ("{}", "application/json; charset=bz2_codec", (400, "parse_error")),
        ("{}", "application/json; charset=nonsense", (400, "invalid")),
        ("[" * 100_000, "application/json", (400, "parse_error")),
        ("x", "multipart/form-data", (400, "parse_error")),
        ("x", "text/plain", (415, "unsupported_media_type")),
        ("x", "nonsense", (415, "unsupported_media_type")),
        ('{"username": "' + "x" * 3_000_000 + '"}', "application/json", (413, "too_large")),
        ("&".join(["a=1"] * 2000), "application/x-www-form-urlencoded", (400, "parse_error")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_body_that_cannot_be_read_is_refused(client, body, content_type, answer):
    response = client.generic("POST", "/api/token/", body, content_type=content_type)
    assert error_of(response) == answer


@pytest.mark.parametrize("accept", ["text/html", "application/json", "image/png", "nonsense"])
def test_the_envelope_is_there_for_every_caller(client, accept):
    response = client.get("/api/reservations/", headers={"accept": accept})
    assert response.status_code in (401, 406)
    if accept == "text/html":
        assert "&quot;not_authenticated&quot;" in response.text
    else:
        assert error_of(response) in [(401, "not_authenticated"), (406, "not_acceptable")]


@pytest.mark.parametrize("accept", ["image/png", "text/html"])
def test_the_schema_s_errors_are_json(client, accept):
    response = client.post("/api/schema/", headers={"accept": accept})
    assert error_of(response) in [(405, "method_not_allowed"), (406, "not_acceptable")]


def test_who_is_not_signed_in_is_told_how(client):
    response = client.get("/api/profile/")
    assert error_of(response) == (401, "not_authenticated")
    assert response["www-authenticate"] == 'Bearer realm="api"'


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Bearer nonsense", "token_not_valid"),
        ("Bearer a b", "bad_authorization_header"),
        ("Bearer ÿ", "token_not_valid"),
        ("Basic YTpi", "not_authenticated"),
        ("Bearer", "bad_authorization_header"),
    ],
)
def test_a_wrong_token_is_401(client, header, code):
    response = client.get("/api/profile/", headers={"authorization": header})
    assert error_of(response) == (401, code)


@pytest.mark.django_db
def test_a_session_without_its_csrf_token_is_403(user):
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get("/api/profile/").status_code == 200
    response = client.patch("/api/profile/", {"phone": "5"})
    assert error_of(response) == (403, "permission_denied")


@with_raising_views
@pytest.mark.django_db
def test_too_many_requests_are_429_with_a_time(client, broker):
    client.get("/api/throttled/")
    response = client.get("/api/throttled/")
    assert error_of(response) == (429, "throttled")
    assert 0 < int(response["retry-after"]) <= 86_400


@with_raising_views
def test_a_suspicious_request_is_400(client):
    assert error_of(client.get("/api/suspicious/")) == (400, "bad_request")
    assert client.get("/suspicious/")["content-type"] == "text/html; charset=utf-8"


def test_a_host_that_is_not_ours_is_400(client):
    response = client.get("/api/promos", headers={"host": "elsewhere.example"})
    assert error_of(response) == (400, "bad_request")


# --- What our code and the database raise --------------------------------------------------------
@with_raising_views
@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (Http404("No FlashPromo matches the given query."), (404, "not_found")),
        (ObjectDoesNotExist(), (404, "not_found")),
        (PermissionDenied(), (403, "permission_denied")),
        (SuspiciousOperation(), (400, "parse_error")),
        (ValidationError("Wrong."), (400, "invalid")),
        (ValidationError({"name": ["Wrong."]}), (400, "invalid")),
        (exceptions.ValidationError("Wrong."), (400, "invalid")),
        (exceptions.ValidationError({"rows": [{}, {"name": ["Wrong."]}]}), (400, "invalid")),
        (DataError("numeric field overflow"), (400, "invalid")),
        (OperationalError("canceling statement due to lock timeout"), (503, "unavailable")),
        (IntegrityError("null value"), (500, "server_error")),
        (RuntimeError("secret"), (500, "server_error")),
        (exceptions.APIException(), (500, "error")),
    ],
    ids=repr,
)
def test_every_exception_has_its_answer(client, error, answer):
    response = raise_in_view(client, error)
    assert error_of(response) == answer
    assert ("fields" in response.json()["error"]) == (answer[1] == "invalid")
    assert "secret" not in response.text
    assert "FlashPromo" not in response.text


@with_raising_views
def test_a_nested_message_stands_under_its_path(client):
    error = exceptions.ValidationError({"rows": {"1": {"name": ["Wrong."]}}})
    assert raise_in_view(client, error).json()["error"] == {
        "code": "invalid",
        "message": "rows.1.name: Wrong.",
        "fields": {"rows.1.name": ["Wrong."]},
    }


@with_raising_views
def test_an_exception_outside_the_views_is_500(client):
    assert error_of(client.get("/api/broken/")) == (500, "server_error")
    assert client.get("/broken/")["content-type"] == "text/html; charset=utf-8"


@with_raising_views
def test_an_exception_is_logged_with_its_traceback(client, caplog):
    raise_in_view(client, RuntimeError("secret"))
    [record] = [record for record in caplog.records if record.name == "django.request"]
    assert record.exc_info[0] is RuntimeError


@with_raising_views
@pytest.mark.django_db(transaction=True)
def test_a_lock_not_had_in_time_is_503_to_be_tried_again(client, caplog):
    store = Store.objects.create(name="a", latitude=1, longitude=1)
    holder = connection.copy()
    with holder.cursor() as cursor, connection.cursor() as waiter:
        cursor.execute("BEGIN; SELECT FROM promotions_store FOR UPDATE")
        waiter.execute("SET lock_timeout = 10")
        with pytest.raises(OperationalError) as caught:
            store.save()
        waiter.execute("RESET lock_timeout")
    holder.close()
    assert type(caught.value.__cause__).__name__ == "LockNotAvailable"
    response = raise_in_view(client, caught.value)
    assert (error_of(response), response["retry-after"]) == ((503, "unavailable"), "1")


@with_raising_views
@pytest.mark.django_db
def test_a_unique_index_without_a_message_is_a_conflict(client, user):
    with pytest.raises(IntegrityError) as caught, transaction.atomic():
        User.objects.create(username=user.username)
    assert error_of(raise_in_view(client, caught.value)) == (409, "exists")


@with_raising_views
def test_messages_are_in_the_caller_s_language(client):
    with translation.override("en"):  # which the request changes
        response = client.get("/api/nothing/", headers={"accept-language": "es"})
    assert response.json()["error"]["message"] == "No existe esa dirección."


# --- Pages ---------------------------------------------------------------------------------------
@pytest.fixture
def stores(db) -> None:
    Store.objects.bulk_create(
        Store(name=f"{number:03}", latitude=1, longitude=1) for number in range(250)
    )


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize(("size", "shown"), [(None, 20), (1, 1), (100, 100), (1000, 100), ("", 20)])
def test_the_size_of_a_page_is_bounded(client, size, shown):
    parameters = {} if size is None else {"page_size": size}
    assert len(client.get("/api/stores/", parameters).json()["results"]) == shown


@pytest.mark.usefixtures("stores")
def test_the_pages_hold_everything_once(client):
    names, address = [], "/api/stores/?page_size=100"
    while address:
        page = client.get(address).json()
        assert page["count"] == 250
        names += [row["name"] for row in page["results"]]
        address = page["next"]
    assert names == [f"{number:03}" for number in range(250)]


@pytest.mark.usefixtures("stores")
@pytest.mark.parametrize("page", ["0", "14", "x", "-1", "9" * 30, "9" * 5000, "\x00"])
def test_a_page_that_is_not_there_is_404(client, page):
    assert error_of(client.get("/api/stores/", {"page": page})) == (404, "not_found")


@pytest.mark.usefixtures("stores")
def test_counting_stops_at_the_limit_and_so_do_the_pages(client, monkeypatch):
    monkeypatch.setattr(BoundedPaginator, "LIMIT", 200)
    last = client.get("/api/stores/", {"page": 2, "page_size": 100}).json()
    assert (last["count"], last["next"]) == (200, None)
    assert client.get("/api/stores/", {"page": 3, "page_size": 100}).status_code == 404


# --- Tokens and the session ----------------------------------------------------------------------
@pytest.mark.django_db
def test_a_token_is_had_for_a_password_and_renewed(client, user):
    pair = client.post("/api/token/", {"username": "ana", "password": "pass"}).json()
    renewed = client.post("/api/token/refresh/", {"refresh": pair["refresh"]}).json()
    for access in (pair["access"], renewed["access"]):
        headers = {"authorization": f"Bearer {access}"}
        assert client.get("/api/profile/", headers=headers).status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize("password", ["wrong", "\x00", "\ud800", ""])
def test_a_wrong_password_gives_no_token(client, user, password):
    body = json.dumps({"username": "ana", "password": password})
    response = client.post("/api/token/", body, content_type="application/json")
    assert error_of(response) in [(401, "no_active_account"), (400, "invalid")]


@pytest.mark.django_db
def test_the_token_of_a_deleted_user_is_worth_nothing(client, user):
    refresh = RefreshToken.for_user(user)
    user.delete()
    response = client.post("/api/token/refresh/", {"refresh": str(refresh)})
    assert error_of(response) == (401, "token_not_valid")
    headers = {"authorization": f"Bearer {refresh.access_token}"}
    assert error_of(client.get("/api/profile/", headers=headers)) == (401, "user_not_found")


@pytest.mark.django_db
def test_a_new_password_ends_the_tokens_of_the_old_one(client, user):
    pair = client.post("/api/token/", {"username": "ana", "password": "pass"}).json()
    user.set_password("another")
    user.save()
    renewed = client.post("/api/token/refresh/", {"refresh": pair["refresh"]}).json()
    for access in (pair["access"], renewed["access"]):
        response = client.get("/api/profile/", headers={"authorization": f"Bearer {access}"})
        assert error_of(response) == (401, "password_changed")


@pytest.mark.django_db
def test_the_browsable_api_signs_in_by_its_page(client, user):
    response = client.post("/api/auth/login/", {"username": "ana", "password": "pass"}, "multipart")
    assert (response.status_code, response["location"]) == (302, "/api/")
    assert client.get("/api/profile/").status_code == 200


@pytest.mark.django_db
@pytest.mark.parametrize(
    "address",
    ["", "stores/", "products/", "promos/", "reservations/", "notifications/", "profile/"],
)
def test_every_endpoint_has_a_page_for_the_browser(user_client, address):
    response = user_client.get(f"/api/{address}", headers={"accept": "text/html"})
    assert (response.status_code, response["content-type"]) == (200, "text/html; charset=utf-8")
    assert "invalid name" not in response.text


def test_the_site_s_own_address_leads_to_the_api(client):
    assert client.get("/")["location"] == "/api/"


@pytest.mark.django_db
def test_the_pages_for_the_browser_name_no_other_user(user_client):
    User.objects.create_user("somebody-else")
    for address in ("stores/", "products/", "promos/"):
        response = user_client.get(f"/api/{address}", headers={"accept": "text/html"})
        assert "somebody-else" not in response.text
