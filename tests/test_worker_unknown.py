"""Workers of two releases beside one another: the old one does not know a task of the new one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import current_app
from django.utils import timezone

from task_manager.models import DeadLetter, TaskExecution
from task_manager.services.reconciliation import executions_reconcile
from task_manager.services.requeue import dead_letter_requeue
from tests.processes import celery, wait_until
from tests.servers import cut_off
from tests.test_worker_cancel import running, traces
from tests.test_worker_leases import LATE, SHORT
from tests.test_worker_tracking import row, send

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

#: Known to every release.
KNOWN = "promotions.tasks.release_expired_reservations"


@pytest.fixture(autouse=True)
def empty(broker: redis.Redis) -> None:
    """An empty broker."""


@contextmanager
def old(tmp_path: Path, name: str = "old", **environ: str) -> Iterator[Any]:
    """A worker that knows nothing of the probe's tasks."""
    log = tmp_path / f"{name}.log"
    options = ("--concurrency=2", f"--hostname={name}@test", "--loglevel=info")
    with celery("worker", *options, log=log, **LATE, **SHORT, **environ) as process:
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield process


def new(tmp_path: Path, name: str = "new") -> Any:
    return running(tmp_path, name, **LATE, **SHORT)


def is_known_as_unknown(tmp_path: Path, task: str = "probe.trace") -> None:
    log = tmp_path / "old.log"
    wait_until(lambda: f"knows no task {task}" in log.read_text(), what="it was met")


def rings(broker: redis.Redis) -> int:
    info: Any = broker.xinfo_stream("broker:bell")
    return int(info["entries-added"])


def test_a_task_of_the_new_release_waits_for_it(broker, tmp_path):
    with old(tmp_path):
        task_id = send("probe.trace", "early")
        is_known_as_unknown(tmp_path)
        # Meanwhile it does what it knows.
        for _ in range(3):
            assert row(send(KNOWN), "SUCCESS").worker == "old@test"
        assert row(task_id, "PENDING")
        with new(tmp_path):
            assert row(task_id, "SUCCESS").worker == "new@test"
            assert traces(broker) == {"early": 1}
    assert (tmp_path / "old.log").read_text().count("knows no task probe.trace") == 1


def test_many_of_them_hold_up_nobody_and_none_is_lost(broker, tmp_path):
    with old(tmp_path):
        for number in range(100):
            send("probe.trace", str(number))
        is_known_as_unknown(tmp_path)
        assert row(send(KNOWN), "SUCCESS")
        with new(tmp_path):
            for number in range(100, 150):
                send("probe.trace", str(number))
            wait_until(lambda: len(traces(broker)) == 150, seconds=120, what="all have run")
            wait_until(lambda: broker.hlen("unacked") == 0, what="nothing is held")
    assert set(traces(broker).values()) == {1}


def test_a_worker_that_does_not_know_a_task_asks_for_it_ever_more_rarely(broker, tmp_path):
    with old(tmp_path):
        send("probe.trace", "early")
        is_known_as_unknown(tmp_path)
        before = rings(broker)
        time.sleep(6)
        assert 1 <= rings(broker) - before <= 6


def test_the_sweep_does_not_take_it_for_lost(broker, tmp_path, monkeypatch):
    monkeypatch.setattr("task_manager.services.reconciliation.QUIET_SECONDS", 0)
    with old(tmp_path):
        task_id = send("probe.trace", "early")
        is_known_as_unknown(tmp_path)
        row(task_id, "PENDING")
        for _ in range(4):
            assert executions_reconcile()["lost"] == 0
            time.sleep(0.5)


def test_after_its_time_it_fails_and_is_kept_as_a_dead_letter(broker, tmp_path):
    with old(tmp_path, TASK_UNKNOWN_SECONDS="2"):
        task_id = send("probe.add", 1, b=2)
        task = row(task_id, "FAILURE")
    assert "No task of this name is known to the worker" in task.error
    letter = DeadLetter.objects.get()
    assert (letter.celery_name, letter.args, letter.kwargs) == ("probe.add", [1], {"b": 2})
    assert broker.hlen("unacked") == broker.llen("default") == 0

    @current_app.task(name="probe.add")
    def add(a, b): ...

    try:
        again = dead_letter_requeue(letter.pk)
    finally:
        current_app.tasks.unregister("probe.add")
    with new(tmp_path):
        assert row(again, "SUCCESS").result == {"sum": 3}


def test_one_that_expires_meanwhile_is_revoked(broker, tmp_path):
    with old(tmp_path):
        expires = timezone.now() + timedelta(seconds=2)
        result = current_app.send_task("probe.trace", ["early"], expires=expires)
        task = row(result.id, "REVOKED")
    assert task.error == "The task was expired."
    assert str(result.state) == "REVOKED"
    assert not DeadLetter.objects.exists()
    assert broker.hlen("unacked") == broker.llen("default") == 0


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_it_outlives_the_worker_that_holds_it(broker, tmp_path, end):
    with old(tmp_path) as worker:
        task_id = send("probe.trace", "early")
        is_known_as_unknown(tmp_path)
        wait_until(lambda: broker.hlen("unacked") == 1, what="it is held")
        getattr(worker, end)()
        worker.wait(30)
    with new(tmp_path):
        assert row(task_id, "SUCCESS")
    assert traces(broker) == {"early": 1}


def test_it_outlives_a_lost_connection(broker, tmp_path):
    with old(tmp_path):
        task_id = send("probe.trace", "early")
        is_known_as_unknown(tmp_path)
        wait_until(lambda: broker.hlen("unacked") == 1, what="it is held")
        cut_off(broker)
        assert row(send(KNOWN), "SUCCESS")
        with new(tmp_path):
            assert row(task_id, "SUCCESS")
    assert traces(broker) == {"early": 1}


def test_waiting_counts_as_no_failure(broker, tmp_path):
    """Each try of it is a delivery, of which a task that ends workers has a few."""
    with old(tmp_path, TASK_MAX_DELIVERIES="1"):
        task_id = send("probe.trace", "early")
        is_known_as_unknown(tmp_path)
        before = rings(broker)
        wait_until(lambda: rings(broker) > before + 1, what="it came back twice")
    with running(tmp_path, "new", **LATE, **SHORT, TASK_MAX_DELIVERIES="1"):
        assert row(task_id, "SUCCESS")
    assert TaskExecution.objects.count() == 1
