"""Cancelling holds: what waits never starts, what runs is ended, whoever is up or down."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import current_app
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from django.contrib.auth.models import User
from django.test import RequestFactory

from task_manager.clients.cancellations import cancellations
from task_manager.exceptions import AlreadyFinished
from task_manager.models import TaskExecution
from task_manager.services.cancel import execution_cancel
from task_manager.services.executions import executions_catch_up
from tests.processes import celery, wait_until
from tests.test_worker_tracking import EXAMPLES, TASKS, ended, row, send

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def empty(broker: redis.Redis) -> None:
    pass


@contextmanager
def running(tmp_path: Path, name: str = "one", *arguments: str, **environ: str) -> Iterator[Any]:
    log = tmp_path / f"{name}.log"
    with celery(
        "worker",
        "--concurrency=2",
        f"--hostname={name}@test",
        "--loglevel=info",
        *arguments,
        log=log,
        PYTHONPATH=EXAMPLES,
        CELERY_IMPORTS=TASKS,
        **environ,
    ) as process:
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield process


def traces(broker: redis.Redis) -> dict[str, int]:
    trace: Any = broker.hgetall("trace")
    return {name.decode(): int(number) for name, number in trace.items()}


def test_a_waiting_task_never_starts_although_no_worker_was_up(broker, tmp_path):
    cancelled, other = send("probe.trace", "cancelled"), send("probe.trace", "other")
    assert execution_cancel(cancelled).status == "REVOKED"
    with pytest.raises(TaskRevokedError):
        AsyncResult(cancelled).get(timeout=1)
    with running(tmp_path):
        assert row(other, "SUCCESS")
    assert traces(broker) == {"other": 1}
    task = TaskExecution.objects.get(pk=cancelled)
    assert (task.status, task.started_at) == ("REVOKED", None)
    assert task.cancelled_at


def test_a_task_held_by_a_worker_never_starts(broker, tmp_path):
    with running(tmp_path, CELERY_WORKER_CONCURRENCY="1") as worker:
        blocking = [send("probe.sleep", 2) for _ in range(2)]
        row(blocking[1], "STARTED")
        held = send("probe.trace", "held")
        row(held, "PENDING")
        assert execution_cancel(held).status == "REVOKED"
        assert worker.poll() is None
        for task_id in blocking:
            row(task_id, "SUCCESS")
        assert ended("probe.trace", "after").status == "SUCCESS"
    assert "held" not in traces(broker)


def test_a_delayed_task_never_starts_after_a_restart(broker, tmp_path):
    with running(tmp_path):
        delayed = str(current_app.send_task("probe.trace", ("delayed",), countdown=3).id)
        row(delayed, "PENDING")
        execution_cancel(delayed)
    with running(tmp_path, "two"):
        row(str(current_app.send_task("probe.trace", ("later",), countdown=4).id), "SUCCESS")
    assert traces(broker) == {"later": 1}


def test_a_running_task_is_terminated(broker, tmp_path):
    with running(tmp_path):
        task_id = send("probe.sleep", 60)
        row(task_id, "STARTED")
        execution_cancel(task_id)
        task = row(task_id, "REVOKED")
        assert task.error == "The task was terminated."
        assert task.cancelled_at
        assert ended("probe.add", 1, 2).status == "SUCCESS"


def test_a_task_that_ignores_sigterm_is_killed_after_the_grace(broker, tmp_path, settings):
    settings.TASK_CANCEL_GRACE_SECONDS = 1
    with running(tmp_path) as worker:
        task_id = send("probe.stubborn", 300)
        row(task_id, "STARTED")
        children = children_of(worker.pid)
        execution_cancel(task_id)
        row(task_id, "REVOKED")
        wait_until(
            lambda: children_of(worker.pid) - children, what="the child is killed and replaced"
        )
        assert "did not end at SIGTERM: SIGKILL" in (tmp_path / "one.log").read_text()
        assert ended("probe.add", 1, 2).status == "SUCCESS"


def children_of(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_a_frozen_worker_starts_nothing_cancelled_when_it_wakes(broker, tmp_path):
    with running(tmp_path, CELERY_WORKER_CONCURRENCY="1") as worker:
        wait_until(lambda: cancellations().workers(seconds=2), what="the worker says that it lives")
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            frozen = [send("probe.trace", f"frozen{number}") for number in range(3)]
            wait_until(lambda: not cancellations().workers(seconds=1.5), what="it is silent")
            for task_id in frozen:
                execution_cancel(task_id)
        finally:
            os.kill(worker.pid, signal.SIGCONT)
        assert ended("probe.trace", "awake").status == "SUCCESS"
    assert traces(broker) == {"awake": 1}


def test_a_finished_task_cannot_be_cancelled(broker, tmp_path):
    with running(tmp_path):
        task = ended("probe.add", 1, 2)
        with pytest.raises(AlreadyFinished):
            execution_cancel(task.pk)
    with pytest.raises(TaskExecution.DoesNotExist):
        execution_cancel("unheard-of")


def test_cancel_user_tasks_as_documented(broker, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    from nomina import cancelar
    from nomina.tasks import consolidar_nomina, generar_reporte_nomina

    ana, eva = User.objects.create_user("ana"), User.objects.create_user("eva")
    for user in (ana, eva):
        consolidar_nomina.delay(7, user_id=user.pk)
        generar_reporte_nomina.delay({}, user_id=user.pk)
    request = RequestFactory().get("/")
    request.user = ana
    assert cancelar.cancelar_consolidar(request) == {"cancelled": 1, "failed": 0}
    assert cancelar.cancelar(request) == {"cancelled": 1, "failed": 0}
    assert capsys.readouterr().out == "Canceladas: 1, Fallidas: 0\n"
    assert cancelar.cancelar(request) == {"cancelled": 0, "failed": 0}
    executions_catch_up()
    assert set(TaskExecution.objects.values_list("user__username", "status")) == {
        ("ana", "REVOKED"),
        ("eva", "PENDING"),
    }


def test_a_running_task_of_a_dead_worker_cannot_be_told(broker, tmp_path):
    with running(tmp_path) as worker:
        task_id = send("probe.sleep", 60)
        row(task_id, "STARTED")
        worker.kill()
        worker.wait()
    wait_until(lambda: not cancellations().workers(seconds=3), what="it is silent")
    task = execution_cancel(task_id)
    assert (task.status, bool(task.cancelled_at)) == ("STARTED", True)
