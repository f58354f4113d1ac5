"""Real workers and the messages that they hold: each task runs once, and none is lost."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import current_app
from celery.result import AsyncResult
from kombu import Connection

from deploy.embedded.servers import Redis, free_port
from task_manager.models import DeadLetter
from tests.processes import control, serving, wait_until
from tests.servers import cut_off, operator
from tests.test_worker_cancel import running, traces
from tests.test_worker_tracking import row, send

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

TIMEOUT = 3
#: As production has it, with a shorter lease.
LATE = {
    "CELERY_TASK_ACKS_LATE": "1",
    "CELERY_TASK_REJECT_ON_WORKER_LOST": "1",
    "CELERY_WORKER_PREFETCH_MULTIPLIER": "1",
}
SHORT = {
    "CELERY_BROKER_TRANSPORT_OPTIONS": (
        f'{{"visibility_timeout": {TIMEOUT}, "unacked_restore_interval": 1}}'
    )
}


@pytest.fixture(autouse=True)
def empty(broker: redis.Redis) -> None:
    """An empty broker."""


def pause() -> None:
    """Longer than any lease that nobody renews."""
    time.sleep(2 * TIMEOUT)


@contextmanager
def running_two(tmp_path: Path, **environ: str) -> Iterator[dict[str, Any]]:
    """Workers that are ready, by their names: whichever takes a task, another one is there."""
    with (
        running(tmp_path, "one", **LATE, **environ) as one,
        running(tmp_path, "two", **LATE, **environ) as two,
    ):
        yield {"one@test": one, "two@test": two}


@pytest.fixture
def two_workers(tmp_path: Path) -> Iterator[dict[str, Any]]:
    with running_two(tmp_path, **SHORT) as workers:
        yield workers


def test_a_task_of_three_times_the_timeout_runs_once(broker, two_workers):
    task_id = send("probe.sleep", 3 * TIMEOUT)
    assert row(task_id, "SUCCESS")
    assert traces(broker) == {"slept": 1}
    assert broker.hlen("unacked") == 0


def test_a_countdown_of_four_times_the_timeout_runs_once_and_on_time(broker, two_workers):
    result = current_app.send_task("probe.trace", ["later"], countdown=4 * TIMEOUT)
    task = row(result.id, "SUCCESS")
    assert traces(broker) == {"later": 1}
    assert task.started_at
    waited = (task.started_at - task.created_at).total_seconds()
    assert waited >= 4 * TIMEOUT - 0.1
    # A message that comes back late does so by a whole lease.
    assert waited < 5 * TIMEOUT


def test_a_killed_workers_task_runs_elsewhere_within_45_seconds(broker, tmp_path):
    with running_two(tmp_path) as workers:
        task_id = send("probe.sleep", 5)
        workers.pop(row(task_id, "STARTED").worker).kill()
        killed = time.monotonic()
        (other,) = workers
        wait_until(lambda: traces(broker) == {"slept": 2}, seconds=60, what="it runs again")
        assert time.monotonic() - killed < 45
        assert row(task_id, "SUCCESS").worker == other


def test_no_message_is_lost_with_a_killed_worker(broker, tmp_path):
    """Each time it is in the midst of taking them."""
    count = 1500
    for number in range(count):
        send("probe.trace", str(number))
    for kill in range(1, 6):
        done = kill * 200
        with running(tmp_path, f"worker-{kill}", **LATE, **SHORT) as worker:
            wait_until(lambda done=done: broker.hlen("trace") > done, what="it is at work")  # type: ignore[misc]
            worker.kill()
    with running(tmp_path, "last", **LATE, **SHORT):
        wait_until(lambda: len(traces(broker)) == count, seconds=90, what="every task has run")
        wait_until(lambda: broker.hlen("unacked") == 0, what="nothing is held")


def test_a_worker_that_stood_still_does_no_harm(broker, tmp_path):
    ahead = {**LATE, **SHORT, "CELERY_WORKER_PREFETCH_MULTIPLIER": "2"}
    with running(tmp_path, "one", "--concurrency=1", **ahead) as one:
        first = send("probe.sleep", 4)
        send("probe.sleep", 4)
        wait_until(lambda: broker.hlen("unacked") == 2, what="it has one and holds another")
        row(first, "STARTED")
        one.send_signal(signal.SIGSTOP)
        with running(tmp_path, "two", **LATE, **SHORT):
            # Its child went on with the first; the other runs both.
            wait_until(lambda: traces(broker) == {"slept": 3}, what="the other runs them")
            one.send_signal(signal.SIGCONT)
            pause()
            assert traces(broker) == {"slept": 3}
            assert send_and_wait(broker, "afterwards")
        assert "is another worker's by now" in (tmp_path / "one.log").read_text()
        assert send_and_wait(broker, "alone again")


def send_and_wait(broker: redis.Redis, name: str) -> bool:
    send("probe.trace", name)
    wait_until(lambda: traces(broker).get(name) == 1, what=f"{name} runs")
    return True


def test_a_task_that_takes_its_workers_down_becomes_a_dead_letter(broker, tmp_path):
    """The whole worker, as when a container is out of memory."""
    with running(tmp_path, "other", "--queues=low_priority", **LATE, **SHORT):
        task_id = send("probe.fratricide")
        for number in range(3):
            with running(tmp_path, f"worker-{number}", **LATE, **SHORT) as worker:
                worker.wait(30)
        with running(tmp_path, "last", **LATE, **SHORT) as last:
            task = row(task_id, "FAILURE")
            assert last.poll() is None
            assert send_and_wait(broker, "afterwards")
    assert traces(broker)["killed"] == 3
    assert "The task ended 3 workers, and is not run again." in task.error
    letter = DeadLetter.objects.get()
    assert (letter.task_id, letter.status) == (task_id, "WAITING")
    assert isinstance(AsyncResult(task_id).result, Exception)


def test_a_task_that_kills_its_child_becomes_a_dead_letter(broker, two_workers):
    task_id = send("probe.suicide")
    task = row(task_id, "FAILURE")
    assert "The task ended 3 workers" in task.error
    assert DeadLetter.objects.get().task_id == task_id


def test_a_running_task_outlives_a_lost_connection(broker, two_workers, tmp_path):
    task_id = send("probe.sleep", 2 * TIMEOUT)
    row(task_id, "STARTED")
    cut_off(broker)
    assert row(task_id, "SUCCESS")
    pause()
    assert traces(broker) == {"slept": 1}
    assert broker.hlen("unacked") == 0
    assert send_and_wait(broker, "afterwards")


@pytest.mark.parametrize("way", ["TERM", "control shutdown"])
def test_a_worker_that_is_stopped_holds_on_to_its_last_task(broker, two_workers, way):
    task_id = send("probe.sleep", 3 * TIMEOUT)
    name = row(task_id, "STARTED").worker
    if way == "TERM":
        two_workers[name].terminate()
    else:
        control("control", "shutdown", "--destination", name)
    assert row(task_id, "SUCCESS").worker == name
    two_workers[name].wait(30)
    pause()
    assert traces(broker) == {"slept": 1}
    assert broker.hlen("unacked") == 0


def test_a_worker_outlives_redis_with_a_task_in_hand(tmp_path, db):
    """Celery 5.7.0 by itself ends with an AttributeError."""
    own = Redis(tmp_path / "redis", free_port(), "secret", operator_password="secret")
    address = {"REDIS_PORT": str(own.port), "REDIS_PASSWORD": own.password, "REDIS_DATABASE": "0"}
    with operator(own.url()) as client, ExitStack() as stack:
        with serving(own):
            worker = stack.enter_context(running(tmp_path, **LATE, **SHORT, **address))
            with Connection(own.url()) as connection:
                for seconds in (8, 8, 0):
                    current_app.send_task("probe.sleep", [seconds], connection=connection)
            wait_until(lambda: traces(client) == {"slept": 2}, what="both children are at work")
        pause()
        with serving(own):
            wait_until(
                lambda: client.llen("default") == client.hlen("unacked") == 0, what="the end"
            )
            assert worker.poll() is None
            assert 3 <= traces(client)["slept"] <= 5
            worker.terminate()
            assert worker.wait(30) == 0
