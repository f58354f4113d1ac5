"""Cancels tasks so that it holds: what waits never starts, what runs is terminated."""

import time
from collections.abc import Iterable, Sequence

from celery import current_app
from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from task_manager import entries
from task_manager.clients.cancellations import LEASE, cancellations
from task_manager.clients.stream import writer
from task_manager.exceptions import AlreadyFinished
from task_manager.models import UNFINISHED, TaskExecution, TaskStatus
from task_manager.services.executions import executions_catch_up, executions_record

#: Seconds since its last sign of life after which no answer of a worker is expected.
ALIVE_SECONDS = 3 * LEASE
#: Tasks of one broadcast.
BATCH = 1000


def execution_cancel(task_id: str) -> TaskExecution:
    """Cancel one task and return its row.

    A task that waited is REVOKED; one that runs has been told to end and is REVOKED once it did.
    Raises TaskExecution.DoesNotExist, or AlreadyFinished.
    """
    executions_catch_up(task_id)
    execution = TaskExecution.objects.get(pk=task_id)
    if execution.is_finished:
        raise AlreadyFinished
    executions_cancel([task_id])
    execution.refresh_from_db()
    return execution


def executions_cancel(task_ids: Sequence[str]) -> dict[str, int]:
    """Cancel those of these tasks that have not finished.

    `{"cancelled": n, "failed": n}`: failed are those that run on a worker that did not answer.
    Should it be alive after all, or its message come back, the cancellation still holds.
    """
    outcome = {"cancelled": 0, "failed": 0}
    for start in range(0, len(task_ids), BATCH):
        cancelled, failed = _cancel(_unfinished(task_ids[start : start + BATCH]))
        outcome["cancelled"] += cancelled
        outcome["failed"] += failed
    return outcome


def _unfinished(task_ids: Iterable[str]) -> QuerySet[TaskExecution]:
    return TaskExecution.objects.filter(task_id__in=task_ids, status__in=UNFINISHED)


def _cancel(executions: QuerySet[TaskExecution]) -> tuple[int, int]:
    statuses = dict(executions.values_list("task_id", "status"))
    if not statuses:
        return 0, 0
    cancellations().add(list(statuses))
    executions.update(cancelled_at=timezone.now())
    terminated = _tell_workers(list(statuses))
    waiting = [
        task_id
        for task_id, status in statuses.items()
        if status != TaskStatus.STARTED and task_id not in terminated
    ]
    _revoke(waiting)
    cancelled = len(waiting) + len(terminated)
    return cancelled, len(statuses) - cancelled


def _tell_workers(task_ids: list[str]) -> set[str]:
    """Have running tasks terminated; their ids. Returns when no worker can start one any more."""
    workers = cancellations().workers(seconds=ALIVE_SECONDS)
    if not workers:
        return set()
    answers = current_app.control.broadcast(
        "cancel_tasks",
        arguments={"task_ids": task_ids, "grace": settings.TASK_CANCEL_GRACE_SECONDS},
        reply=True,
        # Longer than the lease: who has not answered by then must look again before it starts one.
        timeout=LEASE + 0.5,
        limit=len(workers),
    )
    return {
        task_id
        for answer in answers or []
        for told in answer.values()
        for task_id in told.get("terminated", [])
    }


def _revoke(task_ids: list[str]) -> None:
    """Say REVOKED in the history, to live clients, and to whoever waits for the result."""
    if not task_ids:
        return
    now = time.time()
    revoked = [
        entries.transition(
            {"id": task_id, "error": "The task was cancelled.", "finished_at": now},
            TaskStatus.REVOKED,
            now,
        )
        for task_id in task_ids
    ]
    executions_record(revoked)
    writer().send(revoked)
    for task_id in task_ids:
        current_app.backend.mark_as_revoked(task_id, "The task was cancelled.")
