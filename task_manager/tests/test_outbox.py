"""Promised tasks: in the outbox from the caller's commit until they have ended."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import shared_task
from django.core.exceptions import ObjectDoesNotExist
from django.db import transaction

from marketplace.broker import QueueFull
from marketplace.celery import app
from task_manager import entries
from task_manager.clients.broker import broker as open_broker
from task_manager.exceptions import UnknownTask
from task_manager.models import DeadLetter, OutboxTask, TaskExecution
from task_manager.services import outbox, reconciliation
from task_manager.services.executions import executions_catch_up, executions_record
from task_manager.services.reconciliation import executions_reconcile
from task_manager.utils import enqueue

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("broker")]


@shared_task(name="tests.ship")
def ship(box, token="", *, at=None):
    """Never run: no worker listens here."""


@pytest.fixture
def sweeps(monkeypatch):
    """Sweeps that look at every row at once."""
    monkeypatch.setattr(reconciliation, "QUIET_SECONDS", 0)
    monkeypatch.setattr(outbox, "RECENT_SECONDS", 0)


def waiting(queue: str = "default") -> list[Any]:
    with open_broker() as queues:
        return list(queues.waiting(queue))


def lose(broker: Any) -> None:
    """The messages, as a Redis that lost its last second."""
    broker.delete("default", "unacked", "unacked_index")


def end(task_id: str, status: str = "SUCCESS") -> None:
    entry = {"id": task_id, "celery_name": "tests.ship", "finished_at": 2e9}
    executions_record([entries.transition(entry, status, 2e9)])


# --- Promising -----------------------------------------------------------------------------------
def test_a_promised_task_is_published_on_commit_with_all_that_was_given(make_shopper):
    user = make_shopper()
    with transaction.atomic():
        task_id = enqueue(ship, (7,), {"token": "hunter2"}, user=user, queue="high_priority")
        assert not waiting("high_priority")
    (message,) = waiting("high_priority")
    assert (message.task_id, message.headers["task"]) == (task_id, "tests.ship")
    assert (message.args, message.kwargs) == ([7], {"token": "hunter2"})
    assert message.headers[entries.USER_ID] == user.pk
    row = TaskExecution.objects.get(pk=task_id)
    assert (row.status, row.user, row.queue) == ("PENDING", user, "high_priority")
    assert row.parameters == {"box": 7, "token": entries.MASK}


def test_a_rolled_back_promise_is_none():
    with transaction.atomic():
        enqueue(ship, (7,))
        transaction.set_rollback(True)
    assert not waiting()
    assert not OutboxTask.objects.exists()
    assert not TaskExecution.objects.exists()


def test_dates_and_odd_text_arrive_as_they_were():
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    enqueue("tests.ship", ["\x00 \ud800 ñ"], {"at": moment})
    with app.connection_for_read() as connection, connection.SimpleQueue("default") as queue:
        args, kwargs, _embed = queue.get(timeout=5).payload
    assert (args, kwargs) == (["\x00 \ud800 ñ"], {"at": moment})


def test_a_countdown_begins_with_the_promise():
    before = datetime.now(UTC)
    enqueue(ship, (1,), countdown=60)
    eta = datetime.fromisoformat(waiting()[0].headers["eta"])
    assert timedelta(seconds=60) <= eta - before < timedelta(seconds=90)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: enqueue("tests.nothing"), UnknownTask),
        (lambda: enqueue(ship), TypeError),
        (lambda: enqueue(ship, (1,), {"colour": "red"}), TypeError),
        (lambda: enqueue(ship, (object(),)), TypeError),
    ],
)
def test_what_cannot_be_run_is_not_promised(call, error):
    with pytest.raises(error):
        call()
    assert not OutboxTask.objects.exists()


# --- A broker that is away or full ----------------------------------------------------------------
def test_without_the_broker_the_promise_stands_and_is_kept_later(no_broker_for, caplog):
    with no_broker_for():
        task_id = enqueue(ship, (7,))
    assert "promised tasks wait in the outbox" in caplog.text
    assert TaskExecution.objects.get(pk=task_id).status == "PENDING"
    assert OutboxTask.objects.get().published_at is None
    executions_reconcile()
    assert [message.task_id for message in waiting()] == [task_id]
    executions_reconcile()
    assert len(waiting()) == 1


def test_a_full_queue_holds_up_no_other(limit_queues):
    limit_queues(default=1)
    first, second = enqueue(ship, (1,)), enqueue(ship, (2,))
    third = enqueue(ship, (3,), queue="low_priority")
    with pytest.raises(QueueFull):
        ship.delay(4)
    assert [message.task_id for message in waiting()] == [first]
    assert [message.task_id for message in waiting("low_priority")] == [third]
    assert executions_reconcile()["lost"] == 0
    assert OutboxTask.objects.filter(published_at=None).get().pk == second


# --- Losses --------------------------------------------------------------------------------------
def test_a_promised_task_that_was_lost_is_published_again(broker, sweeps):
    task_id = enqueue(ship, (7,), {"token": "hunter2"})
    lose(broker)
    assert executions_reconcile()["again"] == 0  # it may be on its way to a worker
    assert executions_reconcile()["again"] == 1
    (message,) = waiting()
    assert (message.task_id, message.args, message.kwargs) == (task_id, [7], {"token": "hunter2"})
    assert TaskExecution.objects.get().status == "PENDING"


def test_one_that_waits_or_is_held_is_not_published_again(broker, sweeps):
    enqueue(ship, (7,))
    for _ in range(3):
        assert executions_reconcile()["again"] == 0
    with app.connection_for_read() as connection:
        connection.SimpleQueue("default").get(timeout=5)
        for _ in range(3):
            assert executions_reconcile()["again"] == 0
    assert OutboxTask.objects.get().publications == 1


def test_a_lost_attempt_is_published_as_that_attempt(broker, sweeps):
    task_id = enqueue(ship, (7,))
    entry = {"id": task_id, "celery_name": "tests.ship", "retries": 2, "started_at": 1.0}
    executions_record([entries.transition(entry, "STARTED", 1.0)])
    lose(broker)
    executions_reconcile()
    executions_reconcile()
    assert waiting()[0].headers["retries"] == 2


def test_a_cancelled_one_is_not_published_again(broker, sweeps):
    task_id = enqueue(ship, (7,))
    TaskExecution.objects.update(cancelled_at=datetime.now(UTC))
    lose(broker)
    executions_reconcile()
    assert executions_reconcile()["again"] == 0
    assert TaskExecution.objects.get(pk=task_id).status == "REVOKED"
    assert not OutboxTask.objects.exists()


def test_one_that_is_lost_again_and_again_becomes_a_dead_letter(broker, sweeps, settings):
    task_id = enqueue(ship, (7,), {"token": "hunter2"})
    for _ in range(settings.TASK_MAX_DELIVERIES):
        lose(broker)
        executions_reconcile()
        executions_reconcile()
    letter = DeadLetter.objects.get()
    assert (letter.task_id, letter.args, letter.kwargs) == (task_id, [7], {"token": "hunter2"})
    assert (letter.error, letter.celery_name) == (reconciliation.LOST, "tests.ship")
    assert TaskExecution.objects.get().status == "FAILURE"
    assert not OutboxTask.objects.exists()
    assert not waiting()


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "REVOKED"])
def test_one_that_ended_is_forgotten(broker, status):
    ended, other = enqueue(ship, (1,)), enqueue(ship, (2,))
    end(ended, status)
    executions_reconcile()
    assert OutboxTask.objects.get().pk == other


def test_sweeps_at_once_publish_once(broker, sweeps, monkeypatch):
    enqueue(ship, (7,))
    lose(broker)
    executions_reconcile()
    taken = outbox._take
    monkeypatch.setattr(outbox, "RECENT_SECONDS", 20)
    OutboxTask.objects.update(published_at=datetime.now(UTC) - timedelta(minutes=1))

    def and_another(*parameters):
        promises = taken(*parameters)
        assert not taken(*parameters)
        return promises

    monkeypatch.setattr(outbox, "_take", and_another)
    assert executions_reconcile()["again"] == 1
    assert len(waiting()) == 1


def test_the_history_keeps_one_row(broker, sweeps):
    task_id = enqueue(ship, (7,))
    executions_catch_up()
    lose(broker)
    executions_reconcile()
    executions_reconcile()
    executions_catch_up()
    end(task_id)
    executions_reconcile()
    row = TaskExecution.objects.get()
    assert (row.pk, row.status) == (task_id, "SUCCESS")
    with pytest.raises(ObjectDoesNotExist):
        OutboxTask.objects.get()
