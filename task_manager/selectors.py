"""What reads the state: executions by user, by words, and statistics of how they end."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.db import connection
from django.db.models import Count, Min, Q, QuerySet, Sum
from django.utils import timezone

from task_manager.models import (
    UNFINISHED,
    NotificationChannel,
    TaskExecution,
    TaskNotification,
    TaskStatistic,
    TaskStatus,
)

User = AbstractBaseUser | AnonymousUser

#: What is shown of an execution; its `id` is its `task_id`.
FIELDS = (
    "task_id",
    "task_name",
    "task_module",
    "description",
    "user",
    "status",
    "progress",
    "message",
    "parameters",
    "result",
    "error",
    "traceback",
    "worker",
    "queue",
    "retries",
    "created_at",
    "started_at",
    "finished_at",
    "duration",
)
#: Those of them that may be long.
HEAVY = ("parameters", "result", "traceback")

#: Rows that are sorted by anything other than their creation, which has an index.
SORTED = 10_000


# --- Executions ----------------------------------------------------------------------------------
def executions_visible_to(user: User) -> QuerySet[TaskExecution]:
    """All for staff, their own for others."""
    if getattr(user, "is_staff", False):
        return TaskExecution.objects.all()
    return executions_of(user)


def executions_of(user: User) -> QuerySet[TaskExecution]:
    """A user's own; nobody's tasks are not those of a caller without a name."""
    if user.pk is None:
        return TaskExecution.objects.none()
    return TaskExecution.objects.filter(user_id=user.pk)


def user_tasks(
    user: User,
    *,
    module: str | None = None,
    task_name: str | None = None,
    status: str | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """A user's newest tasks, as the API shows one."""
    wanted = {"task_module": module, "task_name": task_name, "status": status}
    executions = executions_of(user).filter(
        **{name: value for name, value in wanted.items() if value is not None}
    )
    rows = executions.order_by("-created_at", "-task_id").values(*FIELDS)[:limit]
    return [{"id": row["task_id"], **row} for row in rows]


def executions_ordered(executions: QuerySet[TaskExecution], order: str) -> QuerySet[TaskExecution]:
    """By a field, descending with `-`; by any but `created_at` the newest `SORTED` alone."""
    descending, name = order.startswith("-"), order.removeprefix("-")
    last = "-task_id" if descending else "task_id"
    if name == "created_at":
        return executions.order_by(order, last)
    moments = executions.order_by("-created_at", "-task_id").values_list("created_at", flat=True)
    if oldest := moments[SORTED - 1 : SORTED].first():
        executions = executions.filter(created_at__gte=oldest)
    return executions.order_by(order, last)


@dataclass(frozen=True)
class KnownTask:
    """A task name that occurs, with what its newest execution says of it."""

    name: str
    module: str
    description: str

    def mentions(self, text: str) -> bool:
        return any(text in part.lower() for part in (self.name, self.module, self.description))


# Jumps from name to name through the index `task_name_created`: names are few, rows are many.
_KNOWN_TASKS = """
WITH RECURSIVE known AS (
    (SELECT task_name, task_module, description FROM task_manager_taskexecution
    ORDER BY task_name, created_at DESC LIMIT 1)
    UNION ALL
    SELECT following.* FROM known CROSS JOIN LATERAL (
        SELECT task_name, task_module, description FROM task_manager_taskexecution
        WHERE task_name > known.task_name ORDER BY task_name, created_at DESC LIMIT 1
    ) AS following
)
SELECT * FROM known LIMIT 10000
"""


def known_tasks() -> list[KnownTask]:
    with connection.cursor() as cursor:
        cursor.execute(_KNOWN_TASKS)
        return [KnownTask(*row) for row in cursor.fetchall()]


def executions_search(executions: QuerySet[TaskExecution], text: str) -> QuerySet[TaskExecution]:
    """By a task's id, or by words within the name, module or description of a task."""
    names = [task.name for task in known_tasks() if task.mentions(text.lower())]
    return executions.filter(Q(task_id=text) | Q(task_name__in=names))


def notifications_of(user: User) -> QuerySet[TaskNotification]:
    """What a user was told in the application."""
    if user.pk is None:
        return TaskNotification.objects.none()
    return TaskNotification.objects.filter(user_id=user.pk, channel=NotificationChannel.IN_APP)


# --- Statistics ----------------------------------------------------------------------------------
#: Those that ran to an end of their own.
_COMPLETED = (TaskStatus.SUCCESS, TaskStatus.FAILURE)


@dataclass
class Tally:
    """Counts of executions, by status and by step of duration."""

    statuses: Counter[str] = field(default_factory=Counter)
    buckets: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, status: str, count: int, bucket: int = 0, seconds: float = 0.0) -> None:
        self.statuses[status] += count
        if status in _COMPLETED:
            self.buckets[bucket] += count
            self.seconds += seconds

    def figures(self, minutes: float) -> dict[str, Any]:
        completed = self.buckets.total()
        finished = self.statuses.total() - sum(self.statuses[status] for status in UNFINISHED)
        return {
            "total": self.statuses.total(),
            "by_status": {status: self.statuses[status] for status in TaskStatus.values},
            "failure_rate": self.statuses["FAILURE"] / completed if completed else None,
            "mean_duration": self.seconds / completed if completed else None,
            "p95_duration": self.percentile(0.95),
            "tasks_per_minute": finished / minutes,
        }

    def percentile(self, share: float) -> float | None:
        """Seconds, right within a tenth: the middle of the step."""
        reached = 0
        for bucket, count in sorted(self.buckets.items()):
            reached += count
            if reached >= share * self.buckets.total():
                return float(2 ** ((bucket - 0.5) / 4))
        return None


def statistics(*, days: int = 30) -> dict[str, Any]:
    """How the tasks of the last `days` ended, in all, by module and by task.

    Those that have not ended count under `by_status` and `total`. The failure rate and the
    durations, in seconds, are of those that ended in SUCCESS or FAILURE. `tasks_per_minute`
    ended, from the first of the time on.
    """
    tallies, minutes = _tallies(days)
    modules = sorted({module for module, _name in tallies})
    return {
        "days": days,
        **_merged(tallies.values()).figures(minutes),
        "modules": [{"module": name, **_of_module(tallies, name, minutes)} for name in modules],
    }


def module_statistics(module: str, *, days: int = 30) -> dict[str, Any]:
    """The same of one module."""
    tallies, minutes = _tallies(days, module)
    return {"module": module, "days": days, **_of_module(tallies, module, minutes)}


def _of_module(
    tallies: dict[tuple[str, str], Tally], module: str, minutes: float
) -> dict[str, Any]:
    tasks = {name: tally for (of, name), tally in sorted(tallies.items()) if of == module}
    return {
        **_merged(tasks.values()).figures(minutes),
        "tasks": [{"task_name": name, **tally.figures(minutes)} for name, tally in tasks.items()],
    }


def _merged(tallies: Iterable[Tally]) -> Tally:
    merged = Tally()
    for tally in tallies:
        merged.statuses += tally.statuses
        merged.buckets += tally.buckets
        merged.seconds += tally.seconds
    return merged


def _tallies(days: int, module: str | None = None) -> tuple[dict[tuple[str, str], Tally], float]:
    """By module and task name; and the minutes that they took to end."""
    now = timezone.now()
    since = now.replace(minute=0, second=0, microsecond=0) - timedelta(days=days)
    of_module = Q() if module is None else Q(task_module=module)
    tallies: dict[tuple[str, str], Tally] = {}
    first: datetime = now
    for row in (
        TaskStatistic.objects.filter(of_module, hour__gte=since)
        .values_list("task_module", "task_name", "status", "bucket")
        .annotate(Sum("count"), Sum("seconds"), Min("hour"))
    ):
        *key, status, bucket, count, seconds, hour = row
        tallies.setdefault((key[0], key[1]), Tally()).add(status, count, bucket, seconds)
        first = min(first, hour)
    for of, name, status, count in (
        TaskExecution.objects.filter(of_module, status__in=UNFINISHED, created_at__gte=since)
        .order_by()
        .values_list("task_module", "task_name", "status")
        .annotate(count=Count("*"))
    ):
        tallies.setdefault((of, name), Tally()).add(status, count)
    return tallies, max(1.0, (now - first).total_seconds() / 60)
