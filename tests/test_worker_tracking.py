"""A real worker's tasks in the history: each state, each way to end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.contrib.auth.models import User

from task_manager import entries
from task_manager.models import TaskExecution
from tests.processes import celery, wait_until

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

EXAMPLES = str(Path(__file__).parent / "examples")
TASKS = "probe,nomina.tasks,contabilidad.tasks"


@pytest.fixture(scope="module")
def worker(worker_database, tmp_path_factory) -> Iterator[Path]:
    log = tmp_path_factory.mktemp("worker") / "celery.log"
    with celery(
        "worker",
        "--concurrency=2",
        "--loglevel=info",
        log=log,
        PYTHONPATH=EXAMPLES,
        CELERY_IMPORTS=TASKS,
        # What no worker knows has no time to become known.
        TASK_UNKNOWN_SECONDS="0",
    ):
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield log


def send(name: str, *args: Any, **kwargs: Any) -> str:
    return str(current_app.send_task(name, args, kwargs).id)


def row(task_id: str, *statuses: str) -> TaskExecution:
    """The row, as soon as it is in one of these states."""

    def found() -> TaskExecution | None:
        return TaskExecution.objects.filter(pk=task_id, status__in=statuses).first()

    wait_until(found, what=f"{task_id} is {statuses}")
    return found()  # type: ignore[return-value]


def ended(name: str, *args: Any, **kwargs: Any) -> TaskExecution:
    return row(send(name, *args, **kwargs), "SUCCESS", "FAILURE", "REVOKED")


def test_a_success(worker):
    user = User.objects.create_user("ana")
    task = ended("probe.add", 1, b=2, password="hunter2")
    assert (task.status, task.result, task.progress) == ("SUCCESS", {"sum": 3}, 100)
    assert (task.task_name, task.task_module, task.description) == (
        "probe.add",
        "probe",
        "Add two numbers.",
    )
    assert task.parameters == {"a": 1, "b": 2, "password": entries.MASK}
    assert (task.queue, task.retries, task.error) == ("default", 0, "")
    assert task.worker.startswith("celery@")
    assert task.started_at
    assert task.finished_at
    assert task.created_at <= task.started_at <= task.finished_at
    assert task.duration is not None
    assert 0 <= task.duration < 5
    task = ended("nomina.tasks.consolidar_nomina", 7, user_id=user.pk)
    assert (task.user, task.task_name, task.task_module) == (user, "nomina.consolidar", "nomina")
    assert task.description == "Consolidar nómina del período"
    assert task.parameters == {"periodo_id": 7, "user_id": user.pk}


def test_a_failure(worker):
    task = ended("probe.fail", "out of boxes")
    assert (task.status, task.error) == ("FAILURE", "ValueError('out of boxes')")
    assert "in fail\n    raise ValueError(text)" in task.traceback
    assert task.finished_at
    assert task.duration is not None


def test_a_retry(worker):
    task_id = send("probe.flaky", 1)
    task = row(task_id, "RETRY")
    assert (task.error, task.finished_at, task.retries) == ("ConnectionError('busy')", None, 0)
    task = row(task_id, "SUCCESS")
    assert (task.retries, task.error, task.result) == (1, "", "at last")


def test_a_running_task(worker):
    task = row(send("probe.sleep", 1), "STARTED")
    assert task.started_at
    assert task.worker
    assert (row(task.pk, "SUCCESS").duration or 0) >= 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("probe.endless", "TimeLimitExceeded(1.5)"),
        ("probe.suicide", "WorkerLostError"),
        ("probe.reject", "reject requeue=False: no"),
        ("probe.unheard_of", "No task of this name is known to the worker"),
    ],
)
def test_what_the_main_process_alone_sees(worker, name, error):
    task = ended(name)
    assert task.status == "FAILURE"
    assert error in task.error


def test_a_task_that_ignores_itself(worker):
    assert ended("probe.ignore").status == "REVOKED"


def test_an_ignored_result_is_kept_by_its_looks(worker):
    task = ended("probe.unheard")
    assert (task.status, task.result) == ("SUCCESS", "'nothing'")


def test_an_expired_task(worker):
    result = current_app.send_task("probe.add", (1, 2), expires=-1)
    task = row(result.id, "REVOKED")
    assert task.error == "The task was expired."


def test_manual_tracking(worker):
    user = User.objects.create_user("ana")
    task_id = send("contabilidad.tasks.procesar_contabilidad", [0.4] * 5, user_id=user.pk)
    wait_until(
        lambda: TaskExecution.objects.filter(
            pk=task_id, status="STARTED", progress__gt=0, progress__lt=100
        ).exists(),
        what="progress is seen",
    )
    task = TaskExecution.objects.get(pk=task_id)
    assert task.message.startswith("Procesando ")
    task = row(task_id, "SUCCESS")
    assert (task.task_name, task.task_module) == ("contabilidad.procesar", "contabilidad")
    assert task.celery_name == "contabilidad.tasks.procesar_contabilidad"
    assert task.description == "Procesando datos de contabilidad"
    assert (task.user, task.result) == (user, {"procesados": 5, "errores": 0})
    assert task.message == "Procesando 5/5"


def test_manual_tracking_of_an_error(worker):
    user = User.objects.create_user("ana")
    task = ended("contabilidad.tasks.procesar_contabilidad", [0, "malo"], user.pk)
    wait_until(
        lambda: TaskExecution.objects.get(pk=task.pk).error == "ValueError('un item malo')",
        what="Celery's own word",
    )
    task = TaskExecution.objects.get(pk=task.pk)
    assert (task.status, task.progress, task.message) == ("FAILURE", 50, "Procesando 1/2")


def test_a_published_task_is_seen_within_a_second_and_once(worker):
    ids = [send("probe.add", 1, number) for number in range(50)]
    for task_id in ids:
        row(task_id, "SUCCESS")
    assert TaskExecution.objects.filter(pk__in=ids).count() == 50
