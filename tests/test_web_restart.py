"""gunicorn with the bundle's settings, restarted and stopped under its visitors."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from rest_framework_simplejwt.tokens import AccessToken

from deploy import web_socket
from task_manager.models import TaskTemplate
from tests.processes import wait_until
from tests.stack.stack import copy_project
from tests.visitors import Visitors
from tests.web import Web, session_of, web

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]


@pytest.fixture
def visitors(make_shopper: Callable[..., User]) -> Callable[[Web], Visitors]:
    user = make_shopper("boss")
    user.is_staff = True
    user.save()
    cookie = f"{settings.SESSION_COOKIE_NAME}={session_of(user)}"
    token = str(AccessToken.for_user(user))
    return lambda server: Visitors(server.port, token, cookie)


def restart(server: Web) -> None:
    old = set(server.workers())
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not old & set(server.workers()), seconds=90, what="the old ones have gone")


def test_a_restart_by_hup_fails_nobody_and_each_post_is_done_once(tmp_path, visitors):
    with web(tmp_path, WEB_WORKERS="2") as server, visitors(server) as stream:
        for _ in range(3):
            stream.wait_for_more()
            restart(server)
        stream.wait_for_more()
    assert stream.failures == []
    assert stream.returns >= 3
    names = TaskTemplate.objects.values_list("name", flat=True)
    assert sorted(names) == sorted(stream.made)


def test_replacing_processes_by_their_number_of_requests_fails_nobody(tmp_path, visitors):
    with web(tmp_path, WEB_WORKERS="2", WEB_MAX_REQUESTS="100") as server:
        first = set(server.workers())
        with visitors(server) as stream:
            wait_until(lambda: not first & set(server.workers()), seconds=90, what="others")
            stream.wait_for_more()
    assert stream.failures == []
    assert TaskTemplate.objects.count() == len(stream.made)


def test_hup_runs_the_code_as_it_is_now(tmp_path):
    """Also of the modules that importing anything of the project loads."""
    project = copy_project(tmp_path / "project")
    with web(tmp_path, project=project) as server:
        assert body(server, "/healthz") == {"status": "ok"}
        for name, old, new in (
            ("marketplace/health.py", '{"status": "ok"}', "STATUS"),
            ("marketplace/health.py", "from marketplace.celery import app", IMPORTS),
            ("marketplace/celery.py", "import os\n", 'import os\n\nSTATUS = {"celery": "new"}\n'),
            ("marketplace/env.py", "import os\n", 'import os\n\nSTATUS = {"env": "new"}\n'),
        ):
            file = project / name
            text = file.read_text()
            assert old in text
            file.write_text(text.replace(old, new, 1))
        restart(server)
        assert body(server, "/healthz") == {"celery": "new", "env": "new"}


IMPORTS = """\
from marketplace import celery, env
from marketplace.celery import app

STATUS = celery.STATUS | env.STATUS
"""


def test_hup_goes_over_to_the_release_that_current_leads_to(tmp_path):
    """As under supervisor, whose `start` has the link for its working directory."""
    first, second = (copy_project(tmp_path / name) for name in ("first", "second"))
    file = second / "marketplace" / "health.py"
    file.write_text(file.read_text().replace('{"status": "ok"}', '{"status": "second"}', 1))
    current = tmp_path / "current"
    current.symlink_to(first)
    with web(tmp_path, project=current, PWD=str(current)) as server:
        assert body(server, "/healthz") == {"status": "ok"}
        current.unlink()
        current.symlink_to(second)
        restart(server)
        assert body(server, "/healthz") == {"status": "second"}
        assert os.readlink(f"/proc/{server.process.pid}/cwd") == str(second)


def body(server: Web, path: str) -> object:
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as http:
        http.request("GET", path)
        return json.loads(http.getresponse().read())


def test_a_connection_on_which_nothing_was_said_holds_up_no_stop(tmp_path):
    """`web` looks whether gunicorn had to close any by force."""
    with ExitStack() as connections:
        with web(tmp_path) as server:
            silent = [
                connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                for _ in range(3)
            ]
            assert body(server, "/healthz")
        assert [connection.recv(1) for connection in silent] == [b""] * 3


def test_a_silent_connection_is_answered_while_its_process_stops(tmp_path):
    with web(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as late:
            assert body(server, "/healthz")  # it was accepted before this one
            restarting = threading.Thread(target=restart, args=(server,))
            restarting.start()
            wait_until(lambda: "Worker shutting down" in server.log.read_text(), what="it stops")
            late.sendall(REQUEST)
            answer = late.makefile("rb").read()
            restarting.join()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" in answer


# --- Several webs on one host ---
def ask(path: Path) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(REQUEST)
        return client.makefile("rb").read()


@pytest.fixture
def sockets(tmp_path: Path) -> Path:
    folder = tmp_path / "sockets"
    folder.mkdir()
    return folder


def folder(parent: Path, name: str = "web") -> Path:
    """For a web's log and static files, which the sockets must not be among."""
    path = parent / name
    path.mkdir()
    return path


@contextmanager
def stopped(server: Web) -> Iterator[None]:
    for pid in server.workers():
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in server.workers():
        os.kill(pid, signal.SIGCONT)


def test_a_burst_waits_its_turn(tmp_path, sockets):
    """asyncio's own queue is of 100, and a proxy takes the refusal of the next for an outage."""
    with web(folder(tmp_path), WEB_SOCKET_DIR=str(sockets)) as server, ExitStack() as clients:
        crowd = [clients.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(500)]
        with stopped(server):
            for client in crowd:
                client.settimeout(0)  # refused at once when there is no room
                client.connect(str(sockets / "current"))
        for client in crowd:
            client.settimeout(60)
            client.sendall(REQUEST)
        answers = [client.makefile("rb").read() for client in crowd]
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 200"}


def test_the_first_web_is_the_current_one_and_a_second_waits(sockets, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "first")
    assert not web_socket.is_served(sockets)
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for name, listener in (("first", first), ("second", second)):
            listener.bind(str(sockets / f"{name}.sock"))
            listener.listen()
        web_socket.take(sockets)
        assert web_socket.is_served(sockets)
        assert os.readlink(sockets / "current") == "first.sock"
        first.close()
        assert not web_socket.is_served(sockets)
        monkeypatch.setattr(socket, "gethostname", lambda: "second")
        web_socket.take(sockets)
        assert web_socket.is_served(sockets)
    assert sorted(path.name for path in sockets.iterdir()) == [
        "current",
        "first.sock",
        "second.sock",
    ]


def test_a_web_takes_the_place_that_a_killed_one_held(tmp_path, sockets):
    for name in ("killed", "next"):
        with web(folder(tmp_path, name), WEB_SOCKET_DIR=str(sockets)) as server:
            assert ask(sockets / "current").startswith(b"HTTP/1.1 200")
            if name == "killed":
                server.process.kill()
                wait_until(lambda: not web_socket.is_served(sockets), what="its processes ended")
