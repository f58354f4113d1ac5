"""What the project's apps use: name a task, follow it, ask for tasks, cancel them."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from celery import current_task
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.utils import timezone

from task_manager import entries, selectors
from task_manager.clients.stream import writer
from task_manager.models import UNFINISHED, TaskExecution, TaskStatus, TaskTemplate
from task_manager.services import cancel, notifications
from task_manager.services.executions import executions_catch_up
from task_manager.services.outbox import task_enqueue

F = TypeVar("F", bound=Callable[..., Any])


# --- Tracking ------------------------------------------------------------------------------------
def track_task(name: str, module: str, description: str = "") -> Callable[[F], F]:
    """Name a task in the history. Stands under `@shared_task`; the function stays as it is.

    Its parameter `user_id`, when it has one, links the user.
    """

    def decorate(function: F) -> F:
        setattr(function, entries.TRACKED, (name, module, description))
        return function

    return decorate


def start_task_tracking(
    task_id: str,
    task_name: str,
    module: str,
    user: User | None = None,
    description: str = "",
    parameters: dict[str, Any] | None = None,
) -> TaskExecution:
    """Describe a task that runs: one of Celery's, or any work under an id of one's own."""
    now = time.time()
    user_id = user.pk if user else None
    entry: dict[str, Any] = {
        "id": task_id,
        "name": task_name,
        "module": module,
        "description": description,
        "user_id": user_id,
        "parameters": entries.bounded(parameters or {}),
        "started_at": now,
        "own": True,
    }
    _send(entry, TaskStatus.STARTED, now)
    # Out before the task ends: its end is to be counted under this name.
    writer().flush()
    moment = timezone.now()
    return TaskExecution(
        task_id=task_id,
        task_name=task_name,
        task_module=module,
        description=description,
        user_id=user_id,
        status=TaskStatus.STARTED,
        parameters=entry["parameters"],
        created_at=moment,
        started_at=moment,
    )


def update_task_progress(execution_id: str, progress: int, message: str = "") -> None:
    """Say how far a running task has come, 0 to 100; costs next to nothing, call it often."""
    bounded = min(100, max(0, int(progress)))
    _send(
        {"id": execution_id, "progress": bounded, "message": message},
        TaskStatus.STARTED,
        time.time(),
    )


def finish_task(
    execution_id: str, success: bool = True, result: Any = None, error_message: str = ""
) -> None:
    """Say how a task ended. Should Celery say otherwise of a task of its own, it has the word."""
    now = time.time()
    entry: dict[str, Any] = {"id": execution_id, "finished_at": now}
    if success:
        entry |= {"result": entries.bounded(result), "progress": 100}
        _send(entry, TaskStatus.SUCCESS, now, presumed=True)
    else:
        entry["error"] = entries.shortened(error_message, entries.MAX_TEXT)
        _send(entry, TaskStatus.FAILURE, now, presumed=True)
    # Out before the task ends: what its worker then says of the end must not overtake this.
    writer().flush()


def _send(entry: dict[str, Any], status: str, at: float, *, presumed: bool = False) -> None:
    request = current_task.request if current_task else None
    if request and request.id == entry["id"]:
        entry = entries.of_message(vars(request), request.args, request.kwargs) | entry
    data = entries.transition(entry, status, at, presumed=presumed)
    writer().add(lambda: data)


# --- Promising -----------------------------------------------------------------------------------
def enqueue(
    task: str | Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    user: User | None = None,
    queue: str = "",
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: datetime | None = None,
) -> str:
    """Run a task for certain: a promise in the caller's transaction; the task's id.

    Unlike `delay()` it survives a rollback, a broker that is away or full, and what Redis loses
    when it is killed; as every task it may run twice. `task` is one or its name, `countdown` is in
    seconds. Raises UnknownTask, and TypeError for arguments that the task or JSON does not take.
    """
    return task_enqueue(
        task if isinstance(task, str) else str(task.name),  # type: ignore[attr-defined]
        args,
        kwargs,
        user_id=user.pk if user else None,
        queue=queue,
        countdown=countdown,
        eta=eta,
        expires=expires,
    )


# --- Templates -----------------------------------------------------------------------------------
def create_task_template(
    name: str,
    task_name: str,
    module: str,
    description: str = "",
    default_parameters: dict[str, Any] | None = None,
    estimated_duration: int | None = None,
    notification_settings: dict[str, Any] | None = None,
) -> TaskTemplate:
    """Make the template of this name, or change it. `estimated_duration` is in seconds.

    Raises ValidationError for notification settings that mean nothing.
    """
    if errors := notifications.settings_errors(notification_settings or {}):
        raise ValidationError({"notification_settings": errors})
    template, _created = TaskTemplate.objects.update_or_create(
        name=name,
        defaults={
            "task_name": task_name,
            "module": module,
            "description": description,
            "default_parameters": default_parameters or {},
            "estimated_duration": estimated_duration,
            "notification_settings": notification_settings or {},
        },
    )
    return template


# --- Asking --------------------------------------------------------------------------------------
def get_user_tasks(
    user: User, module: str | None = None, status: str | None = None, limit: int = 50
) -> list[dict[str, Any]]:
    """A user's newest tasks, as the API shows them."""
    executions_catch_up()
    return selectors.user_tasks(user, module=module, status=status, limit=limit)


def get_module_stats(module: str, days: int = 30) -> dict[str, Any]:
    """Counts, failure rate and durations (seconds) of a module's tasks that ended lately."""
    executions_catch_up()
    return selectors.module_statistics(module, days=days)


# --- Cancelling ----------------------------------------------------------------------------------
def cancel_user_tasks(
    user: User, module: str | None = None, task_name: str | None = None
) -> dict[str, int]:
    """Cancel a user's tasks that have not finished: `{"cancelled": n, "failed": n}`."""
    executions_catch_up()
    executions = TaskExecution.objects.filter(user=user, status__in=UNFINISHED)
    if module is not None:
        executions = executions.filter(task_module=module)
    if task_name is not None:
        executions = executions.filter(task_name=task_name)
    return cancel.executions_cancel(list(executions.values_list("task_id", flat=True)))
