"""A real worker and messages that no program of ours has written."""

import base64
import copy
import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import current_app
from django.conf import settings

from marketplace.broker import REASONS, REFUSED, UNREADABLE, UNREADABLE_BYTES
from task_manager import metrics
from task_manager.models import TaskExecution
from tests.processes import celery, wait_until
from tests.servers import operator

pytestmark = [
    pytest.mark.worker,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("unread"),
]

EXAMPLES = str(Path(__file__).parent / "examples")
TRAP = Path("/tmp/flash-promos-test-trap")  # noqa: S108


@pytest.fixture(scope="module")
def worker(worker_database, tmp_path_factory) -> Iterator[Path]:
    """A worker for the whole module; its log."""
    log = tmp_path_factory.mktemp("worker") / "celery.log"
    with celery(
        "worker",
        "--loglevel=info",
        "--concurrency=1",
        log=log,
        PYTHONPATH=EXAMPLES,
        CELERY_IMPORTS="probe",
        CELERY_TASK_ACKS_LATE="1",
        # What it does not know has no time to become known.
        TASK_UNKNOWN_SECONDS="0",
    ) as process:
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield log
        assert process.poll() is None, "the worker has ended"


@pytest.fixture
def client() -> Iterator[redis.Redis]:
    with operator(settings.REDIS_URL) as connection:
        connection.delete(UNREADABLE, *(REFUSED + reason for reason in REASONS))
        yield connection


@pytest.fixture
def good(client) -> dict[str, Any]:
    """A task's message as it stands in Redis."""
    current_app.send_task("probe.trace", ("stranger",), queue="unread")
    message: dict[str, Any] = json.loads(client.rpop("unread"))
    message["properties"]["delivery_info"]["routing_key"] = "default"
    return message


def put(client: redis.Redis, message: Any, body: Any = None) -> None:
    """Into the worker's queue, as anybody can who may write to Redis."""
    if body is not None:
        message = copy.deepcopy(message)
        message["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    client.lpush("default", message if isinstance(message, bytes) else json.dumps(message))


def goes_on(client: redis.Redis) -> None:
    """Whatever was put before is done with, and the worker runs the next task."""
    result = current_app.send_task("probe.add", (1, 2))
    assert result.get(timeout=60) == {"sum": 3}
    wait_until(
        lambda: not client.llen("default") and not client.hlen("unacked"), what="nothing is left"
    )
    # The worker has written what it had to, and does not as the test's tables are emptied.
    wait_until(
        lambda: TaskExecution.objects.filter(pk=result.id, status="SUCCESS").exists(),
        what="the history is written",
    )
    assert client.zcard("unacked_index") == 0


def refused(client: redis.Redis) -> dict[str, int]:
    counts = {reason: int(client.get(REFUSED + reason) or 0) for reason in REASONS}
    return {reason: count for reason, count in counts.items() if count}


class Trap:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (TRAP,)


def test_pickle_is_refused_counted_and_never_loaded(worker, client, good):
    TRAP.unlink(missing_ok=True)
    body = base64.b64encode(pickle.dumps(([Trap()], {}, {}))).decode()
    for content_type in ("application/x-python-serialize", "pickle", "application/json"):
        put(
            client,
            good | {"body": body, "content-type": content_type, "content-encoding": "binary"},
        )
    goes_on(client)
    assert refused(client) == {"content": 3}
    assert not TRAP.exists()
    assert "it is 'application/x-python-serialize', and only JSON is taken" in worker.read_text()


@pytest.mark.parametrize("content_type", ["application/x-msgpack", "application/data", "", None, 5])
def test_any_other_content_is_refused(worker, client, good, content_type):
    put(client, good | {"content-type": content_type})
    goes_on(client)
    assert refused(client) == {"content": 1}


@pytest.mark.parametrize("serializer", ["pickle", "yaml"])
def test_what_celery_itself_publishes_in_another_form_is_refused(worker, client, serializer):
    current_app.send_task("probe.add", (1, 2), serializer=serializer)
    goes_on(client)
    assert refused(client) == {"content": 1}


def test_what_was_refused_is_kept_in_part_and_shown_in_the_metrics(worker, client, good):
    put(
        client,
        good | {"content-type": "text/plain", "headers": good["headers"] | {"a": "x" * 10**6}},
    )
    put(client, good, body=[[], {}, {}, "more"])
    put(client, b"no message")
    goes_on(client)
    assert refused(client) == {"content": 1, "invalid": 1, "unreadable": 1}
    kept: Any = client.lrange(UNREADABLE, 0, -1)
    assert kept[0] == b"no message"
    assert [len(data) <= UNREADABLE_BYTES for data in kept] == [True] * 3
    samples = {
        sample.labels["reason"]: sample.value
        for metric in metrics.from_redis()
        if metric.name == "flash_promos_messages_refused"
        for sample in metric.samples
    }
    assert samples == {"content": 1, "invalid": 1, "unreadable": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"17",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"{}",
        b'{"properties": 1}',
        b'{"properties": {}, "body": 1}',
        b'{"properties": {}, "body": "not base64!", "headers": {}}',
        b'{"properties": {"body_encoding": "rot13"}, "body": "eA==", "headers": {}}',
        b'{"properties": {"delivery_info": 5}, "headers": {}}',
        b'{"properties": {"delivery_info": [1]}, "headers": {}}',
        b'{"properties": {}, "headers": [1]}',
        b'{"properties": {}, "headers": "text"}',
        b'{"properties": {"__type__": "datetime", "__value__": "x"}}',
        b'{"__type__": "nonsense", "__value__": 1}',
        b'{"properties": {}, "headers": {"compression": "gzip"}, "body": "eA=="}',
        b'{"properties": {}, "headers": {"compression": 5}, "body": "eA=="}',
    ],
    ids=lambda data: repr(data[:50]),
)
def test_bytes_that_are_no_message_stop_nobody(worker, client, data):
    put(client, data)
    goes_on(client)
    assert sum(refused(client).values()) == 1


#: What a stranger may put in any place.
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    2**70,
    1.5,
    "",
    "x",
    "\0",
    "\ud800",
    "x" * 100_000,
    [],
    [1],
    [[[]]],
    {},
    {"a": 1},
    [{"a": 1}],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each part of a message, and to one that it lacks."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


def changed(message: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    message = copy.deepcopy(message)
    part = message
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return message


def test_no_part_of_a_message_of_another_type_stops_the_worker_or_comes_back(worker, client, good):
    good["headers"] |= {"failed_deliveries": 0, "tracked_user_id": 1, "compression": None}
    count = 0
    for path in places(good):
        for value in ODD:
            put(client, changed(good, path, value))
            count += 1
    assert count > 500
    goes_on(client)
    log = worker.read_text()
    assert sum(refused(client).values()) > count / 2
    for trouble in ("Unrecoverable", "The task history failed", "left out", "INTERNAL ERROR"):
        assert trouble not in log


def test_no_body_of_another_form_stops_the_worker_or_comes_back(worker, client, good):
    body = [["stranger"], {"a": 1}, dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))]
    count = 0
    for path in [(), *places(body)]:
        for value in ODD:
            put(client, good, body=changed({"": body}, ("", *path), value)[""])
            count += 1
    for raw in (b"", b"null", b"[" * 100_000, b"\xff", b"[1, 2", b'[[], {}, {"__type__": "uuid"}]'):
        put(client, good | {"body": base64.b64encode(raw).decode()})
    goes_on(client)
    assert refused(client)["invalid"] >= len(ODD)
    assert "Unrecoverable" not in worker.read_text()


@pytest.mark.parametrize("header", ["eta", "expires"])
@pytest.mark.parametrize(
    "moment",
    [
        "",
        "now",
        "2026-13-01",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-01-01T25",
    ],
)
def test_a_time_that_is_none_is_refused(worker, client, good, header, moment):
    put(client, changed(good, ("headers", header), moment))
    goes_on(client)
    assert refused(client) == {"invalid": 1}


@pytest.mark.parametrize(
    "moment", ["2020-01-01T00:00:00", "2020-01-01T00:00:00+00:00", "2020-01-01"]
)
def test_a_time_that_is_over_is_taken(worker, client, good, moment):
    for header in ("eta", "expires"):
        put(client, changed(good, ("headers", header), moment))
    goes_on(client)
    assert refused(client) == {}


def test_the_history_goes_on_after_all_that(worker, client):
    result = current_app.send_task("probe.add", (3, 4))
    wait_until(
        lambda: TaskExecution.objects.filter(pk=result.id, status="SUCCESS").exists(),
        what="the task is in the history",
    )


def test_a_message_of_another_s_hold_that_cannot_be_read_is_put_aside(worker, client):
    """As a worker leaves it that was killed between taking it and looking at it."""
    for number, data in enumerate((b"nonsense", b'[{"a": 1}, "", "default"]', b"[" * 50_000)):
        client.hset("unacked", f"tag{number}", data)
        client.zadd("unacked_index", {f"tag{number}": 1})
    wait_until(lambda: not client.hlen("unacked"), what="they are put aside")
    goes_on(client)
    assert refused(client) == {"unreadable": 3}


def test_an_unknown_task_is_told_of_without_its_arguments(worker, client):
    task_id = current_app.send_task("probe.unheard_of", ("hunter2",), {"password": "hunter3"}).id
    goes_on(client)
    wait_until(lambda: task_id in worker.read_text(), what="the log tells of it")
    told = re.split(r"(?=Received unregistered task)", worker.read_text())[-1]
    assert "probe.unheard_of" in told
    assert "hunter3" not in told
    assert "not shown" in told
