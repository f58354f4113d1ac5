"""`manage.py system_state` against a broker, a schedule and tables whose contents are known."""

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from celery import current_app
from celery.schedules import schedule
from django.core.management import call_command
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from redbeat.schedulers import RedBeatSchedulerEntry

from marketplace.celery import app
from marketplace.tests.test_health import closed_database, closed_redis_url
from task_manager.clients.cancellations import cancellations
from task_manager.models import DeadLetter, OutboxTask
from task_manager.tests.test_metrics import publish

pytestmark = pytest.mark.django_db

EMPTY = {"depth": 0, "oldest_seconds": 0.0, "limit": 50_000, "workers": []}
NEVER = {
    "task": None,
    "period_seconds": None,
    "last_tick_at": None,
    "due_at": None,
    "overdue": True,
}


def state() -> dict[str, Any]:
    output = StringIO()
    call_command("system_state", stdout=output)
    read: dict[str, Any] = json.loads(output.getvalue())
    return read


def tick(name: str, *, seconds_ago: float, period: float = 60.0) -> None:
    """As beat leaves an entry behind that it has sent."""
    entry = RedBeatSchedulerEntry(name, "shop.tasks.pack", schedule(period, app=app), app=app)
    entry.save()
    entry.next(last_run_at=datetime.now(UTC) - timedelta(seconds=seconds_ago))


def test_a_system_that_never_ran(broker):
    told = state()
    assert told["errors"] == {}
    assert told["queues"] == dict.fromkeys(("default", "high_priority", "low_priority"), EMPTY)
    assert told["messages_held"] == 0
    assert told["workers"] == {}
    assert told["periodic"] == dict.fromkeys(sorted(current_app.conf.beat_schedule), NEVER)
    assert told["tracking"]["lag_seconds"] == 0
    assert told["pending_migrations"] == []
    assert told["dead_letters_waiting"] == told["task_notifications_pending"] == 0
    assert told["promised_tasks"] == {"unfinished": 0, "waiting": 0, "oldest_seconds": 0.0}
    assert told["promo_notifications"] == {"PENDING": 0, "PUBLISHED": 0}


def test_a_queue_tells_how_many_wait_and_since_when(broker):
    publish("default", seconds_ago=400)
    publish("default")
    default = state()["queues"]["default"]
    assert default["depth"] == 2
    assert 399 <= default["oldest_seconds"] < 460


def test_an_entry_is_overdue_once_beat_has_missed_it(broker):
    tick("in-time", seconds_ago=50)
    tick("late", seconds_ago=200)
    periodic = state()["periodic"]
    assert periodic["in-time"]["overdue"] is False
    assert periodic["late"]["overdue"] is True
    assert periodic["late"]["task"] == "shop.tasks.pack"
    assert periodic["late"]["period_seconds"] == 60
    last, due = (datetime.fromisoformat(periodic["late"][n]) for n in ("last_tick_at", "due_at"))
    assert abs(due - last - timedelta(seconds=60)) < timedelta(seconds=1)


def test_a_worker_that_does_not_answer_is_alive_and_consumes_nothing(broker):
    cancellations().since(0, worker="frozen@here")
    told = state()
    assert told["workers"]["frozen@here"]["queues"] is None
    assert 0 <= told["workers"]["frozen@here"]["last_seen_seconds"] < 10
    assert told["queues"]["default"]["workers"] == []


def test_what_waits_in_the_tables_is_counted(broker):
    now = timezone.now()
    long_ago = now - timedelta(minutes=10)
    DeadLetter.objects.create(task_id="a", celery_name="shop.tasks.pack", created_at=now)
    OutboxTask.objects.create(task_id="b", celery_name="shop.tasks.pack", created_at=long_ago)
    OutboxTask.objects.create(task_id="c", celery_name="shop.tasks.pack", published_at=now)
    told = state()
    assert told["dead_letters_waiting"] == 1
    promised = told["promised_tasks"]
    assert (promised["unfinished"], promised["waiting"]) == (2, 1)
    assert 600 <= promised["oldest_seconds"] < 660


def test_a_migration_that_is_not_applied_is_named(broker):
    last = MigrationRecorder.Migration.objects.filter(app="task_manager").latest("name")
    last.delete()
    assert state()["pending_migrations"] == [f"task_manager.{last.name}"]


def test_without_postgresql_the_rest_is_told(broker):
    publish("default")
    with closed_database():
        told = state()
    assert told["errors"].keys() == {"postgresql"}
    assert told["errors"]["postgresql"].startswith("OperationalError: ")
    assert told["queues"]["default"]["depth"] == 1
    assert "dead_letters_waiting" not in told


def test_without_the_broker_the_rest_is_told(broker):
    tick("in-time", seconds_ago=0)
    url = app.conf.broker_read_url
    app.conf.update(broker_read_url=closed_redis_url())
    try:
        told = state()
    finally:
        app.conf.update(broker_read_url=url)
    assert told["errors"].keys() == {"broker"}
    assert told["periodic"]["in-time"]["overdue"] is False
    assert told["dead_letters_waiting"] == 0
