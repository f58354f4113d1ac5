"""The proxy of production, in front of a web that says what reaches it."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.stack.stack import PRODUCTION, Stack, copy_project, run, wait_until

ECHO = """
import json, os, socketserver
from http.server import BaseHTTPRequestHandler

class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        said = {"path": self.path, "size": len(body), "headers": dict(self.headers)}
        text = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = answer

    def address_string(self):
        return "proxy"

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    pass

os.umask(0)
Server("/run/web/current", Echo).serve_forever()
"""
OVERRIDE = "docker-compose.echo.yml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy_project(tmp_path_factory.mktemp("proxy"))
    assert run("scripts/init-env", cwd=folder).returncode == 0
    web = {
        "image": "python:3.13-slim",
        "command": ["python", "-c", ECHO.replace("$", "$$")],
        "healthcheck": {"test": ["CMD", "test", "-S", "/run/web/current"]},
        "depends_on": "!",
    }
    text = json.dumps({"services": {"web": web}}).replace(
        '"depends_on": "!"', '"depends_on": !reset {}'
    )
    (folder / OVERRIDE).write_text(text)
    return folder


@pytest.fixture(scope="module", params=["0", "1"], ids=["alone", "behind another"])
def proxy(
    request: pytest.FixtureRequest, folder: Path, failed: Callable[[], bool]
) -> Iterator[Stack]:
    stack = Stack(folder, (*PRODUCTION, OVERRIDE), image="python:3.13-slim")
    stack.variables = {"PROXY_TRUST_FORWARDED": request.param, "MAX_BODY_BYTES": "102400"}
    with stack.running(failed):
        stack.compose("up", "--detach", "--wait", "proxy")
        yield stack


def trusts(proxy: Stack) -> bool:
    return proxy.variables["PROXY_TRUST_FORWARDED"] == "1"


def ask(
    proxy: Stack,
    path: str = "/",
    method: str = "GET",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> tuple[int, str, dict[str, str]]:
    """The status, what the web said of its request, and the headers of the answer."""
    http = HTTPConnection("127.0.0.1", int(proxy.ports["HOST_PORT_WEB"]), timeout=30)
    http.request(method, path, body, headers or {})
    answer = http.getresponse()
    text = answer.read().decode()
    http.close()
    return answer.status, text, dict(answer.getheaders())


def seen(proxy: Stack, **headers: str) -> dict[str, str]:
    """The request's headers as the web sees them."""
    status, text, _ = ask(proxy, headers=headers)
    assert status == 200, text
    found: dict[str, str] = json.loads(text)["headers"]
    return found


def test_the_host_is_the_one_that_was_asked(proxy: Stack) -> None:
    assert seen(proxy, Host="promos.example.com:8443")["Host"] == "promos.example.com:8443"


def test_the_client_is_one_address_whatever_it_says_of_itself(proxy: Stack) -> None:
    address = seen(proxy, **{"X-Forwarded-For": "192.0.2.1, 192.0.2.7"})["X-Forwarded-For"]
    if trusts(proxy):
        assert address == "192.0.2.7"  # the other proxy's word, not the client's
    else:
        socket.inet_aton(address)
        assert not address.startswith("192.0.2.")


def test_the_scheme_is_the_proxys_own_unless_another_one_is_trusted(proxy: Stack) -> None:
    expected = "https" if trusts(proxy) else "http"
    assert seen(proxy, **{"X-Forwarded-Proto": "https"})["X-Forwarded-Proto"] == expected
    for said in ("http", "javascript", "https, http"):
        assert seen(proxy, **{"X-Forwarded-Proto": said})["X-Forwarded-Proto"] == "http"
    assert seen(proxy)["X-Forwarded-Proto"] == "http"


def test_other_headers_of_proxies_go_no_further(proxy: Stack) -> None:
    said = (
        *("X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Protocol", "X-Forwarded-Ssl"),
        *("X-Real-IP", "Forwarded", "Proxy", "Script_Name"),
    )
    headers = {name.lower() for name in seen(proxy, **dict.fromkeys(said, "on"))}
    assert not headers & {name.lower() for name in said}


def test_a_request_has_one_id_which_the_log_tells(proxy: Stack) -> None:
    given = {"X-Request-ID": "of-another", "Traceparent": "00-of-another"}
    headers = seen(proxy, **given)
    assert (headers["X-Request-ID"] == "of-another") == trusts(proxy)
    assert headers.get("Traceparent") == ("00-of-another" if trusts(proxy) else None)
    senseless = seen(proxy, **{"X-Request-ID": "two words"})["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", senseless)
    told = ask(proxy)[2]["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", told)
    log = proxy.compose("logs", "--no-log-prefix", "proxy")
    assert {senseless, told} <= {line.rpartition(" ")[2] for line in log.splitlines()}


def test_only_a_websocket_is_an_upgrade(proxy: Stack) -> None:
    headers = seen(proxy, Connection="Upgrade", Upgrade="WebSocket")
    assert (headers["Connection"], headers["Upgrade"]) == ("upgrade", "websocket")
    headers = seen(proxy, Connection="Upgrade, HTTP2-Settings", Upgrade="h2c")
    assert headers["Connection"] == "close"
    assert "Upgrade" not in headers


def test_a_body_that_is_too_large_does_not_reach_the_web(proxy: Stack) -> None:
    status, text, _ = ask(proxy, method="POST", body=b"x" * 100_000)
    assert (status, json.loads(text)["size"]) == (200, 100_000)
    assert ask(proxy, method="POST", body=b"x" * 103_000)[0] == 413


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics?a=b", "//metrics", "/%6detrics", "/a/../metrics"]
)
def test_the_metrics_are_not_public(proxy: Stack, path: str) -> None:
    assert ask(proxy, path)[0] == 404


def test_no_version_is_told(proxy: Stack) -> None:
    for path in ("/", "/metrics"):
        status, text, headers = ask(proxy, path)
        assert headers["Server"] == "nginx", status
        assert "nginx/" not in text


def test_a_client_keeps_its_connection(proxy: Stack) -> None:
    http = HTTPConnection("127.0.0.1", int(proxy.ports["HOST_PORT_WEB"]), timeout=30)
    http.connect()
    kept = http.sock
    for _ in range(3):
        http.request("GET", "/")
        http.getresponse().read()
        assert http.sock is kept
    http.close()


def test_a_slow_client_is_none_of_the_webs_business(proxy: Stack) -> None:
    """The web is asked once the whole request is there."""
    address = ("127.0.0.1", int(proxy.ports["HOST_PORT_WEB"]))
    with socket.create_connection(address, timeout=30) as slow:
        slow.sendall(b"POST /slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nab")
        assert ask(proxy, "/other")[0] == 200
        assert '"POST /slow' not in proxy.compose("logs", "web")
        slow.sendall(b"cd")
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
    wait_until(lambda: '"POST /slow' in proxy.compose("logs", "web"), seconds=30, what="it came")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MAX_BODY_BYTES", "ten", "a number of bytes"),
        ("MAX_BODY_BYTES", "10;", "a number of bytes"),
        ("MAX_BODY_BYTES", "0", "a number of bytes"),
        ("PROXY_TRUST_FORWARDED", "yes", "0 or 1"),
    ],
)
def test_a_wrong_variable_stops_the_start(
    folder: Path, name: str, value: str, expected: str, failed: Callable[[], bool]
) -> None:
    stack = Stack(folder, (*PRODUCTION, OVERRIDE), image="python:3.13-slim")
    with stack.running(failed):
        options = ("--rm", "--no-deps", "-T", "proxy")
        done = stack.try_compose("run", *options, variables={name: value})
    assert done.returncode == 1
    assert f"error: {name}={value}: expected {expected}" in done.stderr
