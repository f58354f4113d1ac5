"""Flower's login: asked for whenever there is one, and in production there is always one."""

import base64
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.embedded.servers import free_port, listens
from tests.processes import celery, wait_until

pytestmark = [pytest.mark.worker, pytest.mark.django_db]

LOGIN = "admin:a-secret-of-its-own"


@contextmanager
def flower(log: Path, **environ: str) -> Iterator[str]:
    """Its address."""
    port = free_port()
    options = {"FLOWER_ADDRESS": "127.0.0.1", "FLOWER_PORT": str(port)}
    with celery("flower", log=log, **options, **environ) as process:
        wait_until(lambda: listens(port) or process.poll() is not None, what="Flower listens")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}/"


def status(url: str, login: str | None = None) -> int:
    request = urllib.request.Request(url)  # noqa: S310
    if login is not None:
        encoded = base64.b64encode(login.encode()).decode()
        request.add_header("Authorization", f"Basic {encoded}")
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("kind", ["variable", "file"])
def test_the_login_is_asked_for(tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_text(f"{LOGIN}\n")
    login = {
        "variable": {"FLOWER_BASIC_AUTH": LOGIN},
        "file": {"FLOWER_BASIC_AUTH": "", "FLOWER_BASIC_AUTH_FILE": str(tmp_path / "secret")},
    }
    with flower(tmp_path / "log", **login[kind]) as address:
        for path in ("", "api/workers"):
            assert status(address + path) == 401
            assert status(address + path, "") == 401
            assert status(address + path, "admin:wrong") == 401
            assert status(address + path, LOGIN) == 200


@pytest.mark.parametrize("value", [None, "", " ", ","])
def test_without_a_login_it_does_not_start_in_production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    environ = {} if value is None else {"FLOWER_BASIC_AUTH": value}
    with celery("flower", log=tmp_path / "log", **environ) as process:
        assert process.wait(60) == 1
    assert (tmp_path / "log").read_text().startswith("error: FLOWER_BASIC_AUTH is not set")


def test_an_empty_login_is_none_in_development(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with flower(log, FLOWER_BASIC_AUTH="", DJANGO_DEBUG="1") as address:
        assert status(address) == 200
