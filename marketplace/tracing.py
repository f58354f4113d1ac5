"""Traces by OpenTelemetry: a request, the tasks that it sets off, and their SQL, as one tree.

Imported only where OTEL_EXPORTER_OTLP_ENDPOINT is set; the SDK's other variables (OTEL_*) count,
too. No span holds a task's arguments or a statement's parameters, and texts are masked.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import signals
from django.conf import settings
from django.db import connections
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from marketplace import context, logs
from marketplace.masking import masked
from marketplace.proxies import is_from_proxy

MAX_TEXT = 2000
#: Milliseconds that the last spans have, when a process ends.
LAST_MILLISECONDS = 2000

tracer = trace.get_tracer("marketplace")


class Processor(BatchSpanProcessor):
    """Does not hold up the end of a process while the collector is away."""

    def shutdown(self) -> None:
        self._batch_processor.shutdown(LAST_MILLISECONDS)


def start(app: Any) -> None:
    """In this process, which forks no more."""
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = settings.OTEL_EXPORTER_OTLP_ENDPOINT
    name = os.environ.get("OTEL_SERVICE_NAME") or f"flash-promos-{logs.service_of(sys.argv)}"
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(Processor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    propagate.set_global_textmap(TraceContextTextMapPropagator())
    context.trace_id = trace_id
    app.publishing = publishing
    signals.before_task_publish.connect(inject, dispatch_uid="tracing")
    signals.task_prerun.connect(begin_task, dispatch_uid="tracing")
    signals.task_failure.connect(note_failure, dispatch_uid="tracing")
    signals.task_postrun.connect(end_task, dispatch_uid="tracing")
    # A child of Celery's pool leaves without the interpreter's own clean-up.
    signals.worker_process_shutdown.connect(
        lambda **_: provider.shutdown(), weak=False, dispatch_uid="tracing"
    )
    connection_created.connect(watch, dispatch_uid="tracing")
    for connection in connections.all(initialized_only=True):
        watch(connection)


def trace_id() -> str:
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else ""


def shown(text: object) -> str:
    return masked(str(text))[:MAX_TEXT]


# --- Requests ------------------------------------------------------------------------------------
class TracingMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        method = request.method or ""
        # Anybody else's word would put us into traces of theirs.
        parent = propagate.extract(request.headers) if is_from_proxy(request) else Context()
        attributes = {
            "http.request.method": method,
            "url.path": shown(request.path),
            "request.id": context.current().request_id,
        }
        with tracer.start_as_current_span(
            method, parent, kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            response = self.get_response(request)
            if request.resolver_match:
                span.update_name(f"{method} /{request.resolver_match.route}")
                span.set_attribute("http.route", f"/{request.resolver_match.route}")
            span.set_attribute("http.response.status_code", response.status_code)
            if response.status_code >= 500:
                span.set_status(Status(StatusCode.ERROR))
        return response


# --- Tasks ---------------------------------------------------------------------------------------
@contextmanager
def publishing(name: str) -> Iterator[None]:
    """While it lasts, the task is published."""
    with tracer.start_as_current_span(
        f"publish {name}",
        kind=SpanKind.PRODUCER,
        attributes={"messaging.system": "celery", "celery.task_name": name},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield
        except Exception as error:
            _fail(span, error)
            raise


def inject(headers: dict[str, Any], **_: Any) -> None:
    """Into the message, where its span is."""
    propagate.inject(headers)
    trace.get_current_span().set_attribute("messaging.message.id", headers["id"])


_SPAN = "_tracing_span"


def begin_task(task_id: str, task: Any, **_: Any) -> None:
    request = task.request
    attributes = {
        "messaging.system": "celery",
        "messaging.message.id": task_id,
        "messaging.destination.name": (request.delivery_info or {}).get("routing_key") or "",
        "celery.task_name": task.name,
        "celery.retries": request.retries or 0,
        "request.id": context.current().request_id,
    }
    parent = propagate.extract(vars(request))
    span = tracer.start_span(
        f"run {task.name}", parent, kind=SpanKind.CONSUMER, attributes=attributes
    )
    setattr(request, _SPAN, (span, attach(trace.set_span_in_context(span))))


def note_failure(sender: Any, exception: BaseException, **_: Any) -> None:
    span, _token = getattr(sender.request, _SPAN, (None, None))
    if span:
        _fail(span, exception)


def end_task(task: Any, state: str | None, **_: Any) -> None:
    span, token = vars(task.request).pop(_SPAN, (None, None))
    if span and token:
        span.set_attribute("celery.state", state or "")
        detach(token)
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    span.set_status(Status(StatusCode.ERROR, shown(repr(error))))


# --- SQL -----------------------------------------------------------------------------------------
def watch(connection: Any, **_: Any) -> None:
    if trace_statement not in connection.execute_wrappers:
        connection.execute_wrappers.append(trace_statement)


def trace_statement(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, told: dict[str, Any]
) -> Any:
    """A span for each statement of a request or a task; its parameters are nobody's business."""
    if not trace.get_current_span().is_recording():
        return execute(sql, params, many, told)
    text = str(sql).strip()
    attributes = {"db.system.name": "postgresql", "db.query.text": shown(text)}
    with tracer.start_as_current_span(
        text.partition(" ")[0].upper()[:20] or "SQL",
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            return execute(sql, params, many, told)
        except Exception as error:
            # PostgreSQL's own words would show values.
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
