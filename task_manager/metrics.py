"""What Prometheus is told of the queues, the workers and the tasks."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from typing import Any

import redis
from django.conf import settings
from django.db.models import Count, Q
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from redis.backoff import NoBackoff
from redis.retry import Retry

from marketplace import sentinel
from marketplace.broker import REASONS, REFUSED
from marketplace.metrics import PREFIX
from task_manager.clients.broker import Broker, broker
from task_manager.clients.cancellations import cancellations
from task_manager.clients.schedule import due_times
from task_manager.clients.stream import backlog
from task_manager.models import (
    UNFINISHED,
    DeadLetter,
    OutboxTask,
    TaskExecution,
    TaskNotification,
    TaskStatistic,
    TaskStatus,
)

#: Seconds that one call to Redis may take.
TIMEOUT = 2.0
#: Seconds since its last sign of life for which a worker counts as alive.
ALIVE_SECONDS = 10.0

#: The histogram's buckets: each ends where one of `TaskStatistic` does.
_BUCKETS = range(-32, 56, 8)
_EDGES = [str(2.0 ** (bucket / 4)) for bucket in _BUCKETS]


def gauge(name: str, text: str, value: float | None = None, label: str = "") -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, value, labels=[label] if label else None)


# --- The broker ----------------------------------------------------------------------------------
def from_broker() -> Iterator[Metric]:
    waiting = gauge("queue_messages", "Messages that wait in a queue.", label="queue")
    oldest = gauge(
        "queue_oldest_seconds",
        "How long ago the message was published that is next in turn; 0 for an empty queue.",
        label="queue",
    )
    with broker(seconds=TIMEOUT) as messages:
        now = float(messages.client.time()[0])
        for queue in messages.queues():
            waiting.add_metric([queue], messages.depth(queue))
            published_at = messages.oldest(queue)
            oldest.add_metric([queue], max(0.0, now - published_at) if published_at else 0.0)
        yield waiting
        yield oldest
        yield from _limits(messages)
        yield gauge(
            "messages_held",
            "Messages that workers have and did not acknowledge yet.",
            messages.client.hlen(messages.channel.unacked_key),
        )


def _limits(messages: Broker) -> Iterator[Metric]:
    limit = gauge("queue_limit", "Messages that may wait in a queue; none: any.", label="queue")
    for queue, count in messages.limits().items():
        limit.add_metric([queue], count)
    refused = CounterMetricFamily(
        f"{PREFIX}publications_refused", "Messages for which a queue was full.", labels=["queue"]
    )
    counts = messages.refused()
    for queue in messages.queues():
        refused.add_metric([queue], counts.get(queue, 0))
    yield limit
    yield refused


# --- Redis ---------------------------------------------------------------------------------------
def from_redis() -> Iterator[Metric]:
    client = redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        **sentinel.options(),
    )
    with client:
        lag = backlog(client)
        refused: Any = client.mget([REFUSED + reason for reason in REASONS])
        due = due_times(client)
    yield _refused(refused)
    yield gauge("tracking_unread_entries", "Entries of the stream that none has read.", lag.length)
    yield gauge(
        "tracking_unwritten_entries",
        "Entries that a worker has read and not yet written to PostgreSQL.",
        lag.pending,
    )
    yield gauge("tracking_lag_seconds", "Age of the oldest of either kind of entry.", lag.seconds)
    yield gauge(
        "tracking_overflowed",
        "1: entries were cut off before they were read; the reconciliation makes them good.",
        lag.overflowed,
    )
    alive = cancellations().workers(seconds=ALIVE_SECONDS)
    yield gauge("workers_alive", "Workers that gave a sign of life lately.", len(alive))
    yield _overdue(due)


def _overdue(due: dict[str, float]) -> Metric:
    metric = gauge(
        "periodic_overdue_seconds",
        "How long ago beat should have published this entry of its schedule; 0: it is not due.",
        label="entry",
    )
    now = time.time()
    for entry, due_at in sorted(due.items()):
        metric.add_metric([entry], max(0.0, now - due_at))
    return metric


def _refused(counts: list[bytes | None]) -> Metric:
    metric = CounterMetricFamily(
        f"{PREFIX}messages_refused",
        "Messages that no worker runs, by what is wrong with them: no message at all, "
        "no JSON, no task of ours.",
        labels=["reason"],
    )
    for reason, count in zip(REASONS, counts, strict=True):
        metric.add_metric([reason], int(count or 0))
    return metric


# --- PostgreSQL ----------------------------------------------------------------------------------
def from_postgresql() -> Iterator[Metric]:
    yield _unfinished()
    yield from _finished()
    yield gauge(
        "dead_letters_waiting",
        "Failed tasks that wait to be requeued or discarded.",
        DeadLetter.objects.filter(status=DeadLetter.Status.WAITING).count(),
    )
    promised = OutboxTask.objects.aggregate(
        count=Count("pk"), waiting=Count("pk", filter=Q(published_at=None))
    )
    yield gauge("promised_tasks", "Promised tasks that have not ended.", promised["count"])
    yield gauge(
        "promised_tasks_waiting", "Those that the broker did not take yet.", promised["waiting"]
    )
    yield gauge(
        "task_notifications_pending",
        "Notifications of tasks that were not delivered yet.",
        TaskNotification.objects.filter(status=TaskNotification.Status.PENDING).count(),
    )


def _unfinished() -> Metric:
    rows = TaskExecution.objects.filter(status__in=UNFINISHED).values_list("status")
    counts = dict(rows.annotate(count=Count("*")))
    metric = gauge("tasks_unfinished", "Tasks that wait or run, by status.", label="status")
    for status in UNFINISHED:
        metric.add_metric([status], counts.get(status, 0))
    return metric


def _finished() -> Iterator[Metric]:
    labels = ["task", "module"]
    finished = CounterMetricFamily(
        f"{PREFIX}tasks_finished", "Tasks that ended, by status.", labels=[*labels, "status"]
    )
    failed = CounterMetricFamily(
        f"{PREFIX}tasks_failed",
        "Tasks that ended in FAILURE, and 0 for those that never did.",
        labels=labels,
    )
    durations = HistogramMetricFamily(
        f"{PREFIX}task_duration_seconds",
        "How long the last attempt took of tasks that ended in SUCCESS or FAILURE.",
        labels=labels,
    )
    for task, rows in _statistics().items():
        ended: Counter[str] = Counter()
        lasted = [0] * (len(_EDGES) + 1)
        total = 0.0
        for status, bucket, count, seconds in rows:
            ended[status] += count
            if status != TaskStatus.REVOKED:
                lasted[bisect_left(_BUCKETS, bucket)] += count
                total += seconds
        for status, count in sorted(ended.items()):
            finished.add_metric([*task, status], count)
        failed.add_metric(task, ended[TaskStatus.FAILURE])
        durations.add_metric(task, _cumulative(lasted), total)
    yield finished
    yield failed
    yield durations


def _statistics() -> dict[tuple[str, str], list[tuple[str, int, int, float]]]:
    """By name and module of a task: status, bucket, count and seconds, since the beginning."""
    rows = TaskStatistic.objects.filter(hour=None).order_by("task_name", "task_module")
    found: dict[tuple[str, str], list[tuple[str, int, int, float]]] = {}
    for row in rows:
        ended = (row.status, row.bucket, row.count, row.seconds)
        found.setdefault((row.task_name, row.task_module), []).append(ended)
    return found


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    sums = [sum(counts[: end + 1]) for end in range(len(counts))]
    return list(zip([*_EDGES, "+Inf"], sums, strict=True))


SOURCES = {"broker": from_broker, "redis": from_redis, "postgresql": from_postgresql}
