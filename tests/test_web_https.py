"""The site as production sets it: HTTPS alone, by way of a proxy that is trusted."""

import json
import re
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import pytest
from django.contrib.auth.models import User

from deploy.embedded.servers import free_port
from tests.web import Web, web

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]

#: The real settings, with static files where they lie.
SETTINGS = {"DJANGO_SETTINGS_MODULE": "tests.settings", "DJANGO_HTTPS": "1"}
#: As a proxy on this host says for its client.
BY_HTTPS = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.1"}
PAGE, JSON = "/admin/login/", "/api/promos/"


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    with (
        django_db_blocker.unblock(),
        web(tmp_path_factory.mktemp("web"), **SETTINGS, METRICS_TOKEN="a token") as running,
    ):
        yield running


def ask(
    server: Web, path: str, method: str = "GET", body: str | None = None, **headers: str
) -> HTTPResponse:
    http = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        http.request(method, path, body, headers)
        response = http.getresponse()
        response.body = response.read().decode()  # type: ignore[attr-defined]
        return response
    finally:
        http.close()


def cookies(response: HTTPResponse) -> dict[str, str]:
    lines = response.headers.get_all("Set-Cookie") or []
    return {line.partition("=")[0]: line for line in lines}


@pytest.mark.parametrize("path", ["/", PAGE, JSON, "/api/token/", "/nothing/?a=b"])
def test_plain_http_leads_to_https(server, path):
    response = ask(server, path)
    assert response.status == 301
    assert response.headers["Location"] == f"https://127.0.0.1:{server.port}{path}"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("host", ["localhost", "10.0.0.7:8000", "not-allowed.example", "a b"])
def test_a_probe_is_answered_whatever_it_asks_for(server, path, host):
    response = ask(server, path, Host=host)
    assert response.status == 200


def test_prometheus_asks_by_plain_http_from_within(server):
    assert ask(server, "/metrics", Authorization="Bearer a token").status == 200
    assert ask(server, "/metrics").status == 401


@pytest.mark.parametrize("path", [PAGE, JSON])
def test_a_trusted_proxy_s_word_is_taken(server, path):
    response = ask(server, path, **BY_HTTPS)
    assert response.status == 200
    assert response.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-Proto": "http"},
        {"X-Forwarded-Ssl": "on"},
        {"X-Forwarded-Protocol": "ssl"},
        {"Forwarded": "proto=https"},
        {"X-Forwarded-Scheme": "https"},
        {"Front-End-Https": "on"},
    ],
)
def test_no_other_header_makes_it_https(server, headers):
    assert ask(server, PAGE, **headers).status == 301


def test_a_stranger_s_word_is_not(tmp_path):
    with web(tmp_path, **SETTINGS, TRUSTED_PROXIES="10.0.0.0/8") as server:
        assert ask(server, PAGE, **BY_HTTPS).status == 301


def test_a_proxy_on_the_other_end_of_a_unix_socket_is_trusted(tmp_path):
    """Who may open the socket, the rights of its folder say."""
    path = tmp_path / "web.socket"
    User.objects.create_user("ana", password="right")

    def post(**headers: str) -> int:
        http = HTTPConnection("localhost")
        http.sock = socket.socket(socket.AF_UNIX)
        http.sock.connect(str(path))
        try:
            body = json.dumps({"username": "ana", "password": "wrong"})
            http.request(
                "POST", "/api/token/", body, {"Content-Type": "application/json"} | headers
            )
            return http.getresponse().status
        finally:
            http.close()

    by_https = {"X-Forwarded-Proto": "https"}
    bind = f"127.0.0.1:{free_port()}"
    arguments = f"--bind {bind} --bind unix:{path}"
    with web(tmp_path, **SETTINGS, WEB_BIND=bind, GUNICORN_CMD_ARGS=arguments):
        assert post() == 301
        assert [post(**by_https) for _ in range(2)] == [401, 401]
        statuses = [post(**by_https, **{"X-Forwarded-For": "203.0.113.5"}) for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        assert post(**by_https, **{"X-Forwarded-For": "203.0.113.6"}) == 401


def test_cookies_go_by_https_alone_and_no_script_reads_them(server):
    User.objects.create_superuser("ana", password="right")
    form = ask(server, PAGE, **BY_HTTPS)
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.body)  # type: ignore[attr-defined]
    assert token
    response = ask(
        server,
        PAGE,
        "POST",
        f"csrfmiddlewaretoken={token[1]}&username=ana&password=right&next=/admin/",
        **BY_HTTPS,
        **{"Content-Type": "application/x-www-form-urlencoded"},
        Cookie=cookies(form)["csrftoken"].partition(";")[0],
        Origin=f"https://127.0.0.1:{server.port}",
    )
    assert (response.status, response.headers["Location"]) == (302, "/admin/")
    given = cookies(form) | cookies(response)
    assert set(given) == {"csrftoken", "sessionid"}
    for cookie in given.values():
        for attribute in ("Secure", "HttpOnly", "SameSite=Lax", "Path=/"):
            assert f"; {attribute}" in cookie
        assert "Domain=" not in cookie


@pytest.mark.parametrize(
    ("path", "status"),
    [(PAGE, 200), (JSON, 200), ("/nothing/", 404), ("/api/nothing/", 404), ("/", 302)],
)
def test_every_answer_has_the_headers_that_protect_browsers(server, path, status):
    response = ask(server, path, **BY_HTTPS)
    assert response.status == status
    headers = response.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert "script-src" not in policy
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    if status == 200:
        assert headers["X-Frame-Options"] == "DENY"
    assert not [name for name in headers if name.lower().startswith("access-control-")]


def test_a_refused_body_has_them_too(server):
    response = ask(server, "/api/token/", "POST", "x" * 2_000_000, **BY_HTTPS)
    assert response.status == 413
    assert "Content-Security-Policy" in response.headers
    assert json.loads(response.body)["error"]["code"] == "too_large"  # type: ignore[attr-defined]


def test_without_the_setting_plain_http_serves_to_try_it(tmp_path):
    with web(tmp_path, **(SETTINGS | {"DJANGO_HTTPS": "0"})) as server:
        response = ask(server, PAGE)
    assert response.status == 200
    assert "Strict-Transport-Security" not in response.headers
    assert "Secure" not in cookies(response)["csrftoken"]
