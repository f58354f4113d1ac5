"""What the real web server does with requests that are larger than any honest one."""

import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.web import Web, web

pytestmark = pytest.mark.django_db(transaction=True)

MEGABYTE = b"x" * 2**20
GIGABYTE = 2**30
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
ADDRESSES = ("/api/token/", "/api/promos/", "/admin/login/", "/static/a.css", "/nothing/")
KINDS = (
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
)


@pytest.fixture(scope="module")
def server(
    django_db_setup: None, django_db_blocker: pytest.FixtureRequest, tmp_path_factory
) -> Iterator[Web]:
    with django_db_blocker.unblock(), web(tmp_path_factory.mktemp("web")) as running:  # type: ignore[attr-defined]
        yield running


def answer(server: Web, head: str, body: Iterable[bytes] = ()) -> str:
    """What comes back, from the status on; the rest of a body is not sent once nobody reads it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        try:
            client.sendall(head.encode("latin-1"))
            for part in body:
                client.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        received = b""
        try:
            while part := client.recv(65536):
                received += part
        except ConnectionResetError:
            pass  # it closed with our bytes unread
    return received.decode("latin-1").removeprefix("HTTP/1.1 ")


def post(address: str, kind: str, *lines: str) -> str:
    cookie = "a" * 32  # so that Django reads a form to find the token that belongs to it
    return "\r\n".join(
        [
            f"POST {address} HTTP/1.1",
            "Host: 127.0.0.1",
            "Connection: close",
            f"Cookie: csrftoken={cookie}",
            f"Content-Type: {kind}",
            *lines,
            "",
            "",
        ]
    )


def peak(server: Web) -> int:
    """The most memory that its one process ever had, in bytes."""
    (pid,) = server.workers()
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) * 1024


def gigabyte(kind: str) -> Iterator[bytes]:
    if kind.startswith("multipart"):
        yield FILE
    for _ in range(1024):
        yield MEGABYTE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_gigabyte_is_refused_unread(server, address, kind):
    before = peak(server)
    told = answer(server, post(address, kind, f"Content-Length: {GIGABYTE}"), gigabyte(kind))
    assert told.startswith("413 "), told
    assert peak(server) < before + 32 * 2**20


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("address", ADDRESSES)
def test_a_body_without_an_announced_end_is_refused_unread(server, address, kind):
    before = peak(server)
    chunks = (b"%x\r\n%b\r\n" % (len(part), part) for part in gigabyte(kind))
    told = answer(server, post(address, kind, "Transfer-Encoding: chunked"), chunks)
    assert told.startswith("411 "), told
    assert peak(server) < before + 32 * 2**20


def test_a_client_that_asks_first_is_told_before_it_sends(server):
    lines = (f"Content-Length: {GIGABYTE}", "Expect: 100-continue")
    told = answer(server, post("/api/token/", KINDS[0], *lines))
    assert told.startswith("413 ")
    assert '"code": "too_large"' in told


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Length: -5"], "400"),
        (["Content-Length: 5x"], "400"),
        (["Content-Length: 5", "Content-Length: 6"], "400"),
        (["Content-Length: 5", "Transfer-Encoding: chunked"], "400"),
        (["Content-Length: " + "9" * 30], "413"),
        (["Transfer-Encoding: gzip"], "400"),
    ],
)
def test_a_length_that_is_none_is_refused(server, lines, status):
    assert answer(server, post("/api/token/", KINDS[0], *lines))[:3] in (status, "501")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /api/?a=" + "x" * 20_000 + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "414"),
        ("GET /api/ HTTP/1.1\r\nHost: 127.0.0.1\r\nA: " + "x" * 20_000 + "\r\n\r\n", "431"),
        ("GET /api/ HTTP/1.1\r\nHost: 127.0.0.1\r\n" + "A: x\r\n" * 200 + "\r\n", "431"),
    ],
    ids=["address", "header", "headers"],
)
def test_a_head_that_is_too_long_is_refused(server, head, status):
    assert answer(server, head).startswith(status)


@pytest.mark.parametrize(
    "start", ["", "GET /", "GET / HTTP/1.1\r\nA: ", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"]
)
def test_a_head_without_end_is_not_collected(server, start):
    before = peak(server)
    part = b"A: x\r\n" * 100_000 if start.endswith("\n") else MEGABYTE
    assert answer(server, start, (part for _ in range(256)))[:3] in ("400", "414", "431")
    assert peak(server) < before + 32 * 2**20


def test_the_server_goes_on(server):
    assert server.answers()
