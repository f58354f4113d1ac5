"""Long answers of the real web server: no thread is lost to who stops reading, nor much memory."""

import socket
import struct
from http.client import HTTPConnection

import pytest
from django.contrib.auth.models import User
from django.db import connection

from tests.processes import wait_until
from tests.test_web_limits import peak
from tests.web import Web, session_of, web

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]

THREADS = 2
ROWS = 200_000
PATH = "/api/telemetry/records/export/"


@pytest.fixture
def cookie() -> str:
    """Of somebody who may export, and something to export."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO telemetry_telemetryrecordentry
                   (record_id, timestamp, date, hour, revision, data_name)
            SELECT n, '2026-11-20', '2026-11-20', 0, 1, repeat('x', 500)
            FROM generate_series(1, %s) n
            """,
            [ROWS],
        )
    return session_of(User.objects.create_superuser("admin"))


def begin(server: Web, cookie: str) -> socket.socket | None:
    """An export of which the first bytes have come; None when it is refused."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    head = f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: sessionid={cookie}\r\n\r\n"
    client.sendall(head.encode())
    received = client.recv(1000).decode(errors="replace")
    if received.startswith("HTTP/1.1 200 "):
        return client
    client.close()
    assert received.startswith("HTTP/1.1 429 "), received
    assert "\r\nretry-after: 10\r\n" in received.lower()
    return None


@pytest.mark.parametrize("way", ["closed", "reset"])
def test_who_goes_away_takes_no_thread_along(cookie, tmp_path, way):
    with web(tmp_path, WEB_THREADS=str(THREADS)) as server:
        clients: list[socket.socket] = []

        def has_begun() -> bool:
            clients.extend(filter(None, [begin(server, cookie)]))
            return bool(clients)

        for _ in range(THREADS + 1):
            wait_until(has_begun, seconds=60, what="a place for an export")
            client = clients.pop()
            if way == "reset":
                linger = struct.pack("ii", 1, 0)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.close()


def test_exports_leave_threads_to_others(cookie, tmp_path):
    with web(tmp_path, WEB_THREADS=str(THREADS)) as server:
        client = begin(server, cookie)
        assert client
        with client:
            assert begin(server, cookie) is None
            http = HTTPConnection("127.0.0.1", server.port, timeout=60)
            http.request("GET", "/readyz")
            assert http.getresponse().status == 200
            http.close()


def test_what_nobody_reads_is_not_made(cookie, tmp_path):
    with web(tmp_path, WEB_THREADS=str(THREADS)) as server:
        before = peak(server)
        client = begin(server, cookie)
        assert client
        with client:
            length = 0
            while part := client.recv(2**20):
                length += len(part)
        assert length > ROWS * 500
        assert peak(server) < before + 64 * 2**20
