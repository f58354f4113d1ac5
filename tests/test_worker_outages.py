"""Real workers whose Redis goes away in the midst of their work: every task ends as it did."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from kombu import Connection

from deploy.embedded.servers import Redis, free_port
from task_manager.models import TaskExecution
from tests.processes import serving, wait_until
from tests.servers import operator
from tests.test_worker_cancel import running, traces
from tests.test_worker_leases import LATE, SHORT

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def own(tmp_path: Path) -> Redis:
    return Redis(tmp_path / "redis", free_port(), "secret", operator_password="secret")


@pytest.fixture
def environ(own: Redis) -> dict[str, str]:
    address = {"REDIS_PORT": str(own.port), "REDIS_PASSWORD": own.password, "REDIS_DATABASE": "0"}
    return LATE | SHORT | address


@pytest.fixture
def url(own: Redis) -> str:
    return own.url()


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with operator(url) as client:
        yield client


def publish(url: str, name: str, *args: Any, count: int = 1, **options: Any) -> list[str]:
    with Connection(url) as connection:
        options["connection"] = connection
        return [str(current_app.send_task(name, args, **options).id) for _ in range(count)]


def ended(ids: list[str]) -> bool:
    return TaskExecution.objects.filter(pk__in=ids, finished_at__isnull=False).count() == len(ids)


def statuses(ids: list[str]) -> dict[str, int]:
    rows = TaskExecution.objects.filter(pk__in=ids).values_list("status", flat=True)
    return {status: list(rows).count(status) for status in set(rows)}


def test_no_task_fails_because_redis_was_killed(own, url, client, environ, tmp_path):
    """Celery counts one as failed that begins or ends meanwhile."""
    with ExitStack() as stack:
        with serving(own):
            worker = stack.enter_context(running(tmp_path, **environ))
            ids = publish(url, "probe.nap", 0.5, count=40)
            wait_until(lambda: client.llen("default") < 30, what="the worker is at work")
        with serving(own):
            wait_until(lambda: ended(ids), seconds=90, what="each task has ended")
            assert statuses(ids) == {"SUCCESS": 40}
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0


def test_a_chord_outlives_redis(own, url, client, environ, tmp_path):
    with ExitStack() as stack:
        with serving(own):
            stack.enter_context(running(tmp_path, **environ))
            publish(url, "probe.gather", 8)
            wait_until(lambda: client.llen("default") > 5, what="its parts are published")
            wait_until(lambda: client.llen("default") < 5, what="the worker is at work")
        with serving(own):
            wait_until(
                lambda: traces(client) == {"all": 1}, seconds=60, what="the chord's body ran"
            )


def test_no_task_fails_because_redis_takes_no_write(own, url, client, environ, tmp_path):
    with serving(own), running(tmp_path, **environ):
        ids = publish(url, "probe.nap", 0.5, count=10, countdown=3)
        wait_until(lambda: client.hlen("unacked") == 10, what="the worker has them")
        client.config_set("maxmemory", 1)
        log = tmp_path / "one.log"
        wait_until(lambda: log.read_text().count("STARTED of") == 2, what="two begin meanwhile")
        client.config_set("maxmemory", 0)
        wait_until(lambda: ended(ids), seconds=60, what="each task has ended")
        assert statuses(ids) == {"SUCCESS": 10}


def test_a_retry_that_cannot_be_published_is_not_dropped(own, url, client, environ, tmp_path):
    with serving(own), running(tmp_path, **environ):
        [task_id] = publish(url, "probe.retry_without_memory")
        wait_until(lambda: traces(client).get("waits") == 1, what="it runs")
        client.config_set("maxmemory", 1)
        log = tmp_path / "one.log"
        wait_until(lambda: "OutOfMemoryError" in log.read_text(), what="its retry was refused")
        client.config_set("maxmemory", 0)
        wait_until(lambda: ended([task_id]), seconds=60, what="it has ended")
        assert TaskExecution.objects.get(pk=task_id).status == "SUCCESS"
