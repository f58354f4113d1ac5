"""The history as one ORM write a transition: what `benchmarks.tracking` compares ours with."""

from typing import Any

from django.apps import AppConfig
from django.utils import timezone


class Tables(AppConfig):
    """`task_manager` with its tables, and without its tracking."""

    name = "task_manager"


class Writes(Tables):
    """The same with a row created at each publication and updated at each start and success."""

    def ready(self) -> None:
        from celery import signals

        signals.before_task_publish.connect(_pending, weak=False)
        signals.task_prerun.connect(_started, weak=False)
        signals.task_success.connect(_succeeded, weak=False)


def _pending(sender: str, headers: dict[str, Any], **_: Any) -> None:
    from task_manager.models import TaskExecution

    now = timezone.now()
    TaskExecution.objects.create(
        task_id=headers["id"],
        task_name=sender,
        celery_name=sender,
        task_module=sender.partition(".")[0],
        position=0,
        changed_at=now,
        created_at=now,
    )


def _started(task_id: str, **_: Any) -> None:
    now = timezone.now()
    _update(task_id, status="STARTED", position=1, changed_at=now, started_at=now)


def _succeeded(sender: Any, result: Any, **_: Any) -> None:
    now = timezone.now()
    _update(
        sender.request.id,
        status="SUCCESS",
        position=2,
        changed_at=now,
        finished_at=now,
        progress=100,
        result=result,
    )


def _update(task_id: str, **fields: Any) -> None:
    from task_manager.models import TaskExecution

    TaskExecution.objects.filter(pk=task_id).update(**fields)
