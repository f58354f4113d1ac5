"""Who works, as Flower says it and as the workers themselves do."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from django.core.cache import cache

from deploy.embedded.servers import free_port
from task_manager.clients import flower
from task_manager.services.workers import (
    worker_consume,
    worker_stop_consuming,
    worker_tasks,
    workers_consuming,
)
from tests.processes import celery, wait_until
from tests.servers import cut_off, operator

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

QUEUES = ["default", "high_priority", "low_priority"]


@pytest.fixture(scope="module")
def worker(worker_database, tmp_path_factory) -> Iterator[str]:
    """A worker for the whole module; its name."""
    log = tmp_path_factory.mktemp("worker") / "celery.log"
    with celery("worker", "--loglevel=info", "--hostname=one@here", "--concurrency=2", log=log):
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield "one@here"


@pytest.fixture(autouse=True)
def no_cache() -> Iterator[None]:
    yield
    cache.clear()


@contextmanager
def running_flower(settings, tmp_path: Path, login: str = "") -> Iterator[str]:
    port = free_port()
    settings.FLOWER_URL, settings.FLOWER_LOGIN = f"http://127.0.0.1:{port}", login
    environ = {"FLOWER_ADDRESS": "127.0.0.1", "FLOWER_PORT": str(port), "FLOWER_BASIC_AUTH": login}
    if not login:  # which production refuses
        environ["DJANGO_DEBUG"] = "1"
    with celery("flower", log=tmp_path / "flower.log", **environ):
        wait_until(lambda: flower.info()["reachable"], what="Flower answers")
        wait_until(lambda: flower.info()["workers"] == 1, what="Flower knows the worker")
        yield settings.FLOWER_URL


@pytest.fixture
def client(client_of, make_shopper):
    return client_of(make_shopper())


def test_without_flower_the_workers_answer_themselves(worker, client, settings):
    settings.FLOWER_URL = f"http://127.0.0.1:{free_port()}"
    (shown,) = client.get("/api/tasks/workers/").json()
    assert (shown["name"], shown["status"], shown["source"]) == (worker, "online", "celery")
    assert (shown["concurrency"], sorted(shown["queues"])) == (2, QUEUES)
    assert (shown["active"], shown["processed"], shown["pid"] > 0) == (0, 0, True)
    assert client.get("/api/tasks/flower-info/").json() == {
        "url": settings.FLOWER_URL,
        "version": "2.2.0",
        "reachable": False,
        "workers": None,
        "tasks": None,
    }


def test_the_workers_answer_after_redis_has_closed_every_connection(worker, client, settings):
    settings.FLOWER_URL = f"http://127.0.0.1:{free_port()}"

    def names() -> list[str]:
        cache.clear()
        response = client.get("/api/tasks/workers/")
        assert response.status_code == 200, response.content
        return [found["name"] for found in response.json()]

    with operator(settings.REDIS_URL) as redis:
        for _ in range(3):
            wait_until(lambda: names() == [worker], what="the worker is back")
            cut_off(redis)
    wait_until(lambda: names() == [worker], what="the worker is back")


def test_flower_with_a_login_tells_all(worker, client, settings, tmp_path):
    with running_flower(settings, tmp_path, login="ana:open-sesame") as url:
        wait_until(lambda: flower.workers()[worker]["queues"], what="Flower inspected the worker")
        (shown,) = client.get("/api/tasks/workers/").json()
        assert (shown["name"], shown["status"], shown["source"]) == (worker, "online", "flower")
        assert (shown["concurrency"], sorted(shown["queues"])) == (2, QUEUES)
        info = client.get("/api/tasks/flower-info/").json()
        assert (info["url"], info["reachable"], info["workers"]) == (url, True, 1)
        assert info["tasks"]["active"] == 0
        settings.FLOWER_LOGIN = "ana:wrong"
        cache.clear()
        (shown,) = client.get("/api/tasks/workers/").json()
        assert shown["source"] == "celery"


def test_flower_without_a_login_tells_who_is_alive(worker, client, settings, tmp_path):
    with running_flower(settings, tmp_path) as url:
        assert requests.get(f"{url}/api/workers", timeout=5).status_code == 401
        (shown,) = client.get("/api/tasks/workers/").json()
        assert (shown["name"], shown["source"], shown["concurrency"]) == (worker, "flower", None)


@pytest.mark.parametrize("login", ["", "ana:open-sesame"])
def test_the_login_is_never_shown(client, settings, login):
    settings.FLOWER_URL = f"http://ana:open-sesame@127.0.0.1:{free_port()}/flower"
    settings.FLOWER_LOGIN = login
    for path in ("flower-info", "workers"):
        answer = client.get(f"/api/tasks/{path}/")
        assert (answer.status_code, "open-sesame" in answer.text) == (200, False)


def test_something_else_on_flower_s_port_is_not_flower(client, settings, live_server):
    settings.FLOWER_URL = live_server.url
    assert client.get("/api/tasks/flower-info/").json()["reachable"] is False


def test_a_worker_that_shall_take_nothing_takes_nothing_also_after_an_outage(worker, settings):
    def queues() -> list[str] | None:
        return workers_consuming([worker]).get(worker, {}).get("queues")

    assert queues() == QUEUES
    assert worker_stop_consuming(worker) == QUEUES
    with operator(settings.REDIS_URL) as client:
        cut_off(client)
    wait_until(lambda: queues() is not None, what="the worker answers again")
    assert queues() == []
    assert worker_tasks(worker) == []
    worker_consume(worker, QUEUES)
    assert queues() == QUEUES
    assert worker_tasks("nobody@here") is None
    assert worker_stop_consuming("nobody@here") is None
