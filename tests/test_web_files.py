"""The real web server gives its static files, and no other file of the machine."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web import Web, web

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "what-nobody-may-read"


@pytest.fixture(scope="module")
def server(django_db_setup, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    folder: Path = tmp_path_factory.mktemp("web")
    static = folder / "static"
    (static / "deep").mkdir(parents=True)
    (static / "deep" / "a.css").write_text("a {}")
    (folder / "secret.txt").write_text(SECRET)
    (folder / "static-secret.txt").write_text(SECRET)
    (static / "link.txt").symlink_to(folder / "static" / "deep" / "a.css")
    with django_db_blocker.unblock(), web(folder, DJANGO_STATIC_ROOT=str(static)) as running:
        yield running


def get(server: Web, path: str) -> str:
    """The answer to the path as it stands: no client tidies it up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        client.sendall(head.encode("latin-1"))
        received = b""
        while part := client.recv(65536):
            received += part
    return received.decode("latin-1").removeprefix("HTTP/1.1 ")


UP = [
    "../",
    "..%2f",
    "%2e%2e/",
    "%2e%2e%2f",
    ".%2e/",
    "..%5c",
    "..\\",
    "..;/",
    "....//",
    "%252e%252e%252f",
    "..%c0%af",
    "..%ef%bc%8f",
    "./../",
    "deep/../../",
    "//../",
    "%00../",
]
TARGETS = ["secret.txt", "static-secret.txt", "web.log", "etc/passwd", "proc/self/environ"]


@pytest.mark.parametrize("up", UP)
@pytest.mark.parametrize(
    "start", ["/static/", "/static//", "/static", "/", "/admin/", "/api/", "/media/"]
)
def test_no_way_up_leads_to_another_file(server, start, up):
    for target in TARGETS:
        for times in (1, 2, 8):
            told = get(server, f"{start}{up * times}{target}")
            assert told[:3] in ("301", "302", "400", "404"), (start, up, target, told)
            assert SECRET not in told
            assert "root:" not in told
            assert "DJANGO_SECRET_KEY" not in told


@pytest.mark.parametrize(
    "path",
    [
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "//etc/passwd",
        "file:///etc/passwd",
        "/static/~root/.bashrc",
        "/static/deep",
        "/static/deep/",
        "/static/",
        "/static/staticfiles.json",
        "/.env",
        "/.git/config",
        "/manage.py",
        "/static/../marketplace/settings.py",
    ],
)
def test_neither_an_absolute_path_nor_a_folder_nor_the_source_is_a_file(server, path):
    told = get(server, path)
    assert told[:3] in ("301", "302", "400", "404"), told
    assert "root:" not in told


def test_a_static_file_is_given(server):
    assert get(server, "/static/deep/a.css").startswith("200 ")
