"""What the present work belongs to: a request, a task, or both.

A request has an id, which its answer tells, and which goes along with each task that it sets off,
and those that these set off. Lines of the log name it, and the task.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from celery._state import get_current_task
from django.http import HttpRequest, HttpResponse

from marketplace.proxies import is_from_proxy

#: A message's header.
REQUEST_ID = "request_id"
#: Of the request and of its answer.
HTTP_HEADER = "X-Request-ID"
MAX_LENGTH = 64
_VALID = re.compile(rf"[A-Za-z0-9._:=-]{{1,{MAX_LENGTH}}}")


@dataclass(frozen=True)
class Context:
    request_id: str = ""
    task_id: str = ""
    task_name: str = ""


NOTHING = Context()
_context: ContextVar[Context] = ContextVar("context", default=NOTHING)


@contextmanager
def belonging_to(**names: str) -> Iterator[None]:
    """While it lasts, what this thread does belongs to this request or task."""
    token = _context.set(Context(**names))
    try:
        yield
    finally:
        _context.reset(token)


def current() -> Context:
    """A task that runs in this thread says it itself; else it is what was said."""
    context, task = _context.get(), get_current_task()
    request: Any = task and task.request
    if request and request.id:
        return Context(request.get(REQUEST_ID) or context.request_id, request.id, task.name)
    return context


def of_message(headers: dict[str, Any]) -> dict[str, str]:
    """What `belonging_to` takes, of a message's headers that were checked."""
    return {
        "request_id": headers.get(REQUEST_ID) or "",
        "task_id": headers.get("id") or "",
        "task_name": headers.get("task") or "",
    }


def is_request_id(text: object) -> bool:
    return isinstance(text, str) and bool(_VALID.fullmatch(text))


class RequestIdMiddleware:
    """Takes the id that a trusted proxy gives, or makes one."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request_id = request.headers.get(HTTP_HEADER, "")
        if not (is_request_id(request_id) and is_from_proxy(request)):
            request_id = uuid4().hex
        request.META[REQUEST_ID] = request_id
        with belonging_to(request_id=request_id):
            response = self.get_response(request)
        response.headers[HTTP_HEADER] = request_id
        return response


#: Of the present span; `marketplace.tracing` sets it.
trace_id: Callable[[], str] | None = None


class ContextFilter(logging.Filter):
    """Notes on each record what it belongs to; of what Celery and Django themselves tell, too."""

    def filter(self, record: logging.LogRecord) -> bool:
        if hasattr(record, "task_id"):  # another handler was first
            return True
        context = current()
        task = getattr(record, "data", None)
        if not context.task_id and isinstance(task, dict):
            names = {"task_id": task.get("id") or "", "task_name": task.get("name") or ""}
            context = replace(context, **names)
        request = getattr(record, "request", None)
        if not context.request_id and isinstance(request, HttpRequest):
            # Django says what went wrong once all middleware is through.
            context = replace(context, request_id=request.META.get(REQUEST_ID, ""))
        record.__dict__.update(vars(context))
        if trace_id:
            record.trace_id = trace_id()
        return True
