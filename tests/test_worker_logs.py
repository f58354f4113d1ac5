"""One call of the API, found again in the lines and traces of each process that it went through."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from celery import current_app
from django.conf import settings
from rest_framework_simplejwt.tokens import AccessToken

from deploy.embedded.servers import free_port
from marketplace.context import belonging_to
from task_manager.models import OutboxTask, TaskExecution, TaskTemplate
from task_manager.services.outbox import outbox_publish_waiting
from task_manager.utils import enqueue
from tests import logging_tasks as tasks
from tests.collector import Collector, attributes, collecting
from tests.processes import celery, running, wait_until
from tests.servers import operator
from tests.web import Web, web

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

SECRET = "hunter2hunter2"


@dataclass
class System:
    web: Web
    worker: Path
    folder: Path
    collector: Collector

    def lines(self, request_id: str, name: str = "django.log") -> list[dict[str, Any]]:
        """What a file says of a request."""
        text = (self.folder / name).read_text()
        return [line for line in map(json.loads, text.splitlines()) if is_of(line, request_id)]


def is_of(line: dict[str, Any], request_id: str) -> bool:
    return line.get("request_id") == request_id


@pytest.fixture(scope="module")
def system(worker_database, django_db_blocker, tmp_path_factory) -> Iterator[System]:
    """A web and a worker that write JSON, also into one folder, and send their traces."""
    folder = tmp_path_factory.mktemp("logs")
    log, webs = folder.parent / "worker.log", tmp_path_factory.mktemp("web")
    with collecting() as collector, django_db_blocker.unblock():
        variables = {
            "CELERY_IMPORTS": tasks.__name__,
            "LOG_DIR": str(folder),
            "LOG_FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        options = ("--loglevel=info", "--concurrency=2")
        with (
            celery("worker", *options, log=log, CELERY_QUIET="1", **variables),
            web(webs, WEB_ACCESS_LOG="-", **variables) as server,
        ):
            wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
            yield System(server, log, folder, collector)


def begin(system: System, user: Any, **headers: str) -> requests.Response:
    """Have a template run its task by a call of the API; wait for the end of all that it began."""
    TaskTemplate.objects.create(name="t", task_name=tasks.begin.name, module="tests")
    answer = requests.post(
        f"{system.web.address}/api/tasks/templates/t/run/",
        json={"parameters": {"password": SECRET}},
        headers={"Authorization": f"Bearer {AccessToken.for_user(user)}", **headers},
        timeout=60,
    )
    assert answer.status_code == 202, answer.text
    ended = TaskExecution.objects.filter(finished_at__isnull=False)
    wait_until(lambda: ended.count() == 3, what="all three tasks have ended")
    return answer


@pytest.fixture
def staff(make_shopper):
    user = make_shopper("boss")
    user.is_staff = user.is_superuser = True
    user.save()
    return user


def test_a_request_is_followed_through_all_of_its_tasks(system, staff):
    answer = begin(system, staff, **{"X-Request-ID": "of-the-proxy"})
    assert answer.headers["X-Request-ID"] == "of-the-proxy"
    lines = system.lines("of-the-proxy")
    assert {line["service"] for line in lines} == {"worker"}
    by_message = {line["message"]: line for line in lines}
    begun = by_message["Begun with password=********"]
    assert begun["task_id"] == answer.json()["task_id"]
    assert begun["task_name"] == tasks.begin.name
    assert begun["process"].startswith("ForkPoolWorker")
    assert by_message["Printed"]["task_name"] == tasks.begin.name
    assert by_message["Done at last"]["logger"] == tasks.__name__
    # The main process speaks of them, too; of the retry as well.
    received = [line for line in lines if line["message"].endswith(" received")]
    assert [line["task_name"] for line in received].count(tasks.again.name) == 2
    assert {line["process"] for line in received} == {"MainProcess"}
    assert all(line["task_id"] in line["message"] for line in received)


def test_errors_have_a_file_of_their_own_and_celery_too(system, staff):
    request_id = begin(system, staff).headers["X-Request-ID"]
    (error,) = system.lines(request_id, "errors.log")
    assert error["level"] == "ERROR"
    assert error["exception"].endswith("ValueError: no such login: password=********")
    assert error in system.lines(request_id)
    assert error in system.lines(request_id, "celery.log")


def test_gunicorn_and_its_requests_are_lines_like_others(system, staff):
    request_id = begin(system, staff).headers["X-Request-ID"]
    # It is written after the answer.
    wait_until(lambda: request_id in system.web.log.read_text(), what="the request's line")
    lines = [json.loads(line) for line in system.web.log.read_text().splitlines()]
    assert "Booting worker with pid" in str([line["message"] for line in lines])
    (access,) = (line for line in lines if is_of(line, request_id))
    assert "POST /api/tasks/templates/t/run/" in access["message"]
    assert (access["logger"], access["service"]) == ("gunicorn.access", "web")


def test_what_django_says_of_a_request_names_it_too(system):
    answer = requests.get(f"{system.web.address}/nothing/", timeout=60)
    (line,) = system.lines(answer.headers["X-Request-ID"])
    assert (line["message"], line["service"]) == ("Not Found: /nothing/", "web")


def test_every_line_of_worker_and_web_is_json_and_tells_no_secret(system, staff):
    begin(system, staff)
    for path in (system.worker, system.web.log, *system.folder.iterdir()):
        text = path.read_text()
        assert SECRET not in text
        lines = [json.loads(line) for line in text.splitlines()]
        # None is wrapped in another.
        assert not [line for line in lines if line["message"].startswith("{")], path
    # What a file of the worker has is on its console, too; Celery's own prints are not lines.
    celery_s = (system.folder / "celery.log").read_text().splitlines()
    assert {*system.worker.read_text().splitlines()} >= {*celery_s}


def published(**options: Any) -> str | None:
    """The request in the message of a task that is published now."""
    current_app.send_task("tests.unknown", queue="unread", **options)
    with operator(settings.REDIS_URL) as client:
        message = json.loads(client.lpop("unread"))
    request_id: str | None = message["headers"].get("request_id")
    return request_id


@pytest.mark.usefixtures("unread")
def test_a_message_carries_the_request_that_it_comes_from():
    with belonging_to(request_id="one"):
        assert published() == "one"
        assert published(headers={"request_id": "promised"}) == "promised"
    assert published() is None


def test_a_promise_that_waits_keeps_its_request(system, staff):
    with belonging_to(request_id="of-before"):
        enqueue(tasks.fail.name, kwargs={"password": SECRET}, countdown=3600)
    OutboxTask.objects.update(published_at=None)
    with belonging_to(request_id="of-the-sweep"):
        assert outbox_publish_waiting() == 1
    wait_until(lambda: system.lines("of-before"), what="the worker has it")
    assert OutboxTask.objects.get().request_id == "of-before"
    assert not system.lines("of-the-sweep")


# --- Traces --------------------------------------------------------------------------------------
def test_one_trace_goes_from_the_request_to_the_last_task(system, staff):
    trace_id, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    begin(system, staff, traceparent=f"00-{trace_id}-{parent}-01")
    runs = (tasks.begin, tasks.again, tasks.again, tasks.fail)  # it is tried twice
    wanted = Counter(f"run {task.name}" for task in runs)
    collected = system.collector.of_trace

    def is_whole() -> bool:
        """Each process sends its spans when it likes."""
        found = [span for _, span in collected(trace_id)]
        parents = {span.parent_span_id for span in found} - {span.span_id for span in found}
        names = Counter(span.name for span in found if span.name in wanted)
        return names == wanted and parents == {bytes.fromhex(parent)}

    wait_until(is_whole, what="all spans")
    found = [span for _, span in collected(trace_id)]
    found.sort(key=lambda span: span.start_time_unix_nano)
    spans = {span.span_id: span for span in found}

    def path(name: str) -> list[str]:
        """From the request down to the first span of this name."""
        span: Any = next(span for span in spans.values() if span.name == name)
        names: list[str] = []
        while span:
            names.insert(0, span.name)
            span = spans.get(span.parent_span_id)
        return names

    request = "POST /api/tasks/templates/<text:name>/run/"
    way = [request, f"publish {tasks.begin.name}", f"run {tasks.begin.name}"]
    assert path(way[-1]) == way
    for task in (tasks.again, tasks.fail):
        assert path(f"run {task.name}") == [*way, f"publish {task.name}", f"run {task.name}"]
    assert {service for service, _ in collected(trace_id)} == {
        *("flash-promos-web", "flash-promos-worker")
    }
    by_name = {span.name: span for span in spans.values()}
    assert by_name[request].parent_span_id.hex() == parent
    assert attributes(by_name[request])["http.response.status_code"] == 202
    assert by_name[f"run {tasks.fail.name}"].status.message == (
        "ValueError('no such login: password=********')"
    )
    assert attributes(by_name["SELECT"])["db.query.text"].startswith("SELECT")
    assert SECRET not in str(system.collector.spans)


def test_a_line_names_its_trace(system, staff):
    request_id = begin(system, staff).headers["X-Request-ID"]
    trace_id = system.lines(request_id, "errors.log")[0]["trace_id"]
    wait_until(lambda: system.collector.of_trace(trace_id), what="the trace")


@pytest.mark.usefixtures("worker_database", "unread")
def test_a_collector_that_is_away_stops_nobody(tmp_path):
    variables = {
        "CELERY_IMPORTS": tasks.__name__,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }
    log = tmp_path / "worker.log"
    options = ("--queues=unread", "--concurrency=1", "--loglevel=info")
    with celery("worker", *options, log=log, **variables):
        result = tasks.again.apply_async(queue="unread", retries=1)  # type: ignore[call-arg]
        wait_until(lambda: f"{result.id}] succeeded" in log.read_text(), what="it is done")
    assert "worker: Warm shutdown" in log.read_text()


def test_nothing_of_opentelemetry_is_imported_without_its_variable(tmp_path):
    log = tmp_path / "log"
    code = "import sys, django; django.setup(); import marketplace.asgi\n"
    code += "print(*(name for name, module in sys.modules.items() if module))"
    with running("-c", code, log=log) as process:
        assert process.wait(60) == 0, log.read_text()
    assert not re.search(r"opentelemetry|google\.protobuf", log.read_text())
