"""Workers and beats of a test's own on an empty broker: started, watched, killed."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
from django.utils import timezone

from deploy.embedded.servers import Redis, free_port
from promotions import tasks
from promotions.models import Notification
from tests.processes import celery, control, serving, wait_until

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "celery.log"


def test_a_second_beat_takes_over_from_one_killed(broker, tmp_path):
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    environ = {"CELERY_BEAT_MAX_LOOP_INTERVAL": "1", "CELERY_REDBEAT_LOCK_TIMEOUT": "2"}
    with celery("beat", "--loglevel=debug", log=first, **environ) as leader:
        wait_until(lambda: "Acquired lock" in first.read_text(), what="the first beat leads")
        with celery("beat", "--loglevel=debug", log=second, **environ):
            wait_until(lambda: "another one has" in second.read_text(), what="the second waits")
            assert "Acquired lock" not in second.read_text()
            os.kill(leader.pid, signal.SIGKILL)
            wait_until(lambda: "Acquired lock" in second.read_text(), what="the second takes over")


def test_a_beat_without_workers_fills_no_queue(broker, log):
    environ = {
        "CELERY_BEAT_MAX_LOOP_INTERVAL": "0.5",
        "CELERY_REDBEAT_LOCK_TIMEOUT": "2",
        "CHECK_ACTIVE_PROMOS_SECONDS": "0.5",
        "RECONCILE_EXECUTIONS_SECONDS": "0.5",
    }
    entry = "check-flash-promos-every-minute still waits for a worker"
    with celery("beat", log=log, **environ):
        wait_until(lambda: log.read_text().count(entry) >= 3, what="it ticked a few times")
    named = [json.loads(raw)["headers"]["task"] for raw in broker.lrange("high_priority", 0, -1)]
    assert named.count("promotions.tasks.check_active_promos") == 1
    assert len(named) == len(set(named))
    assert log.read_text().count("Message Error") == 0
    # What is acknowledged late is held until it has ended. Told to stop while a task is on its way
    # to the pool, Celery's worker would wait for half a minute.
    with celery("worker", "--concurrency=1", log=log, CELERY_TASK_ACKS_LATE="1"):
        wait_until(
            lambda: not broker.exists("high_priority", "default", "low_priority", "unacked"),
            what="what waited has run",
        )


#: A beat that sends something each second.
QUICK = {
    "CELERY_BEAT_MAX_LOOP_INTERVAL": "1",
    "CELERY_REDBEAT_LOCK_TIMEOUT": "5",
    "CHECK_ACTIVE_PROMOS_SECONDS": "1",
}


def sent(log: Path) -> int:
    return log.read_text().count("Sending due task check-flash-promos")


def waits(log: Path) -> int:
    return log.read_text().count("beat: Waiting: Redis does not answer")


def goes_on(log: Path) -> None:
    before = sent(log)
    wait_until(lambda: sent(log) > before + 1, seconds=60, what="it sends tasks")


def test_a_beat_that_stands_by_shows_that_it_lives(broker, log, tmp_path):
    alive, first = tmp_path / "alive", tmp_path / "leader.log"
    with celery("beat", "--loglevel=info", log=first, **QUICK):
        wait_until(lambda: "Acquired lock" in first.read_text(), what="the other one leads")
        with celery("beat", log=log, LIVENESS_FILE=str(alive), **QUICK):
            wait_until(lambda: "another one has the lock" in log.read_text(), what="it stands by")
            alive.unlink()
            wait_until(alive.exists, what="it touches its file again")


def test_beat_outlives_redis_and_starts_without_it(tmp_path):
    own = Redis(tmp_path / "redis", free_port(), "secret", {"appendonly": "yes"})
    address = {"REDIS_PORT": str(own.port), "REDIS_PASSWORD": own.password, "REDIS_DATABASE": "0"}
    log = tmp_path / "beat.log"
    with celery("beat", "--loglevel=info", log=log, **QUICK, **address) as beat:
        for outages in (1, 2, 3):
            wait_until(lambda n=outages: waits(log) == n, what="it waits for Redis")  # type: ignore[misc]
            with serving(own):
                goes_on(log)
        (own.data / "appendonlydir").rename(tmp_path / "lost")
        with serving(own):
            goes_on(log)
        assert beat.poll() is None
        beat.terminate()
        assert beat.wait(30) == 0


def test_a_beat_whose_redis_lost_everything_writes_its_schedule_anew(broker, log):
    with celery("beat", "--loglevel=info", log=log, **QUICK):
        goes_on(log)
        broker.flushdb()
        goes_on(log)


def test_a_worker_shows_that_it_lives(broker, log, tmp_path):
    alive = tmp_path / "alive"
    with celery("worker", "--concurrency=1", log=log, LIVENESS_FILE=str(alive)):
        wait_until(alive.exists, what="the worker touches its file")
        alive.unlink()
        wait_until(alive.exists, what="the worker touches it again, idle")


def test_a_worker_without_its_broker_shows_that_it_lives(log, tmp_path):
    """Whether nobody listens there, or somebody who never answers."""
    alive = tmp_path / "alive"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (free_port(), silent.getsockname()[1]):
            alive.unlink(missing_ok=True)
            variables = {"REDIS_PORT": str(port), "LIVENESS_FILE": str(alive)}
            with celery("worker", "--concurrency=1", log=log, **variables) as worker:
                for _ in range(2):
                    wait_until(alive.exists, seconds=60, what="the worker touches its file")
                    alive.unlink()
                worker.kill()


def test_a_worker_killed_while_it_publishes_loses_nothing(
    broker, log, make_promo, make_shopper, queue, settings
):
    promo = make_promo()
    rows = [
        Notification(
            promo=promo, shopper=make_shopper(), local_day=timezone.now().date(), channel="in_app"
        )
        for _ in range(100)
    ]
    Notification.objects.bulk_create(rows)
    with celery("worker", "--concurrency=1", log=log) as process:
        tasks.check_active_promos.delay()
        wait_until(
            Notification.objects.filter(status="PUBLISHED").exists, what="publishing has begun"
        )
        os.kill(process.pid, signal.SIGKILL)
    settings.NOTIFICATION_REPUBLISH_SECONDS = 0
    settings.SQS_WAIT_SECONDS = 0

    def all_delivered() -> bool:
        tasks.process_notification_queue.apply().get()
        return Notification.objects.filter(status="DELIVERED").count() == 100

    wait_until(all_delivered, what="every row is delivered")


def test_purge_empties_the_queues(broker):
    for _ in range(3):
        tasks.check_active_promos.delay()
        tasks.cleanup_expired_promos.delay()
    assert "Purged 6 messages" in control("purge", "--force").stdout
    assert not broker.llen("high_priority")


def test_each_task_goes_to_its_queue(broker):
    tasks.check_active_promos.delay()
    tasks.process_notification_queue.delay()
    tasks.cleanup_expired_promos.delay()
    assert [broker.llen(name) for name in ("high_priority", "default", "low_priority")] == [1, 1, 1]
