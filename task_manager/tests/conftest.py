"""Fixtures of the task manager's tests: rows as workers would have written them."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pytest
from django.utils import timezone
from kombu import pools

from marketplace.celery import app
from marketplace.tests.test_health import closed_broker
from task_manager.clients.stream import Reader, writer
from task_manager.entries import position
from task_manager.models import TaskExecution
from task_manager.tests.receivers import Receiver, serving


@pytest.fixture(autouse=True)
def nothing_on_its_way(request: pytest.FixtureRequest) -> None:
    """No transition of an earlier test comes to this one's table."""
    if "django_db" in request.keywords or "db" in request.fixturenames:
        writer().flush()
        with closing(Reader("nobody")) as reader:
            while entries := reader.claim(seconds=0) or reader.new(block_ms=None):
                reader.acknowledge(entries)


@pytest.fixture
def make_execution(db: None) -> Callable[..., TaskExecution]:
    """A PENDING task of nobody; any field may be given. Each is newer than the one before."""
    numbers = itertools.count(1)

    def make(**fields: Any) -> TaskExecution:
        now = timezone.now()
        defaults = {
            "task_id": f"task-{next(numbers)}",
            "task_name": "nomina.consolidar",
            "task_module": "nomina",
            "description": "Consolidar nómina del período",
            "status": "PENDING",
            "created_at": now,
            "changed_at": now,
        }
        fields = defaults | fields
        return TaskExecution.objects.create(position=position(str(fields["status"])), **fields)

    return make


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    """A server for webhooks, which may be called and to whom they are signed."""
    settings.TASK_WEBHOOK_SECRET = "top"
    settings.TASK_WEBHOOK_ALLOW_PRIVATE = True
    server = Receiver()
    with serving(server):
        yield server
        server.released.set()


@pytest.fixture
def no_broker_for(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], AbstractContextManager[None]]:
    """A context in which the broker is away for publishers, whatever connections they have."""

    @contextmanager
    def away() -> Iterator[None]:
        with closed_broker(), monkeypatch.context() as patch:
            patch.setattr(app, "_pool", None)
            patch.setattr(app.amqp, "_producer_pool", None)
            yield

    return away


@pytest.fixture
def no_broker(no_broker_for: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    with no_broker_for():
        yield


@pytest.fixture
def limit_queues(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets how many messages may wait in each queue, for new connections."""

    def limit(**limits: int) -> None:
        monkeypatch.setitem(app.conf.broker_transport_options, "queue_limits", limits)
        monkeypatch.setattr(app, "_pool", None)
        monkeypatch.setattr(app.amqp, "_producer_pool", None)

    yield limit
    # kombu keeps a pool for each set of options, for good.
    pools.producers.pop(app.connection_for_write(), None)
    if pool := pools.connections.pop(app.connection_for_write(), None):
        pool.force_close_all()
