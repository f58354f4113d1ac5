"""Whatever dies, each published task has one row, and it comes to say the truth."""

import os
import re
import signal
from contextlib import closing

import pytest
import redis
from django.db import connection

from marketplace.masking import MASK
from task_manager import entries
from task_manager.clients import stream
from task_manager.clients.stream import Reader, backlog, writer
from task_manager.models import UNFINISHED, TaskExecution
from task_manager.services import executions, reconciliation
from task_manager.services.reconciliation import executions_reconcile
from tests.processes import wait_until
from tests.test_worker_cancel import running, traces
from tests.test_worker_tracking import row, send

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def impatient(broker: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty broker, and sweeps that look at every row at once."""
    monkeypatch.setattr(reconciliation, "QUIET_SECONDS", 0)


def reconcile_until_all_ended() -> None:
    def ended() -> bool:
        executions_reconcile()
        return not TaskExecution.objects.filter(status__in=UNFINISHED).exists()

    wait_until(ended, seconds=60, what="every row has ended")


@pytest.mark.parametrize("name", ["probe.trace", "probe.trace_late"])
def test_a_worker_killed_while_it_works(broker, tmp_path, name):
    count = 600
    with running(
        tmp_path,
        CELERY_BROKER_TRANSPORT_OPTIONS='{"visibility_timeout": 5, "unacked_restore_interval": 1}',
    ) as worker:
        ids = {str(number): send(name, str(number)) for number in range(count)}
        wait_until(lambda: broker.hlen("trace") > count / 4, what="it is at work")
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait()
    assert broker.hlen("trace") < count
    with running(
        tmp_path,
        "two",
        CELERY_BROKER_TRANSPORT_OPTIONS='{"visibility_timeout": 5, "unacked_restore_interval": 1}',
    ):
        wait_until(lambda: broker.llen("default") == 0, what="the rest is taken")
        reconcile_until_all_ended()
    assert TaskExecution.objects.count() == count
    status = dict(TaskExecution.objects.values_list("task_id", "status"))
    done = traces(broker)
    wrong = {
        number: status[task_id]
        for number, task_id in ids.items()
        if (status[task_id] == "SUCCESS") != (number in done)
    }
    # Between its trace and its result a task is neither: one for each child at most.
    assert len(wrong) <= 2, wrong
    lost = TaskExecution.objects.filter(status="FAILURE")
    assert all(task.error == reconciliation.LOST for task in lost)
    if name == "probe.trace_late":
        assert not wrong
        assert not lost
        assert len(done) == count


def test_a_message_that_waits_is_not_lost(broker):
    task_id = send("probe.trace", "waiting")
    executions.executions_catch_up()
    for _ in range(3):
        assert executions_reconcile()["lost"] == 0
    assert TaskExecution.objects.get().status == "PENDING"
    broker.delete("default")
    assert executions_reconcile()["lost"] == 0  # it may be on its way to a worker
    assert executions_reconcile()["lost"] == 1
    task = TaskExecution.objects.get(pk=task_id)
    assert (task.status, task.error) == ("FAILURE", reconciliation.LOST)


def test_a_task_that_runs_is_not_lost(broker, tmp_path):
    with running(tmp_path):
        task_id = send("probe.sleep", 6)
        row(task_id, "STARTED")
        for _ in range(2):
            assert executions_reconcile()["lost"] == 0
        assert (row(task_id, "SUCCESS").duration or 0) >= 6


def test_a_row_whose_publisher_could_not_tell(broker):
    task_id = send("probe.add", 1, b=2)
    writer().flush()
    broker.delete(stream.STREAM)
    assert not TaskExecution.objects.exists()
    assert executions_reconcile()["missing"] == 1
    task = TaskExecution.objects.get()
    assert (task.pk, task.status, task.queue) == (task_id, "PENDING", "default")
    # Nobody here knows the task, so whether the first is a secret.
    assert task.parameters == {"args": [MASK], "b": 2}


def test_the_end_is_told_by_the_result_backend(broker, tmp_path):
    with running(tmp_path):
        ids = [send("probe.add", 1, 2), send("probe.fail", "no boxes")]
        for task_id in ids:
            row(task_id, "SUCCESS", "FAILURE")
    TaskExecution.objects.update(status="STARTED", position=1, result=None, error="")
    assert executions_reconcile()["told"] == 2
    success, failure = (TaskExecution.objects.get(pk=task_id) for task_id in ids)
    assert (success.status, success.result) == ("SUCCESS", {"sum": 3})
    assert (failure.status, failure.error) == ("FAILURE", "ValueError('no boxes')")
    assert "raise ValueError(text)" in failure.traceback
    assert success.finished_at


def test_what_a_dead_reader_had_another_claims(broker):
    send("probe.add", 1, 2)
    writer().flush()
    with closing(Reader("dead")) as dead, closing(Reader("alive")) as alive:
        assert dead.new(block_ms=None) == []  # makes the group
        assert len(dead.new(block_ms=None)) == 1
        assert alive.new(block_ms=None) == []
        assert alive.claim() == []
        claimed = alive.claim(seconds=0)
        executions.executions_record(data for _, data in claimed)
        alive.acknowledge(claimed)
        assert (dead.own(), alive.claim(seconds=0)) == ([], [])
    assert TaskExecution.objects.get().status == "PENDING"


def test_a_reader_that_comes_back_has_what_it_had(broker):
    send("probe.add", 1, 2)
    writer().flush()
    with closing(Reader("one")) as reader:
        reader.new(block_ms=None)
        had = reader.new(block_ms=None)
    with closing(Reader("one")) as reader:
        assert reader.own() == had


def test_rows_are_right_without_any_worker(broker):
    ids = [send("probe.add", 1, number) for number in range(100)]
    executions.executions_catch_up()
    assert set(TaskExecution.objects.values_list("pk", flat=True)) == set(ids)
    assert backlog(broker).length == 0


def test_the_stream_keeps_what_nobody_wrote_and_cuts_the_rest(broker, monkeypatch):
    monkeypatch.setattr(stream, "CATCH_UP_SECONDS", -1)
    with closing(Reader("one")) as reader:
        reader.new(block_ms=None)
        entry = {"id": "task", "celery_name": "probe.add"}
        data = entries.transition(entry, "PENDING", 1.0)
        for _ in range(300):
            writer().send([data])
        first = reader.new(block_ms=None)
        assert len(first) == stream.READ
        reader.tidy()
        assert broker.xlen(stream.STREAM) == 300
        reader.acknowledge(first)
        reader.tidy()
        assert 100 <= broker.xlen(stream.STREAM) < 300
        assert backlog(reader.client).length == 100


def test_a_stream_that_overflows_says_so(broker, settings):
    settings.TASK_TRACKING_STREAM_LENGTH = 100
    data = entries.transition({"id": "task", "celery_name": "probe.add"}, "PENDING", 1.0)
    with closing(Reader("one")) as reader:
        reader.new(block_ms=None)
        writer().send([data])
        reader.acknowledge(reader.new(block_ms=None))
        assert not backlog(reader.client).overflowed
        for _ in range(500):
            writer().send([data])
        assert broker.xlen(stream.STREAM) <= 201
        assert backlog(reader.client).overflowed


def test_a_task_is_published_although_its_tracking_fails(broker, tmp_path):
    broker.set(stream.STREAM, "not a stream")
    with running(tmp_path):
        send("probe.trace", "anyway")
        wait_until(lambda: traces(broker) == {"anyway": 1}, what="the task runs")
        assert "The task history waits: " in (tmp_path / "one.log").read_text()
        broker.delete(stream.STREAM)
        assert row(send("probe.trace", "again"), "SUCCESS")
    # Once, for as long as it lasts; another may follow, until the stream has its readers again.
    reasons = re.findall("The task history waits: (.*)", (tmp_path / "one.log").read_text())
    assert ["WRONGTYPE" in reason for reason in reasons] in ([True], [True, False])


def test_the_pools_children_keep_no_notes(broker, tmp_path):
    """Each failure in a child would stay in its memory for good."""
    with running(tmp_path):
        for _ in range(3):
            row(send("probe.fail", "no boxes"), "FAILURE")
        noted = row(send("probe.notes"), "SUCCESS")
    assert noted.result == 0


def test_a_connection_that_postgresql_closed_is_opened_anew(broker, tmp_path):
    name = "promotions.tasks.release_expired_reservations"
    with running(tmp_path):
        for _ in range(4):
            row(send(name), "SUCCESS")
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        for _ in range(4):
            assert row(send(name), "SUCCESS", "FAILURE").status == "SUCCESS"


@pytest.mark.parametrize("seed", ["1", "2", "3"])  # of the order in which Celery has its steps
def test_the_end_of_a_stopped_workers_last_task_is_written(broker, tmp_path, seed):
    with running(tmp_path, PYTHONHASHSEED=seed) as worker:
        task_id = send("probe.sleep", 2)
        row(task_id, "STARTED")
        worker.terminate()
        assert worker.wait(30) == 0
        assert TaskExecution.objects.get(pk=task_id).status == "SUCCESS"


def test_the_last_words_of_a_replaced_child_are_heard(broker, tmp_path):
    with running(tmp_path, CELERY_WORKER_MAX_TASKS_PER_CHILD="1"):
        for number in range(5):
            send("probe.outside", f"import-{number}")
        for number in range(5):
            assert row(f"import-{number}", "SUCCESS").result == "all in"
