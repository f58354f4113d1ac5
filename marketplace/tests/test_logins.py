"""Guessing passwords is slow, whatever the way in, and locks nobody out for long."""

import re
from typing import Any

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.contrib.auth.hashers import MD5PasswordHasher
from django.test import Client
from django.test.client import MULTIPART_CONTENT
from rest_framework_simplejwt.tokens import RefreshToken

from deploy.embedded.servers import Redis, free_port
from marketplace import logins
from marketplace.tests.test_health import closed_redis_url
from tests.processes import serving

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker", "ana")]

User = get_user_model()
HERE, THERE = "203.0.113.1", "203.0.113.2"
FAILURES, TOTAL = 5, 50
WAYS = ("/api/token/", "/admin/login/", "/api/auth/login/")


@pytest.fixture
def ana() -> Any:
    return User.objects.create_superuser("ana", password="right")


def sign_in(
    way: str = "/api/token/",
    name: str = "ana",
    password: str = "wrong",  # noqa: S107
    address: str = HERE,
) -> Any:
    """By a fresh client at this address, as the proxy on this host says."""
    return Client().post(
        way,
        {"username": name, "password": password},
        content_type="application/json" if way == "/api/token/" else MULTIPART_CONTENT,
        headers={"x-forwarded-for": address, "accept": "text/html, application/json"},
    )


def fail(count: int, **options: Any) -> None:
    for _ in range(count):
        assert sign_in(**options).status_code != 429


def signed_in(response: Any) -> bool:
    return response.status_code == 302 or (
        response.status_code == 200 and b"access" in response.content
    )


@pytest.mark.parametrize("way", WAYS)
def test_too_many_wrong_passwords_are_429_with_a_time(way):
    fail(FAILURES, way=way)
    response = sign_in(way)
    assert response.status_code == 429
    assert 890 <= int(response["retry-after"]) <= 900
    if way == "/api/token/":
        assert response.json()["error"]["code"] == "throttled"
    assert "Too many failed attempts" in response.text


@pytest.mark.parametrize("way", WAYS)
def test_even_the_right_password_is_not_looked_at_then(way):
    fail(FAILURES)
    assert sign_in(way, password="right").status_code == 429


def test_all_ways_in_count_together():
    for number in range(FAILURES):
        fail(1, way=WAYS[number % len(WAYS)])
    assert {sign_in(way).status_code for way in WAYS} == {429}


def test_the_user_signs_in_from_elsewhere_meanwhile():
    fail(FAILURES)
    assert signed_in(sign_in(password="right", address=THERE))


def test_another_user_signs_in_from_there_meanwhile():
    User.objects.create_user("bea", password="right")
    fail(FAILURES)
    assert signed_in(sign_in(name="bea", password="right"))


@pytest.mark.parametrize("way", WAYS)
def test_signing_in_forgets_the_failures(way):
    for _ in range(3):
        fail(FAILURES - 1)
        assert signed_in(sign_in(way, password="right"))


def test_the_wait_ends_and_is_not_lengthened_by_trying(settings, broker):
    settings.LOGIN_FAILURES_SECONDS = 100
    fail(FAILURES)
    (key,) = broker.keys("logins:pair:*")
    broker.expire(key, 50)
    for _ in range(3):
        assert 40 <= int(sign_in()["retry-after"]) <= 50
    broker.delete(key)  # as Redis does at its end
    assert signed_in(sign_in(password="right"))


def test_many_names_from_one_address_are_too_many():
    for number in range(TOTAL):
        fail(1, name=f"user{number}")
    assert sign_in(password="right").status_code == 429
    assert signed_in(sign_in(password="right", address=THERE))


def test_one_name_from_many_addresses_is_too_many():
    for number in range(TOTAL):
        fail(1, address=f"198.51.100.{number}")
    assert sign_in().status_code == 429


def test_nobody_is_locked_out_of_where_they_signed_in_by_who_guesses_elsewhere():
    assert signed_in(sign_in(password="right"))
    for number in range(TOTAL):
        fail(1, address=f"198.51.100.{number}")
    assert sign_in(password="right", address=THERE).status_code == 429
    assert signed_in(sign_in(password="right"))


def test_nobody_is_locked_out_there_by_who_guesses_other_names():
    assert signed_in(sign_in(password="right"))
    for number in range(TOTAL):
        fail(1, name=f"user{number}")
    assert sign_in(name="bea").status_code == 429
    assert signed_in(sign_in(password="right"))


def test_being_known_at_an_address_does_not_help_to_guess_there():
    assert signed_in(sign_in(password="right"))
    fail(FAILURES)
    assert sign_in(password="right").status_code == 429


def test_a_network_of_ipv6_counts_as_one_address():
    for number in range(FAILURES):
        fail(1, address=f"2001:db8:1:1::{number}")
    assert sign_in(address="2001:db8:1:1:ffff::1").status_code == 429
    assert sign_in(address="2001:db8:1:2::1").status_code == 401


def test_a_header_of_the_client_s_own_makes_no_other_address(settings):
    settings.TRUSTED_PROXIES = []
    for number in range(FAILURES):
        fail(1, address=f"198.51.100.{number}")
    assert sign_in(address="198.51.100.99").status_code == 429


def test_refresh_tokens_cannot_be_tried_out_without_end(settings, ana):
    settings.LOGIN_FAILURES_TOTAL = 3

    def refresh(token: str, address: str = HERE) -> int:
        headers = {"x-forwarded-for": address}
        body = {"refresh": token}
        return (
            Client()
            .post("/api/token/refresh/", body, "application/json", headers=headers)
            .status_code
        )

    good = str(RefreshToken.for_user(ana))
    assert [refresh("wrong") for _ in range(4)] == [401, 401, 401, 429]
    assert refresh(good) == 429
    assert refresh(good, THERE) == 200
    assert signed_in(sign_in(password="right"))


# --- What a stranger learns ----------------------------------------------------------------------
@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_nobody_has_looks_like_one_that_somebody_has(way):
    User.objects.create_user("inactive", password="wrong", is_active=False)

    def told(name: str) -> list[tuple[int, str]]:
        answers = [sign_in(way, name) for _ in range(FAILURES + 1)]
        return [(each.status_code, plain(each.text, name)) for each in answers]

    assert told("ana") == told("nobody") == told("inactive")


def plain(text: str, name: str) -> str:
    """Without what differs at each request: the token in the form, the name, the seconds."""
    text = re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", text)
    return re.sub(r"\d+ seconds", "", text.replace(name, "NAME"))


def test_a_name_that_nobody_has_costs_the_same_work(monkeypatch):
    """Django hashes a password for it, too; the time of the answer tells nothing."""
    hashed: list[str] = []
    encode = MD5PasswordHasher.encode

    def counted(self: Any, password: str, salt: str) -> str:
        hashed.append(password)
        return encode(self, password, salt)

    monkeypatch.setattr(MD5PasswordHasher, "encode", counted)
    work = {}
    for name in ("ana", "nobody"):
        hashed.clear()
        fail(1, name=name)
        work[name] = hashed.copy()
    assert work["ana"] == work["nobody"] == ["wrong"]


# --- How it is kept ------------------------------------------------------------------------------
def test_nothing_is_kept_for_ever_and_no_name_is_readable(broker):
    fail(2)
    sign_in(password="right")
    fail(2, name="x" * 100_000)
    keys = broker.keys("logins:*")
    assert keys
    assert all(0 < broker.ttl(key) <= logins.KNOWN_SECONDS for key in keys)
    assert all(len(key) < 100 and b"ana" not in key for key in keys)


def test_who_is_refused_adds_nothing(broker):
    fail(FAILURES)
    before = {key: broker.get(key) for key in broker.keys("logins:*")}
    for _ in range(10):
        assert sign_in().status_code == 429
    assert {key: broker.get(key) for key in broker.keys("logins:*")} == before


def test_a_full_redis_counts_on(settings, tmp_path):
    server = Redis(data=tmp_path, port=free_port(), password="secret", options={"maxmemory": "1"})
    settings.REDIS_URL = server.url()
    with serving(server):
        fail(FAILURES)
        assert sign_in().status_code == 429


@pytest.mark.parametrize("way", WAYS)
def test_while_redis_is_away_nobody_guesses(way, settings, caplog):
    settings.REDIS_URL = closed_redis_url()
    response = sign_in(way, password="right")
    assert (response.status_code, response["retry-after"]) == (503, "1")
    assert "Nobody can sign in" in caplog.text


def test_the_refusal_is_logged_with_its_address_and_without_the_name(caplog):
    fail(FAILURES)
    sign_in()
    lines = [
        record.getMessage() for record in caplog.records if record.name == "marketplace.logins"
    ]
    assert lines == [f"Too many failed attempts to sign in from {HERE}"]


def test_code_without_a_request_is_not_held_up(ana):
    for _ in range(2 * FAILURES):
        assert authenticate(username="ana", password="wrong") is None
    assert authenticate(username="ana", password="right") == ana


@pytest.mark.parametrize("name", ["", "\x00", "\ud800", "x" * 10_000, "ana\x00"])
def test_an_odd_name_is_an_answer_and_no_error(name):
    for way in WAYS:
        if name == "\ud800" and way != "/api/token/":
            continue  # which a form cannot send
        assert sign_in(way, name).status_code in (200, 400, 401)


@pytest.mark.parametrize("language", ["en", "es"])
def test_people_read_it_in_their_language(language):
    fail(FAILURES)
    page = Client().post(
        "/admin/login/",
        {"username": "ana", "password": "wrong"},
        headers={"x-forwarded-for": HERE, "accept": "text/html", "accept-language": language},
    )
    texts = {"en": "Too many failed attempts", "es": "Demasiados intentos fallidos"}
    assert page.status_code == 429
    assert texts[language] in page.text
    assert f'lang="{language}"' in page.text
