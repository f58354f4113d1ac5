"""What an operator does with messages that wait, on a real broker with real messages."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import current_app
from django.core.management import CommandError, call_command

from marketplace.broker import QueueFull
from marketplace.celery import app
from marketplace.tests.test_health import closed_redis_url
from task_manager import entries
from task_manager.clients.broker import PURGED
from task_manager.clients.broker import broker as open_broker
from task_manager.models import TaskExecution, TaskStatistic
from task_manager.services import executions, messages
from task_manager.tasks import reconcile_executions
from tests.processes import environment

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

WRAP = "shop.tasks.wrap"


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    @app.task(name=WRAP)
    def wrap(box: Any, token: str = "") -> None: ...

    yield
    app.tasks.pop(WRAP)
    entries._descriptions.pop(WRAP, None)


def fill(count: int, *, task: str = WRAP, queue: str = "default", **options: Any) -> list[str]:
    """The tasks' ids, the first in turn first; the history knows them."""
    ids = [
        current_app.send_task(task, [n, "hunter2"], queue=queue, **options).id for n in range(count)
    ]
    executions.executions_catch_up()
    return ids


def waiting(queue: str = "default") -> list[str]:
    """The ids in the order in which workers get them."""
    return [row["id"] for row in messages.messages_peek(queue, 10_000)]


def take(redis: Any, queue: str = "default") -> None:
    """As a worker does, in all that matters here."""
    redis.rpop(queue)


def purge(queue: str = "default", name: str = "p", **options: Any) -> list[messages.Kept]:
    return [kept for batch in messages.messages_purge(queue, name, **options) for kept in batch]


def restore(kept: list[messages.Kept], **options: Any) -> int:
    return messages.messages_restore(reversed(kept), "p", **options)


def statuses(ids: list[str]) -> list[str]:
    rows = dict(TaskExecution.objects.filter(pk__in=ids).values_list("task_id", "status"))
    return [rows[task_id] for task_id in ids]


# --- Looking -------------------------------------------------------------------------------------
def test_peek_shows_the_first_in_turn_and_takes_nothing():
    later, ids = fill(1, priority=9), fill(3)
    assert waiting() == ids + later
    shown = messages.messages_peek("default", 2)
    assert [row["id"] for row in shown] == ids[:2]
    assert shown[0]["task"] == WRAP
    assert shown[0]["arguments"] == {"box": 0, "token": entries.MASK}
    assert 0 <= shown[0]["age_seconds"] < 60
    assert messages.messages_count("default") == 4


def test_peek_shows_what_is_no_message(broker):
    broker.lpush("default", b"\xff nonsense")
    assert messages.messages_peek("default", 5)[0]["unreadable"].endswith(" nonsense")


def test_an_unknown_queue_is_answered_with_the_names():
    with pytest.raises(messages.UnknownQueue, match="'vip'; there are default, high_priority, low"):
        messages.messages_peek("vip", 1)


# --- Purging -------------------------------------------------------------------------------------
def test_nothing_leaves_the_queue_before_the_next_batch_is_asked_for(monkeypatch):
    monkeypatch.setattr(messages, "BATCH", 2)
    ids = fill(5)
    batches: Any = messages.messages_purge("default", "p")
    next(batches)
    assert waiting() == ids
    next(batches)
    assert waiting() == ids[2:]
    batches.close()
    assert waiting() == ids[2:]


def test_restored_messages_have_their_ids_order_and_priority(monkeypatch):
    monkeypatch.setattr(messages, "BATCH", 2)
    fill(5)
    fill(3, priority=6)
    before = waiting()
    kept = purge()
    assert (len(kept), waiting()) == (8, [])
    later = fill(1)
    assert restore(kept) == 8
    assert [task_id for task_id in waiting() if task_id not in later] == before
    # What came since stands behind those of its own priority.
    assert waiting().index(later[0]) == 5


def test_messages_of_one_task_are_purged_and_the_others_stay(monkeypatch):
    monkeypatch.setattr(messages, "BATCH", 3)
    mixed = [fill(1, task=("shop.tasks.other", WRAP)[n % 2])[0] for n in range(20)]
    kept = purge(task="shop.tasks.other")
    assert [one.message.task_id for one in kept if one.message] == mixed[::2]
    assert waiting() == mixed[1::2]
    assert messages.messages_count("default", task="shop.tasks.other") == 0
    assert messages.messages_count("default", task=WRAP) == 10


def test_workers_that_take_meanwhile_make_it_miss_nothing(monkeypatch, broker):
    monkeypatch.setattr(messages, "BATCH", 3)
    mixed = [fill(1, task=("shop.tasks.other", WRAP)[n % 2])[0] for n in range(20)]
    batches = messages.messages_purge("default", "p", task="shop.tasks.other")
    next(batches)
    take(broker)
    take(broker)
    list(batches)
    assert waiting() == mixed[3::2]


def test_what_a_worker_was_quicker_to_take_is_not_restored(broker):
    ids = fill(3)
    batches: Any = messages.messages_purge("default", "p")
    kept = next(batches)
    take(broker)
    list(batches)
    assert statuses(ids) == ["PENDING", "REVOKED", "REVOKED"]
    assert restore(kept) == 2
    assert waiting() == ids[1:]


def test_messages_are_restored_once_however_often_it_is_asked(broker):
    fill(3)
    kept = purge()
    assert restore(kept) == 3
    with pytest.raises(messages.NothingPurged):
        restore(kept)
    assert restore(kept, all_=True) == 0
    broker.flushdb()
    assert restore(kept, all_=True) == 3


def test_what_redis_knows_of_a_purge_is_forgotten_in_time(broker):
    fill(1)
    purge()
    assert 0 < broker.ttl(f"{PURGED}p") <= 30 * 86_400


def test_what_is_no_message_comes_back_too(broker):
    broker.lpush("default", b"\xff nonsense")
    assert restore(purge()) == 1
    assert broker.lrange("default", 0, -1) == [b"\xff nonsense"]


# --- The history ---------------------------------------------------------------------------------
def statistics() -> dict[str, int]:
    rows = TaskStatistic.objects.filter(hour=None, count__gt=0)
    return dict(rows.values_list("status", "count"))


def test_the_history_says_that_tasks_were_purged_and_that_they_wait_again():
    ids = fill(2)
    kept = purge()
    assert statuses(ids) == ["REVOKED"] * 2
    assert TaskExecution.objects.get(pk=ids[0]).error == messages.PURGED
    assert statistics() == {"REVOKED": 2}
    restore(kept)
    row = TaskExecution.objects.get(pk=ids[0])
    assert (row.status, row.error, row.finished_at, row.position) == ("PENDING", "", None, 0)
    assert statistics() == {}


def test_purged_tasks_are_not_taken_for_lost(make_execution):
    ids = fill(2)
    purge()
    TaskExecution.objects.update(changed_at="2020-01-01T00:00Z")
    for _ in range(2):
        assert reconcile_executions()["lost"] == 0
    assert statuses(ids) == ["REVOKED"] * 2


# --- Moving --------------------------------------------------------------------------------------
def test_moved_messages_stand_behind_those_of_the_target_and_name_it(broker):
    there, ids = fill(1, queue="high_priority"), fill(3)
    assert sum(messages.messages_move("default", "high_priority")) == 3
    assert (waiting(), waiting("high_priority")) == ([], [*there, *ids])
    moved = json.loads(broker.lindex("high_priority", 0))
    assert moved["properties"]["delivery_info"]["routing_key"] == "high_priority"
    assert set(TaskExecution.objects.values_list("queue", flat=True)) == {"high_priority"}


def test_a_target_without_room_is_refused_and_nothing_is_doubled(limit_queues, monkeypatch):
    monkeypatch.setattr(messages, "BATCH", 2)
    limit_queues(high_priority=3)
    ids = fill(5)
    with pytest.raises(CommandError, match=r"^2 messages were moved, then: .*'high_priority' is f"):
        call_command("queues", "move", "default", "high_priority")
    assert waiting("high_priority") == ids[:2]
    assert waiting() == ids[2:]


def test_a_full_queue_takes_back_what_it_has_room_for(limit_queues, monkeypatch):
    monkeypatch.setattr(messages, "BATCH", 2)
    limit_queues(default=4)
    fill(4)
    kept = purge()
    fill(1)
    with pytest.raises(QueueFull):
        restore(kept)
    assert messages.messages_count("default") == 3
    with open_broker() as queues:
        queues.client.rpop("default")
        queues.client.rpop("default")
    assert restore(kept) == 2


# --- The command ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["peek", "vip"], "no queue is called 'vip'; there are default, "),
        (["peek", "default", "-n", "0"], "-n 0: use a number from 1 on"),
        (["move", "default", "default"], "'default' is both queues"),
        (["move", "default", "vip"], "no queue is called 'vip'"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, reason):
    with pytest.raises(CommandError, match=reason) as refused:
        call_command("queues", *arguments)
    assert refused.value.returncode == 2


def test_lines_that_are_none_of_a_purge_are_refused(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO('{"queue": "default"}\n'))
    with pytest.raises(CommandError, match="this is no line of a purge: "):
        call_command("queues", "restore", "--name", "p", "--all")


@pytest.mark.parametrize("action", ["peek", "move"])
def test_a_broker_that_is_away_is_named(monkeypatch, action):
    monkeypatch.setattr(app.conf, "broker_read_url", closed_redis_url())
    more = ["low_priority"] if action == "move" else []
    with pytest.raises(CommandError, match="the broker does not do it: "):
        call_command("queues", action, "default", *more)


class Purging:
    """`manage.py queues purge` as a process, spoken to over its pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "queues", "purge", "default", "--name", "p"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def answer(self) -> None:
        self.stdin.write("\n")
        self.stdin.flush()

    def batch(self) -> list[str]:
        return list(iter(self.stdout.readline, "\n"))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("is_told", [False, True], ids=["unanswered", "answered"])
def test_a_purge_killed_in_the_middle_loses_nothing_and_doubles_nothing(is_told, monkeypatch):
    ids = fill(3 * messages.BATCH)
    purging = Purging()
    assert json.loads(purging.stdout.readline()) == {"messages": len(ids)}
    purging.answer()
    lines = purging.batch()
    if is_told:
        purging.answer()
        lines += purging.batch()
    os.kill(purging.process.pid, signal.SIGKILL)
    purging.process.communicate(timeout=30)
    assert waiting() == ids[messages.BATCH * is_told :]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(reversed(lines))))
    if is_told:
        call_command("queues", "restore", "--name", "p")
    else:
        with pytest.raises(CommandError, match="nothing of p is out of its queue"):
            call_command("queues", "restore", "--name", "p")
    assert waiting() == ids
    assert set(statuses(ids)) == {"PENDING"}


@pytest.mark.django_db(transaction=True)
def test_nothing_is_purged_without_a_word():
    ids = fill(2)
    purging = Purging()
    output, _errors = purging.process.communicate("", timeout=30)
    assert (json.loads(output), purging.process.returncode) == ({"messages": 2}, 0)
    assert waiting() == ids
