"""A real worker's failures: tried again, kept as dead letters, run anew."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from task_manager.models import DeadLetter, TaskExecution
from task_manager.services.requeue import dead_letter_requeue
from tests import retrying_tasks as tasks
from tests.processes import celery, wait_until

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def worker(worker_database, tmp_path_factory) -> Iterator[Path]:
    log = tmp_path_factory.mktemp("worker") / "celery.log"
    imports = {"CELERY_IMPORTS": tasks.__name__}
    with celery("worker", "--concurrency=2", "--loglevel=info", log=log, **imports):
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where each try leaves a line."""
    return tmp_path / "tries"


def tries(path: Path) -> int:
    return len(path.read_text().splitlines())


def letter(task_id: str) -> DeadLetter:
    wait_until(DeadLetter.objects.filter(task_id=task_id).exists, what="the dead letter")
    return DeadLetter.objects.get(task_id=task_id)


def ended(task_id: str) -> TaskExecution:
    rows = TaskExecution.objects.filter(pk=task_id, finished_at__isnull=False)
    wait_until(rows.exists, what="the task's end")
    return rows.get()


def test_a_task_that_fails_always_is_tried_four_times_and_kept(worker, path):
    kwargs = {"open_after": 99, "password": "hunter2"}
    task_id = tasks.deliver.delay(str(path), **kwargs).id
    kept = letter(task_id)
    assert tries(path) == 4
    assert (kept.args, kept.kwargs) == ([str(path)], kwargs)
    assert (kept.celery_name, kept.queue) == ("tests.retrying_tasks.deliver", "default")
    assert (kept.retries, kept.status) == (3, "WAITING")
    assert kept.error == "ConnectionError('no route to the shop')"
    assert "in deliver" in kept.traceback
    execution = ended(task_id)
    assert (execution.status, execution.retries) == ("FAILURE", 3)
    assert "hunter2" not in str(execution.parameters)


def test_a_requeued_letter_runs_again_and_is_closed(worker, path):
    task_id = tasks.deliver.delay(str(path), open_after=4).id
    new_id = dead_letter_requeue(letter(task_id).pk)
    execution = ended(new_id)
    assert (execution.status, execution.result, tries(path)) == ("SUCCESS", "delivered", 5)
    closed = letter(task_id)
    assert (closed.status, closed.requeued_task_id) == ("REQUEUED", new_id)
    assert not DeadLetter.objects.filter(task_id=new_id).exists()


def test_a_requeued_letter_that_fails_again_is_another_letter(worker, path):
    first = letter(tasks.refuse.delay(str(path)).id)
    second = letter(dead_letter_requeue(first.pk))
    assert (second.args, second.status, tries(path)) == (first.args, "WAITING", 2)


def test_a_task_that_recovers_is_not_kept(worker, path):
    execution = ended(tasks.deliver.delay(str(path), open_after=2).id)
    assert (execution.status, execution.retries, tries(path)) == ("SUCCESS", 2, 3)
    assert not DeadLetter.objects.exists()


def test_an_error_that_no_retry_helps_is_kept_at_once(worker, path):
    kept = letter(tasks.refuse.delay(str(path)).id)
    assert (kept.error, kept.retries, tries(path)) == ("ValueError('no such box')", 0, 1)


@pytest.mark.parametrize(
    ("task", "error"), [(tasks.hang, "TimeLimitExceeded"), (tasks.die, "WorkerLostError")]
)
def test_a_task_whose_process_was_killed_is_kept(worker, path, task, error):
    kept = letter(task.delay(str(path)).id)
    assert error in kept.error
    assert (kept.args, kept.kwargs, tries(path)) == ([str(path)], {}, 1)


@pytest.mark.parametrize(("task", "count"), [(tasks.forget, 4), (tasks.plain, 1)])
def test_a_task_that_asks_for_no_letter_leaves_none(worker, path, task, count):
    assert ended(task.delay(str(path)).id).status == "FAILURE"
    assert tries(path) == count
    assert not DeadLetter.objects.exists()
