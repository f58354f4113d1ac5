"""Live updates over real WebSockets from a real web server."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Any

import pytest
import redis
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deploy.embedded.servers import Redis, free_port
from marketplace.origins import is_own
from task_manager import entries
from task_manager.clients.stream import STREAM, Writer, writer
from task_manager.clients.updates import Position, Window
from task_manager.services import updates
from task_manager.services.executions import executions_record
from tests.processes import serving, wait_until
from tests.servers import others
from tests.web import Web, events, session_of, web

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def server(worker_database, django_db_blocker, tmp_path_factory) -> Iterator[Web]:
    with django_db_blocker.unblock(), web(tmp_path_factory.mktemp("web")) as running:
        yield running


@pytest.fixture(autouse=True)
def empty(broker: redis.Redis) -> None:
    """Nothing in the stream, and nobody who remembers another test's tasks."""
    wait_until(lambda: not followers(broker), what="nobody follows the stream for no one")


@pytest.fixture
def make_user(db: None) -> Callable[..., User]:
    def make(name: str = "owner", **fields: Any) -> User:
        return User.objects.create_user(name, password="pass", **fields)

    return make


def transition(task_id: str, status: str = "PENDING", *, at: float = 0, **fields: Any) -> bytes:
    entry = {"id": task_id, "celery_name": "tests.task", **fields}
    return entries.transition(entry, status, at or time.time())


def write(*transitions: bytes) -> None:
    writer().send(list(transitions))


def until(state: str, updates: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for update in updates:
        yield update
        if update["state"] == state:
            return


def states(client: Any, count: int) -> list[tuple[str, str]]:
    return [(update["task_id"], update["state"]) for update in islice(events(client), count)]


def followers(broker: redis.Redis) -> int:
    """Processes that read the stream for their clients."""
    return sum(connection["cmd"] == "xread" for connection in others(broker))


def close_code(client: Any) -> int:
    """Why the server closed the connection."""
    with pytest.raises(ConnectionClosed):
        list(events(client))
    return int(client.close_code)


# --- What arrives ---------------------------------------------------------------------------------
def test_an_update_says_what_happened_to_the_task(server, make_user):
    user = make_user()
    with server.connect(user) as client:
        write(
            transition("a", user_id=user.pk),
            transition("a", "STARTED"),
            transition("a", "STARTED", progress=40, message="4 of 10"),
            transition("a", "SUCCESS", progress=100, result={"message": "done"}),
        )
        updates = [*until("SUCCESS", events(client))]
    # The first STARTED is sent unless the second replaces it while it waits.
    told = [update["state"] for update in updates]
    assert told in (
        ["PENDING", "STARTED", "SUCCESS"],
        ["PENDING", "STARTED", "STARTED", "SUCCESS"],
    )
    started, success = updates[-2:]
    assert (started["progress"], started["message"]) == (40, "4 of 10")
    assert success.pop("id")
    assert success == {
        "event": "task_update",
        "task_id": "a",
        "state": "SUCCESS",
        "progress": 100,
        "message": "4 of 10",
        "result": {"message": "done"},
    }


def test_a_failure_says_why_and_how_far_it_came(server, make_user):
    user = make_user()
    with server.connect(user) as client:
        write(transition("a", "STARTED", user_id=user.pk, progress=40))
        write(transition("a", "FAILURE", error="ValueError('no')"))
        _, failure = islice(events(client), 2)
    assert failure["message"] == "ValueError('no')"
    assert failure["result"] == {"message": "ValueError('no')"}
    assert failure["progress"] == 40


def test_a_new_attempt_begins_at_no_progress(server, make_user):
    user = make_user()
    with server.connect(user) as client:
        write(transition("a", "STARTED", user_id=user.pk, retries=0, progress=40))
        write(transition("a", "RETRY", retries=0, error="ValueError('no')"))
        write(transition("a", "STARTED", retries=1))
        assert [update["progress"] for update in islice(events(client), 3)] == [40, 40, 0]


def test_a_late_or_repeated_transition_is_not_told(server, make_user):
    user = make_user()
    with server.connect(user) as client:
        success = transition("a", "SUCCESS", user_id=user.pk)
        write(success)
        write(success, transition("a", user_id=user.pk), transition("a", "STARTED"))
        write(transition("last", user_id=user.pk))
        assert states(client, 2) == [("a", "SUCCESS"), ("last", "PENDING")]


def test_each_user_sees_their_own_tasks_and_staff_all(server, make_user):
    user, other, staff = make_user(), make_user("other"), make_user("staff", is_staff=True)
    with (
        server.connect(user) as own,
        server.connect(other) as others,
        server.connect(staff) as everything,
    ):
        write(transition("nobody's"))
        write(transition("theirs", user_id=user.pk), transition("others", user_id=other.pk))
        assert states(own, 1) == [("theirs", "PENDING")]
        assert states(others, 1) == [("others", "PENDING")]
        assert [name for name, _ in states(everything, 3)] == ["nobody's", "theirs", "others"]
        write(transition("theirs", "SUCCESS"), transition("others", "SUCCESS"))
        assert states(own, 1) == [("theirs", "SUCCESS")]
        assert states(others, 1) == [("others", "SUCCESS")]


def test_the_owner_of_a_task_that_was_under_way_is_known(server, make_user):
    user = make_user()
    executions_record([transition("a", "STARTED", user_id=user.pk, progress=30)])
    with server.connect(user) as client:
        write(transition("a", "REVOKED", error="The task was cancelled."))
        update = next(events(client))
    assert (update["state"], update["progress"]) == ("REVOKED", 30)


def test_an_entry_that_is_none_of_ours_stops_nothing(server, broker, make_user):
    user = make_user()
    with server.connect(user) as client:
        for fields in ({"t": "{"}, {"t": "{}"}, {"t": "1"}, {"other": "x"}):
            broker.xadd(STREAM, fields)
        write(transition("a", user_id=user.pk))
        assert states(client, 1) == [("a", "PENDING")]


# --- Who may listen -------------------------------------------------------------------------------
def refused(server: Web, *arguments: Any, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refusal, server.connect(*arguments, **options):
        pass
    return refusal.value.response.status_code


def test_an_anonymous_client_is_refused(server):
    assert refused(server) == 403
    assert refused(server, cookie="no-such-session") == 403


def test_an_inactive_user_is_refused(server, make_user):
    assert refused(server, make_user(is_active=False)) == 403


def test_a_token_opens_no_websocket(server, make_user):
    user = make_user()
    body = {"username": user.username, "password": "pass"}
    token = Client().post("/api/token/", body, content_type="application/json").json()["access"]
    assert refused(server, headers={"Authorization": f"Bearer {token}"}) == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1:1", "http://localhost:{port}", "null", "http://["],
)
def test_another_site_s_page_is_refused(server, make_user, origin):
    assert refused(server, make_user(), origin=origin.format(port=server.port)) == 403


def test_the_site_s_own_page_is_let_in(server, make_user):
    user = make_user()
    with server.connect(user, origin=server.address) as client:
        write(transition("a", user_id=user.pk))
        assert states(client, 1) == [("a", "PENDING")]


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("https://promos.example:8443", True),
        ("HTTPS://Promos.example:8443", True),
        ("https://promos.example", False),
        ("https://trusted.example", True),
        ("http://trusted.example", False),
        ("https://a.wild.example", True),
        ("https://wild.example.evil", False),
        ("https://evilwild.example", False),
        ("promos.example:8443", False),
        ("https://promos.example:8443/path", False),
        ("", False),
    ],
)
def test_own_origins_are_the_host_asked_and_the_trusted(settings, origin, own):
    settings.CSRF_TRUSTED_ORIGINS = ["https://trusted.example", "https://*.wild.example"]
    assert is_own(origin, "promos.example:8443") is own


def test_a_host_that_is_not_served_is_refused(server, make_user):
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(
            b"GET /ws/tasks/ HTTP/1.1\r\nHost: rebound.example\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://rebound.example\r\n"
            b"Cookie: sessionid=" + session_of(make_user()).encode() + b"\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 403 ")


def test_no_other_address_takes_a_websocket(server, make_user):
    assert refused(server, make_user(), path="/ws/other/") == 403


# --- Catching up ----------------------------------------------------------------------------------
def test_a_client_that_comes_back_gets_what_it_missed_and_no_more(server, make_user):
    user = make_user()
    with server.connect(user) as client:
        write(*(transition(name, user_id=user.pk) for name in "abc"))
        last = [update["id"] for update in islice(events(client), 3)][1]
    write(transition("d", user_id=user.pk), transition("other", user_id=user.pk + 1))
    write(transition("c", "SUCCESS"))
    with server.connect(user, last_id=last) as client:
        expected = [("c", "PENDING"), ("d", "PENDING"), ("c", "SUCCESS")]
        assert states(client, 3) == expected
        write(transition("e", user_id=user.pk))
        assert states(client, 1) == [("e", "PENDING")]


def test_a_silent_client_learns_where_it_is(server, make_user):
    user = make_user()
    write(transition("nobody's"))
    with server.connect(user) as client:
        place = next(events(client, "alive"))["id"]
    write(transition("a", user_id=user.pk))
    with server.connect(user, last_id=place) as client:
        assert json.loads(client.recv(timeout=20))["task_id"] == "a"


def test_a_new_client_gets_the_last_seconds(server, make_user):
    user = make_user()
    write(transition("a", user_id=user.pk))
    with server.connect(user) as client:
        assert states(client, 1) == [("a", "PENDING")]


@pytest.mark.parametrize(
    "last_id", ["1-0-0", "nonsense", "99999999999999-0-0", "-1-0-0", "1-0-0%00", "9" * 400]
)
def test_a_place_that_the_stream_does_not_hold_asks_for_a_new_start(server, make_user, last_id):
    user = make_user()
    write(transition("a", user_id=user.pk))
    with server.connect(user, last_id=last_id) as client:
        assert json.loads(client.recv(timeout=20))["event"] == "resync"
        assert states(client, 1) == [("a", "PENDING")]


def test_the_stream_knows_what_it_no_longer_holds():
    at = [Position(milliseconds, 0, 0) for milliseconds in range(100)]
    window = Window(now=50, first=at[10], last=at[20])
    held = [number for number in range(100) if window.holds_all_after(at[number])]
    assert held == [*range(10, 51)]
    trimmed = Window(now=50, first=None, last=at[20])
    assert trimmed.holds_all_after(at[20])
    assert not trimmed.holds_all_after(at[19])


# --- Many, slow and lost clients ------------------------------------------------------------------
def test_every_process_tells_its_own_clients(tmp_path, broker, make_user):
    user = make_user()
    with web(tmp_path, WEB_WORKERS="2") as server:
        wait_until(lambda: len(server.workers()) == 2, what="both processes are there")
        with ExitStack() as stack:
            clients = []
            for other in server.workers():
                with stopped(other):
                    clients.append(stack.enter_context(server.connect(user)))
                    next(events(clients[-1], "alive"))
            assert followers(broker) == 2
            write(transition("a", user_id=user.pk))
            for client in clients:
                assert states(client, 1) == [("a", "PENDING")]
        wait_until(lambda: not followers(broker), what="nobody follows the stream for no one")


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """So that another process takes what comes."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_slow_client_holds_nobody_up_and_misses_nothing(server, make_user):
    user, names = make_user(), [f"task{number}" for number in range(400)]
    with server.connect(user, max_queue=1) as slow, server.connect(user) as fast:
        for name in names:
            write(transition(name, "SUCCESS", user_id=user.pk, result="x" * 100_000))
        assert [name for name, _ in states(fast, len(names))] == names
        assert [name for name, _ in states(slow, len(names))] == names


def test_clients_end_with_their_process(tmp_path, make_user):
    with web(tmp_path) as server, server.connect(make_user()) as client:
        next(events(client, "alive"))
        os.kill(server.process.pid, signal.SIGTERM)
        assert close_code(client) == 1012
        server.process.wait(20)


@pytest.fixture
def quick(tmp_path) -> Iterator[Web]:
    with web(tmp_path, application="task_manager.tests.quick_asgi") as server:
        yield server


def test_a_silent_connection_is_kept_alive(quick, make_user):
    with quick.connect(make_user()) as client:
        places = [message["id"] for message in islice(events(client, "alive"), 3)]
    assert places == sorted(places)


def test_a_client_ends_with_its_session_and_its_rights(quick, make_user):
    user, staff, gone = make_user(), make_user("staff", is_staff=True), make_user("gone")
    with (
        quick.connect(user) as signed_out,
        quick.connect(staff) as no_longer_staff,
        quick.connect(gone) as deactivated,
    ):
        for client in (signed_out, no_longer_staff, deactivated):
            next(islice(events(client, "alive"), 3, None))
        key = next(
            s for s in Session.objects.all() if s.get_decoded()["_auth_user_id"] == str(user.pk)
        )
        key.delete()
        User.objects.filter(pk=staff.pk).update(is_staff=False)
        User.objects.filter(pk=gone.pk).update(is_active=False)
        for client in (signed_out, no_longer_staff, deactivated):
            assert close_code(client) == 4401


def test_there_is_room_for_so_many_and_for_so_many_of_one_user(quick, make_user):
    user, other = make_user(), make_user("other")
    with quick.connect(user), quick.connect(user) as second:
        with quick.connect(user) as third:
            assert close_code(third) == 1013
        with quick.connect(other):
            with quick.connect(other) as full:
                assert close_code(full) == 1013
            second.close()
            wait_until(lambda: has_room(quick, other), what="a seat is free again")


def has_room(server: Web, user: User) -> bool:
    with server.connect(user) as client:
        try:
            return bool(next(events(client, "alive")))
        except ConnectionClosed:
            return False


def test_who_missed_too_much_begins_anew(quick, make_user):
    user, names = make_user(), [f"task{number}" for number in range(20)]
    write(transition("first", user_id=user.pk))
    with quick.connect(user) as client:
        place = next(events(client))["id"]
        for name in names:
            write(transition(name, user_id=user.pk))
        assert len(states(client, 20)) == 20
    # Everything but the last seconds is a past that the rows know.
    past = time.time() + updates.RECENT
    wait_until(lambda: time.time() > past)
    write(transition("last", user_id=user.pk))
    with quick.connect(user, last_id=place) as client:
        assert [name for name, _ in states(client, 4)] == names[:4]
        assert json.loads(client.recv(timeout=20))["event"] == "resync"
        assert states(client, 1) == [("last", "PENDING")]


def test_a_client_that_talks_is_not_heard_and_one_that_never_stops_is_closed(server, make_user):
    user = make_user()
    with server.connect(user) as client:
        client.send('{"event": "task_update"}')
        client.send(b"\0")
        write(transition("a", user_id=user.pk))
        assert states(client, 1) == [("a", "PENDING")]
        with suppress(ConnectionClosed):  # which may come before the last word
            for _ in range(100):
                client.send("more")
        assert close_code(client) == 1008


def test_a_message_too_long_closes_the_connection(server, make_user):
    with server.connect(make_user()) as client:
        client.send("x" * 100_000)
        assert close_code(client) == 1009


def test_clients_share_one_database_connection(server, make_user):
    users = [make_user(f"user{number}") for number in range(5)]
    before = database_connections()
    for user in users * 10:
        with server.connect(user) as client:
            next(events(client, "alive"))
    assert database_connections() <= before + 1


def database_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])


# --- Without Redis --------------------------------------------------------------------------------
def test_live_updates_outlive_redis(tmp_path, make_user):
    user = make_user()
    own = Redis(tmp_path / "redis", free_port(), "secret", {"appendonly": "no"})
    address = {"REDIS_PORT": str(own.port), "REDIS_PASSWORD": own.password, "REDIS_DATABASE": "0"}
    stream = Writer(own.url())
    with ExitStack() as stack:
        with serving(own):
            server = stack.enter_context(web(tmp_path, **address))
            client = stack.enter_context(server.connect(user))
            stream.send([transition("before", user_id=user.pk)])
            assert states(client, 1) == [("before", "PENDING")]
        with server.connect(user) as late:
            assert close_code(late) == 1013
        with serving(own):  # which has lost its data
            stream.send([transition("after", user_id=user.pk)])
            assert states(client, 1) == [("after", "PENDING")]
