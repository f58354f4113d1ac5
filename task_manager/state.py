"""What the system's state says of queues, workers, beat and what waits in the history."""

from datetime import timedelta
from typing import Any

import redis
from celery.app import app_or_default
from django.conf import settings
from django.db.models import Count, Min, Q
from django.utils import timezone
from redbeat.schedulers import RedBeatSchedulerEntry, ensure_conf, get_redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from marketplace import sentinel
from task_manager.clients.broker import broker
from task_manager.clients.cancellations import cancellations
from task_manager.clients.stream import backlog
from task_manager.models import DeadLetter, OutboxTask, TaskNotification
from task_manager.services.workers import workers_consuming

#: Seconds that one call to Redis may take.
TIMEOUT = 2.0
#: Seconds since its last sign of life for which a worker counts as alive.
ALIVE_SECONDS = 10.0
#: Time after which a periodic task that is due is overdue: a standby beat takes over sooner.
OVERDUE = timedelta(seconds=30)


# --- The broker ----------------------------------------------------------------------------------
def from_broker() -> dict[str, Any]:
    with broker(seconds=TIMEOUT) as messages:
        now = float(messages.client.time()[0])
        limits = messages.limits()
        queues: dict[str, dict[str, Any]] = {
            queue: {
                "depth": messages.depth(queue),
                "oldest_seconds": max(0.0, now - (messages.oldest(queue) or now)),
                "limit": limits.get(queue),
                "workers": [],
            }
            for queue in messages.queues()
        }
        held = messages.client.hlen(messages.channel.unacked_key)
    workers = _workers()
    for name, worker in workers.items():
        for queue in worker["queues"] or ():
            if queue in queues:
                queues[queue]["workers"].append(name)
    return {"queues": queues, "messages_held": held, "workers": workers}


def _workers() -> dict[str, dict[str, Any]]:
    """Those alive by name; of one that does not answer the rest is None."""
    alive = cancellations().signs_of_life(seconds=ALIVE_SECONDS)
    told = workers_consuming(list(alive))
    silent = dict.fromkeys(("queues", "active", "concurrency", "pid"))
    return {
        name: {"last_seen_seconds": seconds, **told.get(name, silent)}
        for name, seconds in sorted(alive.items())
    }


# --- Redis ---------------------------------------------------------------------------------------
def from_redis() -> dict[str, Any]:
    with redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        **sentinel.options(),
    ) as client:
        lag = backlog(client)
    tracking = {
        "unread_entries": lag.length,
        "unwritten_entries": lag.pending,
        "lag_seconds": lag.seconds,
        "overflowed": lag.overflowed,
    }
    return {"tracking": tracking, "periodic": _periodic()}


def _periodic() -> dict[str, dict[str, Any]]:
    """By its name, each entry of the schedule: the declared ones, and those added to RedBeat."""
    app = app_or_default()
    conf = ensure_conf(app)
    keys = {RedBeatSchedulerEntry.generate_key(app, name) for name in app.conf.beat_schedule}
    keys.update(get_redis(app).zrange(conf.schedule_key, 0, -1))
    return {key.removeprefix(conf.key_prefix): _entry(app, key) for key in sorted(keys)}


def _entry(app: Any, key: str) -> dict[str, Any]:
    try:
        entry = RedBeatSchedulerEntry.from_key(key, app=app)
    except KeyError:  # beat never ticked on this Redis
        unknown = dict.fromkeys(("task", "period_seconds", "last_tick_at", "due_at"))
        return {**unknown, "overdue": True}
    last, due = entry.last_run_at, None
    if last:
        # Not `entry.due_at`, which is never in the past.
        due = timezone.now() + entry.schedule.remaining_estimate(last)
    period = getattr(entry.schedule, "run_every", None)
    return {
        "task": entry.task,
        "period_seconds": period.total_seconds() if period else None,
        "last_tick_at": last.isoformat() if last else None,
        "due_at": due.isoformat() if due else None,
        "overdue": entry.enabled and (due is None or due < timezone.now() - OVERDUE),
    }


# --- PostgreSQL ----------------------------------------------------------------------------------
def from_postgresql() -> dict[str, Any]:
    return {
        "dead_letters_waiting": DeadLetter.objects.filter(status=DeadLetter.Status.WAITING).count(),
        "promised_tasks": _promised_tasks(),
        "task_notifications_pending": TaskNotification.objects.filter(
            status=TaskNotification.Status.PENDING
        ).count(),
    }


def _promised_tasks() -> dict[str, Any]:
    """What `enqueue` promised: not ended, not yet taken by the broker, and since when."""
    not_taken = Q(published_at=None)
    promised = OutboxTask.objects.aggregate(
        unfinished=Count("pk"),
        waiting=Count("pk", filter=not_taken),
        oldest=Min("created_at", filter=not_taken),
    )
    oldest = promised.pop("oldest")
    waited = (timezone.now() - oldest).total_seconds() if oldest else 0.0
    return {**promised, "oldest_seconds": max(0.0, waited)}


SOURCES = {"broker": from_broker, "redis": from_redis, "postgresql": from_postgresql}
