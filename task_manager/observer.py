"""What a worker's main process sees of its tasks, without a word from the pool's children.

`Request` notes how each task ended; the recorder's thread makes entries of the notes, many at
once. A task pays for an append.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import redis
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from celery import current_app, signals
from celery.exceptions import Ignore, Reject, Retry, WorkerLostError
from celery.utils.saferepr import saferepr
from celery.worker import request as celery_request
from celery.worker import state
from django.conf import settings

from marketplace import context, leases
from marketplace.broker import FAILED_DELIVERIES
from marketplace.masking import MASK, is_secret, masked
from task_manager import entries
from task_manager.clients.cancellations import Copy
from task_manager.models import TaskStatus

logger = logging.getLogger(__name__)

#: What must not start here.
cancelled = Copy()

#: A request, its new status, when, and what it left: a runtime and a result, or an error.
Note = tuple[Any, str, float, dict[str, Any]]

#: What happened since the recorder last looked. Bounded: an outage must not eat the memory.
notes: deque[Note] = deque(maxlen=100_000)


def note(request: Any, status: str, **fields: Any) -> None:
    notes.append((request, status, time.time(), fields))


class Request(celery_request.Request):
    """Celery's request, which notes its outcome."""

    #: Set once the pool is done with it, in whatever way.
    has_ended = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The publisher may not have known the task's parameters, or be none of ours.
        self._shown = entries.without_secrets(self._type, self._args, self._kwargs)  # type: ignore[attr-defined]
        if self._shown or MASK in f"{self.argsrepr}{self.kwargsrepr}":
            shown = self._shown or (self._args, self._kwargs)  # type: ignore[attr-defined]
            for name, value in zip(("argsrepr", "kwargsrepr"), shown, strict=True):
                text = saferepr(value, entries.MAX_REPR)
                setattr(self, f"_{name}", text)
                self.request_dict[name] = text

    def info(self, safe: bool = False) -> Any:
        """What `celery inspect active` and its like show."""
        told: Any = super().info(safe)
        if self._shown and not safe:
            told["args"], told["kwargs"] = self._shown
        return told

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Celery makes a subclass for each task, with an `on_success` that calls no parent.
        super().__init_subclass__(**kwargs)
        on_success = cls.on_success

        def observed(self: Any, result: Any, **kwargs: Any) -> None:
            self.has_ended = True
            on_success(self, result, **kwargs)
            failed, value, runtime = result
            if not failed:
                notes.append((self, "SUCCESS", time.time(), {"duration": runtime, "result": value}))

        cls.on_success = observed  # type: ignore[method-assign, assignment]

    def send_event(self, type: str, **fields: Any) -> None:
        """Tell Flower, and whoever else listens."""
        for name in ("exception", "traceback"):
            if isinstance(text := fields.get(name), str):
                fields[name] = masked(text)
        if is_secret(str(fields.get("result", ""))):  # its looks, where a secret may be anywhere
            fields["result"] = MASK
        super().send_event(type, **fields)

    def revoked(self) -> bool:
        """Asked by the worker right before the task starts."""
        if not cancelled.is_fresh():
            try:
                cancelled.sync()
            except (redis.RedisError, OSError) as error:
                logger.warning("Redis does not say which tasks were cancelled: %s", error)
                cancelled.postpone()
        if self.id in cancelled.ids:
            state.revoked.add(self.id)
        with _speaking_of(self):
            revoked: bool = super().revoked()
            return revoked or self._is_anothers() or self._is_stopped()

    def _is_anothers(self) -> bool:
        """Whether another worker has the task by now, because this one stood still."""
        if not leases.is_lost(self.message):
            return False
        logger.warning("Task %s[%s] is another worker's by now", self.name, self.id)
        state.task_ready(self)
        return True

    def _is_stopped(self) -> bool:
        """Whether the task is run no more: it took each worker down that had it."""
        count = failed_deliveries(self.request_dict)
        if count < settings.TASK_MAX_DELIVERIES:
            return False
        context: Any = self._context  # type: ignore[attr-defined]
        error = WorkerLostError(f"The task ended {count} workers, and is not run again.")
        self.task.backend.mark_as_failure(
            self.id, error, request=context, store_result=self.store_errors
        )
        self.acknowledge()
        state.task_ready(self)
        signals.task_failure.send(
            sender=self.task,
            task_id=self.id,
            exception=error,
            args=self.args,
            kwargs=self.kwargs,
            traceback="",
            einfo=None,
        )
        return True

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        self.has_ended = True
        with _speaking_of(self):
            super().on_failure(exc_info, send_failed_event, return_ok)
        # The rest ends in a signal, or goes back to the queue.
        if return_ok:
            exception = unwrapped(exc_info)
            if isinstance(exception, Ignore):
                note(self, TaskStatus.REVOKED, error="The task asked to be ignored.")
            elif not isinstance(exception, Retry | Reject):
                note(self, TaskStatus.FAILURE, **entries.error(exception, exc_info.traceback))

    def on_timeout(self, soft: bool, timeout: float) -> None:
        with _speaking_of(self):
            super().on_timeout(soft, timeout)

    def on_retry(self, exc_info: Any) -> None:
        super().on_retry(exc_info)
        retry = unwrapped(exc_info)
        cause = getattr(retry, "exc", None) or retry
        note(self, TaskStatus.RETRY, **entries.error(cause, exc_info.traceback))


def unwrapped(exc_info: Any) -> BaseException | None:
    exception: Any = exc_info.exception
    if isinstance(exception, ExceptionWithTraceback):
        exception = exception.exc
    error: BaseException | None = exception
    return error


@contextmanager
def _speaking_of(request: Request) -> Iterator[None]:
    """While it lasts, a signal about this task is about this request, and so is a line."""
    global _request
    _request = request
    try:
        with context.belonging_to(**context.of_message(request.request_dict)):
            yield
    finally:
        _request = None


_request: Request | None = None
_main_process = 0


def connect() -> None:
    """Listen to what the main process alone can tell: revoked, timed out, lost, unknown."""
    global _main_process
    _main_process = os.getpid()
    signals.task_revoked.connect(_revoked, dispatch_uid="task_manager")
    signals.task_failure.connect(_failed, dispatch_uid="task_manager")
    signals.task_unknown.connect(_unknown, dispatch_uid="task_manager")


def _in_main(receiver: Callable[..., None]) -> Callable[..., None]:
    """The pool's children inherit the receivers; what they note nobody would read."""

    @wraps(receiver)
    def checked(**fields: Any) -> None:
        if os.getpid() == _main_process:
            receiver(**fields)

    return checked


@_in_main
def _revoked(request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    reason = "expired" if expired else "terminated" if terminated else "revoked"
    note(request, TaskStatus.REVOKED, error=f"The task was {reason}.")


@_in_main
def _failed(
    sender: Any,
    task_id: str,
    exception: BaseException,
    args: Any,
    kwargs: Any,
    einfo: Any,
    **_: Any,
) -> None:
    request: Any = _request
    if request is None or request.id != task_id:
        request = ({"id": task_id, "task": sender.name}, args, kwargs)
    note(request, TaskStatus.FAILURE, **entries.error(exception, einfo and einfo.traceback))


@_in_main
def _unknown(message: Any, name: str, id: str, exc: BaseException, **_: Any) -> None:
    headers = {**message.headers, "id": id, "task": name}
    try:
        args, kwargs, _embed = message.payload
    except Exception:  # whatever somebody else put there
        args, kwargs = (), {}
    error = f"No task of this name is known to the worker: {exc}"
    note((headers, args, kwargs), TaskStatus.FAILURE, error=error)


# --- On the recorder's thread ---------------------------------------------------------------------
def drain() -> list[bytes]:
    """Entries of what was noted, and of the tasks that began to run."""
    noted: list[Note] = []
    while notes:
        noted.append(notes.popleft())
    results = _results(noted)
    started = [_started(request) for request in _newly_active()]
    return started + [_entry(*item, results) for item in noted]


def is_dead_letter(message: dict[str, Any]) -> bool:
    """Whether this task, once failed, is kept to be run again.

    As a `RetryingTask` is, one that ended its workers, and one that no worker knew.
    """
    task = current_app.tasks.get(message["task"])
    return (
        task is None
        or bool(getattr(task, "dead_letter", False))
        or failed_deliveries(message) >= settings.TASK_MAX_DELIVERIES
    )


def failed_deliveries(message: dict[str, Any]) -> int:
    """How many workers took the task and did not come to its end."""
    count = message.get(FAILED_DELIVERIES)
    return count if isinstance(count, int) else 0


def _message(request: Any) -> tuple[dict[str, Any], Any, Any]:
    if isinstance(request, tuple):
        return request
    message = getattr(request, "request_dict", None) or vars(request)
    return message, message.get("args"), message.get("kwargs")


def _entry(
    request: Any, status: str, at: float, fields: dict[str, Any], results: dict[str, bytes]
) -> bytes:
    message, args, kwargs = _message(request)
    entry = entries.of_message(message, args, kwargs)
    if started_at := getattr(request, "time_start", None):
        entry["started_at"] = started_at
    if status == "SUCCESS":
        entry["finished_at"] = at
        entry["duration"] = fields["duration"]
        entry["progress"] = 100
        result = results.get(entry["id"])
        if result is None:
            looks = fields["result"]
            entry["result"] = MASK if is_secret(str(looks)) else entries.bounded(looks)
        return entries.transition(entry, status, at, result=result or b"")
    if status != TaskStatus.RETRY:
        entry["finished_at"] = at
    if status == TaskStatus.FAILURE and is_dead_letter(message):
        entry["letter"] = {"args": args, "kwargs": kwargs}
    return entries.transition(entry | fields, status, at)


def _results(noted: list[Note]) -> dict[str, bytes]:
    """The results as JSON, by task id: the pool gave the main process their looks only."""
    ids = [
        request.id
        for request, status, _, _ in noted
        if status == "SUCCESS" and not request.ignore_result
    ]
    backend: Any = current_app.backend
    if not ids or not hasattr(backend, "mget"):
        return {}
    try:
        values = backend.mget([backend.get_key_for_task(task_id) for task_id in ids])
    except (redis.RedisError, OSError):
        return {}  # then their looks are kept
    return {
        task_id: entries.result_json(backend, value)
        for task_id, value in zip(ids, values, strict=True)
        if value
    }


_ANNOUNCED = "_task_manager_announced"


def _newly_active() -> list[Any]:
    """The requests that run and were not seen running before."""
    while True:
        try:
            active = list(state.active_requests)
            break
        except RuntimeError:  # it changed under the iteration
            continue
    new = [r for r in active if r.time_start and not getattr(r, _ANNOUNCED, False)]
    for request in new:
        setattr(request, _ANNOUNCED, True)
    return new


def _started(request: Any) -> bytes:
    message, args, kwargs = _message(request)
    entry = entries.of_message(message, args, kwargs)
    entry["started_at"] = request.time_start
    return entries.transition(entry, TaskStatus.STARTED, request.time_start)
