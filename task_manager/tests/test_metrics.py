"""The numbers against a broker, a stream and tables whose contents are known."""

import json
import time
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from celery import current_app
from django.utils import timezone

from marketplace.broker import QueueFull
from marketplace.tests.test_metrics import TOKEN, scrape
from promotions.models import Notification
from task_manager.clients.cancellations import cancellations
from task_manager.clients.stream import STREAM, Reader, writer
from task_manager.entries import PUBLISHED_AT
from task_manager.models import DeadLetter, OutboxTask, TaskExecution, TaskNotification
from task_manager.services.executions import executions_record
from tests.servers import others

pytestmark = pytest.mark.django_db


@pytest.fixture
def metrics(client, settings):
    """Scrapes: the values of one metric by its labels' values, in the order of their names."""
    settings.METRICS_TOKEN = TOKEN
    return lambda name: scrape(client)[f"flash_promos_{name}"]


def ended(task_id: str, status: str = "SUCCESS", duration: float | None = None, **more) -> bytes:
    entry = {
        "id": task_id,
        "status": status,
        "position": 2**41,
        "at": 1000.0,
        "finished_at": 1000.0,
        "celery_name": "shop.tasks.pack",
        "name": "shop.pack",
        "module": "shop",
        "duration": duration,
    }
    return json.dumps(entry | more).encode()


def publish(queue: str, *, seconds_ago: float = 0, **options) -> None:
    headers = {PUBLISHED_AT: time.time() - seconds_ago}
    current_app.send_task("shop.tasks.pack", queue=queue, headers=headers, **options)
    writer().flush()


# --- The broker ----------------------------------------------------------------------------------
def test_an_empty_broker(broker, metrics):
    assert metrics("queue_messages") == {"default": 0, "high_priority": 0, "low_priority": 0}
    assert metrics("queue_oldest_seconds") == {"default": 0, "high_priority": 0, "low_priority": 0}
    assert metrics("messages_held") == {"": 0}


def test_a_queue_counts_its_messages_of_every_priority(broker, metrics):
    for priority in (None, 0, 3, 9):
        publish("default", priority=priority)
    publish("high_priority")
    assert metrics("queue_messages") == {"default": 4, "high_priority": 1, "low_priority": 0}


def test_a_queue_s_limit_and_what_it_refused(broker, metrics, limit_queues):
    limit_queues(default=1, low_priority=0)
    publish("default")
    with pytest.raises(QueueFull):
        publish("default")
    assert metrics("queue_limit") == {"default": 1}
    refused = metrics("publications_refused_total")
    assert refused == {"default": 1, "high_priority": 0, "low_priority": 0}


def test_a_queue_is_as_old_as_its_oldest_message(broker, metrics):
    publish("default", seconds_ago=100)
    publish("default", seconds_ago=50)
    publish("default", seconds_ago=700, priority=6)
    publish("low_priority", seconds_ago=5)
    oldest = metrics("queue_oldest_seconds")
    assert 699 <= oldest["default"] < 760
    assert 4 <= oldest["low_priority"] < 65


def test_a_message_of_another_kind_counts_and_has_no_age(broker, metrics):
    broker.lpush("default", json.dumps({"body": "", "headers": {}, "properties": {}}))
    assert metrics("queue_messages")["default"] == 1
    assert metrics("queue_oldest_seconds")["default"] == 0


def test_what_a_worker_has_is_held(broker, metrics):
    publish("default")
    with current_app.connection_for_read() as connection:
        channel: Any = connection.default_channel
        assert channel.basic_get("default")
        assert (metrics("queue_messages")["default"], metrics("messages_held")[""]) == (0, 1)


# --- Redis ---------------------------------------------------------------------------------------
def test_the_stream_s_backlog(broker, metrics):
    assert metrics("tracking_lag_seconds") == {"": 0}
    writer().send([ended("a")])
    reader = Reader("test")
    assert not reader.new(block_ms=None)  # makes the group
    assert len(reader.new(block_ms=None)) == 1
    writer().send([ended("b")])
    writer().send([ended("c")])
    assert metrics("tracking_unwritten_entries") == {"": 1}
    assert metrics("tracking_unread_entries") == {"": 2}
    assert 0 <= metrics("tracking_lag_seconds")[""] < 60
    assert metrics("tracking_overflowed") == {"": 0}
    reader.close()


def test_a_stream_that_overflowed_says_so(broker, metrics, settings):
    settings.TASK_TRACKING_STREAM_LENGTH = 100
    reader = Reader("test")
    reader.new(block_ms=None)
    writer().send([ended("a")])
    assert len(reader.new(block_ms=None)) == 1
    for _ in range(400):
        writer().send([ended("b")])
    assert broker.xlen(STREAM) < 400
    assert metrics("tracking_overflowed") == {"": 1}
    reader.close()


def test_workers_alive(broker, metrics):
    assert metrics("workers_alive") == {"": 0}
    for worker in ("one", "two", "one"):
        cancellations().since(0, worker=worker)
    assert metrics("workers_alive") == {"": 2}


def test_what_beat_should_have_published_is_overdue(broker, metrics):
    now = time.time()
    due = {"redbeat:late": now - 100, "redbeat:soon": now + 100, "redbeat:never": -1}
    broker.zadd("redbeat::schedule", due)
    overdue = metrics("periodic_overdue_seconds")
    assert overdue == {"late": pytest.approx(100, abs=30), "soon": 0}


# --- PostgreSQL ----------------------------------------------------------------------------------
def test_unfinished_tasks_by_status(metrics):
    for number, status in enumerate(["PENDING", "PENDING", "STARTED", "SUCCESS", "FAILURE"]):
        TaskExecution.objects.create(
            task_id=str(number),
            status=status,
            position=1,
            changed_at=timezone.now(),
            created_at=timezone.now() - timedelta(days=number),
        )
    assert metrics("tasks_unfinished") == {"PENDING": 2, "STARTED": 1, "RETRY": 0}


def test_finished_tasks_by_name_and_status(metrics):
    executions_record(
        [
            *(ended(f"s{number}", duration=1) for number in range(3)),
            ended("f", "FAILURE", duration=2),
            ended("r", "REVOKED"),
            ended("other", name="shop.tasks.send", celery_name="shop.tasks.send"),
        ]
    )
    assert metrics("tasks_finished_total") == {
        "shop,SUCCESS,shop.pack": 3,
        "shop,FAILURE,shop.pack": 1,
        "shop,REVOKED,shop.pack": 1,
        "shop,SUCCESS,shop.tasks.send": 1,
    }
    assert metrics("tasks_failed_total") == {"shop,shop.pack": 1, "shop,shop.tasks.send": 0}


def test_a_repeated_end_counts_once(metrics):
    for _ in range(3):
        executions_record([ended("a", duration=1)])
    assert metrics("tasks_finished_total") == {"shop,SUCCESS,shop.pack": 1}


def test_durations_fall_into_cumulative_buckets(metrics):
    durations = [0.0, 0.001, 0.0039, 0.25, 0.26, 1.0, 3.9, 4.1, 250, 5000]
    executions_record(
        [
            *(ended(str(number), duration=d) for number, d in enumerate(durations)),
            ended("f", "FAILURE", duration=4.0),
            ended("r", "REVOKED"),
        ]
    )
    buckets = metrics("task_duration_seconds_bucket")
    assert {key.partition(",")[0]: value for key, value in buckets.items()} == {
        "0.00390625": 3,
        "0.015625": 3,
        "0.0625": 3,
        "0.25": 4,
        "1.0": 6,
        "4.0": 8,
        "16.0": 9,
        "64.0": 9,
        "256.0": 10,
        "1024.0": 10,
        "4096.0": 10,
        "+Inf": 11,
    }
    assert all(a <= b for a, b in pairwise(buckets.values()))
    assert metrics("task_duration_seconds_count") == {"shop,shop.pack": 11}
    assert metrics("task_duration_seconds_sum") == {
        "shop,shop.pack": pytest.approx(sum(durations) + 4.0)
    }


def test_a_task_s_name_may_hold_anything(metrics):
    name = 'a "quoted"\\ name\nof two lines, ünïcödé'
    executions_record([ended("a", name=name, duration=1)])
    assert metrics("tasks_failed_total") == {f"shop,{name}": 0}


def test_dead_letters_that_wait(metrics):
    for number, status in enumerate(["WAITING", "WAITING", "REQUEUED", "DISCARDED"]):
        DeadLetter.objects.create(task_id=str(number), status=status, created_at=timezone.now())
    assert metrics("dead_letters_waiting") == {"": 2}


def test_the_outbox_of_tasks(metrics):
    for number, published_at in enumerate([None, timezone.now(), timezone.now()]):
        OutboxTask.objects.create(task_id=str(number), published_at=published_at)
    assert metrics("promised_tasks") == {"": 3}
    assert metrics("promised_tasks_waiting") == {"": 1}


def test_the_outbox_of_notifications(metrics):
    for number, status in enumerate(["PENDING", "DELIVERED", "FAILED"]):
        TaskNotification.objects.create(
            task_id=str(number), status=status, created_at=timezone.now()
        )
    assert metrics("task_notifications_pending") == {"": 1}


def test_the_outbox_of_promos(metrics, make_promo, make_shopper):
    promo = make_promo()
    for status in ("PENDING", "PENDING", "PUBLISHED", "DELIVERED"):
        Notification.objects.create(
            promo=promo,
            shopper=make_shopper(),
            local_day=timezone.now(),
            channel="in_app",
            status=status,
        )
    assert metrics("promo_notifications") == {"PENDING": 2, "PUBLISHED": 1}


# --- Cost ----------------------------------------------------------------------------------------
def test_a_scrape_asks_postgresql_little_however_many_tasks(
    client, metrics, django_assert_max_num_queries
):
    executions_record([ended(str(n), name=f"shop.pack{n}", duration=1) for n in range(50)])
    with django_assert_max_num_queries(7):
        assert len(metrics("tasks_failed_total")) == 50


def test_a_scrape_leaves_no_connection_behind(broker, metrics):
    metrics("source_up")
    before = len(others(broker))
    for _ in range(5):
        metrics("source_up")
    assert len(others(broker)) <= before


def test_a_scrape_takes_nothing(broker, metrics):
    publish("default")
    writer().send([ended("a")])
    before = {key: broker.dump(key) for key in broker.keys()}  # noqa: SIM118
    metrics("source_up")
    assert {key: broker.dump(key) for key in broker.keys()} == before  # noqa: SIM118
