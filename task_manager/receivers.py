"""The publisher's side: each task is PENDING from the moment its message is out."""

import time
from functools import partial
from typing import Any

from celery import signals

from marketplace import context
from task_manager import entries
from task_manager.clients.stream import writer
from task_manager.models import TaskStatus


@signals.before_task_publish.connect(dispatch_uid="task_manager")
def stamp(headers: dict[str, Any], **_: Any) -> None:
    headers.setdefault(entries.PUBLISHED_AT, time.time())
    if request_id := context.current().request_id:
        headers.setdefault(context.REQUEST_ID, request_id)


@signals.after_task_publish.connect(dispatch_uid="task_manager")
def published(headers: dict[str, Any], body: Any, routing_key: str, **_: Any) -> None:
    # Until its next attempt starts a task is in RETRY, which the worker says.
    if not headers.get("retries"):
        writer().add(partial(_pending, headers, body, routing_key))


def _pending(headers: dict[str, Any], body: Any, queue: str) -> bytes:
    args, kwargs, _embed = body
    entry = entries.of_message(headers, args, kwargs)
    entry["queue"] = queue
    return entries.transition(entry, TaskStatus.PENDING, headers[entries.PUBLISHED_AT])


@signals.worker_process_shutdown.connect(dispatch_uid="task_manager")
def last_words(**_: Any) -> None:
    """A child of the pool that is replaced leaves without the interpreter's own clean-up."""
    writer().flush()
