"""Where a task's secret arguments and the installation's own secrets might show, and do not."""

import base64
import json
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from celery import Celery, current_app, shared_task
from django.conf import settings

from deploy.embedded.servers import free_port
from marketplace.masking import MASK
from task_manager.models import TaskExecution
from task_manager.services.executions import executions_catch_up
from tests.processes import celery, control, wait_until
from tests.servers import operator

pytestmark = [
    pytest.mark.worker,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("unread"),
]

EXAMPLES = {"PYTHONPATH": str(Path(__file__).parent / "examples"), "CELERY_IMPORTS": "probe"}
SECRET = "hunter2hunter2"
#: Of the installation; the worker, beat and Flower are given them.
OWN = {
    "DJANGO_SECRET_KEY": "own-django-own-django-own-django-own",
    "EMAIL_HOST_PASSWORD": "own-email",
    "METRICS_TOKEN": "own-metrics",
    "TASK_WEBHOOK_SECRET": "own-webhook",
    "FLOWER_BASIC_AUTH": "admin:own-flower",
    "DEMO_PASSWORD": "own-demonstration",
}


@pytest.fixture(scope="module")
def worker(worker_database, tmp_path_factory) -> Iterator[Path]:
    """A worker that logs all it can and sends events; its log."""
    log = tmp_path_factory.mktemp("worker") / "celery.log"
    with celery(
        *("worker", "--loglevel=debug", "--concurrency=2", "--task-events"),
        log=log,
        **EXAMPLES,
        **OWN,
    ):
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield log


def send(*args: Any, **kwargs: Any) -> Any:
    return current_app.send_task("probe.sign_in", args, kwargs)


def ended(task_id: str, status: str) -> TaskExecution:
    """Its row in the history, which the worker has nothing to add to any more."""
    rows = TaskExecution.objects.filter(pk=task_id, status=status)
    wait_until(rows.exists, what=f"{task_id} is {status}")
    return rows.get()


#: By position and by name; and within what is given.
WAYS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    (("ana", SECRET), {}),
    (("ana",), {"password": SECRET}),
    (({"name": "ana", "api_key": SECRET}, "x"), {}),
]


@pytest.mark.parametrize(("args", "kwargs"), WAYS)
def test_neither_log_nor_history_tells_a_secret_of_a_task(worker, args, kwargs):
    result = send(*args, **kwargs)
    row = ended(result.id, "SUCCESS")
    line = f"probe.sign_in[{result.id}] succeeded"
    wait_until(lambda: line in worker.read_text(), what="the line is in the log")
    assert SECRET not in worker.read_text() + json.dumps([row.parameters, row.result])
    assert MASK in json.dumps(row.parameters)


def test_a_result_of_which_only_the_looks_are_known_is_masked_whole(worker):
    result = current_app.send_task("probe.unheard_secret")
    assert ended(result.id, "SUCCESS").result == MASK


def test_neither_error_nor_traceback_tells_it(worker):
    result = send("wrong", SECRET)
    with pytest.raises(ValueError, match="no such login"):
        result.get(timeout=60)
    wait_until(lambda: f"{result.id}] raised" in worker.read_text(), what="the log tells of it")
    log = worker.read_text()
    assert SECRET not in log
    assert f"no such login: password={MASK}, 'token': {MASK}" in log
    assert "Traceback" in log
    wait_until(
        lambda: TaskExecution.objects.filter(pk=result.id, status="FAILURE").exists(),
        what="its end",
    )
    row = TaskExecution.objects.get(pk=result.id)
    assert SECRET not in row.error + row.traceback + json.dumps(row.parameters)
    assert MASK in row.error


@shared_task(name="tests.sign_in")
def known(user, password, pause=0): ...


def headers(name: str, *args: Any, **kwargs: Any) -> Any:
    """Of the message of this task, which no worker takes."""
    current_app.send_task(name, args, kwargs, queue="unread")
    with operator(settings.REDIS_URL) as client:
        message = json.loads(client.lpop("unread"))
    assert SECRET not in json.dumps(message["properties"])
    assert "hunter2" in base64.b64decode(message["body"]).decode() or SECRET not in repr(args)
    return message["headers"]


@pytest.mark.parametrize("name", ["tests.sign_in", "tests.unknown"])
@pytest.mark.parametrize(("args", "kwargs"), WAYS)
def test_the_message_s_headers_say_no_secret(name, args, kwargs):
    told = headers(name, *args, **kwargs)
    assert SECRET not in json.dumps(told)
    assert MASK in told["argsrepr"] + told["kwargsrepr"]


def test_what_is_no_secret_stays_readable():
    told = headers("tests.sign_in", "ana", SECRET, pause=3)
    assert (told["argsrepr"], told["kwargsrepr"]) == (f"['ana', '{MASK}']", "{'pause': 3}")
    told = headers("tests.sign_in", user="ana")
    assert (told["argsrepr"], told["kwargsrepr"]) == ("()", "{'user': 'ana'}")


def drain(connection: Any) -> None:
    """Take what has come; the first time, subscribe to it."""
    with suppress(TimeoutError):
        connection.drain_events(timeout=0.2)


def test_an_event_of_the_publisher_tells_no_secret(settings):
    """Which Celery sends when `task_send_sent_event` is on."""
    current_app.conf.task_send_sent_event = True
    told: list[Any] = []
    try:
        with current_app.connection_for_read() as connection:
            receiver = current_app.events.Receiver(connection, handlers={"task-sent": told.append})
            with receiver.consumer_context() as (listening, _, _):
                drain(listening)
                current_app.send_task("tests.sign_in", ("ana", SECRET), queue="unread")
                while not told:
                    listening.drain_events(timeout=30)
    finally:
        current_app.conf.task_send_sent_event = False
    (event,) = told
    assert SECRET not in repr(event)
    assert MASK in event["args"]


def test_the_history_of_a_task_that_waits_has_no_secret():
    for name in ("tests.sign_in", "tests.unknown"):
        result = current_app.send_task(name, ("ana", SECRET), queue="unread")
        executions_catch_up(result.id)
        rows = TaskExecution.objects.filter(pk=result.id)
        wait_until(rows.exists, what="the row")
        assert SECRET not in json.dumps(rows.get().parameters)


def test_inspect_shows_no_secret_even_of_a_stranger_s_message(worker):
    send("ana", SECRET, pause=15)
    with closing(Celery("foreign", broker=settings.REDIS_URL, set_as_current=False)) as app:
        app.conf.task_default_queue = "default"
        result = app.send_task("probe.sign_in", ("bea", SECRET), {"pause": 15})
        late = app.send_task("probe.sign_in", ("eva", SECRET), countdown=3600)
    rows = TaskExecution.objects.filter(pk=result.id, status="STARTED")
    wait_until(rows.exists, what="it runs")
    for command in ("active", "scheduled", "reserved", "query_task"):
        more = (result.id, late.id) if command == "query_task" else ()
        answer = control("inspect", command, *more, "--json")
        assert answer.returncode == 0, answer.stderr
        assert SECRET not in answer.stdout
        if command != "reserved":
            assert MASK in answer.stdout
    current_app.control.revoke(late.id)
    ended(result.id, "SUCCESS")


def test_events_which_flower_shows_tell_no_secret(worker):
    told: list[Any] = []
    with current_app.connection_for_read() as connection:
        receiver = current_app.events.Receiver(connection, handlers={"*": told.append})
        with receiver.consumer_context() as (listening, _, _):
            drain(listening)
            ids = {send(*args, **kwargs).id for args, kwargs in WAYS}
            ids.add(send("wrong", SECRET).id)

            def are_told() -> bool:
                drain(listening)
                done = [e for e in told if e["type"] in ("task-succeeded", "task-failed")]
                return {event["uuid"] for event in done} >= ids

            wait_until(are_told, what="every end was told")
    assert {"task-received", "task-succeeded", "task-failed"} <= {event["type"] for event in told}
    assert SECRET not in repr(told)
    received = [event for event in told if event["type"] == "task-received"]
    assert all(MASK in event["args"] + event["kwargs"] for event in received)


def test_flower_shows_no_secret(worker, tmp_path):
    port, log = free_port(), tmp_path / "flower.log"
    login = "admin:own-flower"
    environ = OWN | {"FLOWER_PORT": str(port), "FLOWER_ADDRESS": "127.0.0.1"}
    with celery("flower", log=log, **environ) as process:

        def ask(path: str) -> Any:
            url = f"http://127.0.0.1:{port}{path}"
            return requests.get(url, auth=tuple(login.split(":")), timeout=10)  # type: ignore[arg-type]

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return bool(ask("/api/tasks").status_code == 200)
            except requests.ConnectionError:
                return False

        wait_until(answers, what="Flower answers")
        wait_until(lambda: ask("/workers?json=1").json()["data"], what="Flower hears events")
        results = [send(*args, **kwargs) for args, kwargs in WAYS]

        def shown() -> bool:
            tasks = ask("/api/tasks").json()
            return all(tasks.get(r.id, {}).get("state") == "SUCCESS" for r in results)

        wait_until(shown, what="Flower shows the tasks' ends")
        pages = ["/api/tasks", "/tasks", "/api/workers?refresh=1", "/broker"]
        pages += [f"/api/task/info/{r.id}" for r in results] + [f"/task/{r.id}" for r in results]
        for page in pages:
            text = ask(page).text
            assert SECRET not in text, page
            assert settings.REDIS_PASSWORD not in text, page
            assert not [name for name, value in OWN.items() if value in text], page
    assert SECRET not in log.read_text()


def own_secrets() -> dict[str, str]:
    return OWN | {
        "FLOWER_BASIC_AUTH": "own-flower",
        "REDIS_PASSWORD": settings.REDIS_PASSWORD,
        "POSTGRES_PASSWORD": os.environ["POSTGRES_PASSWORD"],
    }


@pytest.mark.parametrize(
    "command", [("inspect", "conf"), ("inspect", "conf", "true"), ("inspect", "stats"), ("report",)]
)
def test_celery_s_own_commands_show_no_secret(worker, command):
    answer = control(*command)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout) > 500
    exposed = [name for name, value in own_secrets().items() if value in answer.stdout]
    assert not exposed


def test_the_worker_s_whole_log_has_no_secret_of_ours(worker):
    log = worker.read_text()
    assert "Connected to redis://" in log
    assert not [name for name, value in own_secrets().items() if value in log]
    assert SECRET not in log


def test_a_worker_that_finds_no_redis_does_not_tell_its_password(tmp_path):
    log = tmp_path / "celery.log"
    password = "a/pass:word@with#signs"
    environ = {"REDIS_PORT": str(free_port()), "REDIS_PASSWORD": password}
    with celery("worker", "--loglevel=debug", "--concurrency=1", log=log, **environ):
        wait_until(lambda: "Cannot connect to" in log.read_text(), what="it says so")
    text = log.read_text()
    assert password not in text
    assert "with%23signs" not in text
