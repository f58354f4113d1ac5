"""The limit of wrong passwords in real web processes."""

import json
import threading
from collections import Counter
from contextlib import AbstractContextManager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from django.contrib.auth.models import User

from tests.web import Web, web

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]

FAILURES = 5
PROCESSES, THREADS = 2, 4


def sign_in(server: Web, password: str = "wrong") -> int:  # noqa: S107
    http = HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        body = json.dumps({"username": "ana", "password": password})
        http.request("POST", "/api/token/", body, {"Content-Type": "application/json"})
        return http.getresponse().status
    finally:
        http.close()


def start(folder: Path) -> AbstractContextManager[Web]:
    folder.mkdir()
    return web(folder, WEB_WORKERS=str(PROCESSES), WEB_THREADS=str(THREADS))


def test_all_processes_know_and_so_do_the_next_ones(tmp_path):
    User.objects.create_user("ana", password="right")
    with start(tmp_path / "first") as server:
        assert len(server.workers()) == PROCESSES
        statuses = [sign_in(server) for _ in range(3 * FAILURES)]
        assert statuses == [401] * FAILURES + [429] * 2 * FAILURES
    with start(tmp_path / "second") as server:
        assert sign_in(server, "right") == 429


def test_of_guesses_at_once_no_more_are_looked_at_than_there_are_threads(tmp_path):
    User.objects.create_user("ana", password="right")
    counts: Counter[int] = Counter()
    with start(tmp_path / "web") as server:
        threads = [
            threading.Thread(target=lambda: counts.update([sign_in(server)])) for _ in range(60)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(counts) == {401, 429}
        assert FAILURES <= counts[401] < FAILURES + PROCESSES * THREADS
        assert sign_in(server, "right") == 429
