"""Who works: as Flower knows it, or as Celery's workers answer themselves."""

import time
from typing import Any

from celery import current_app
from django.core.cache import cache

from task_manager.clients import flower
from task_manager.clients.cancellations import LEASE, cancellations

#: Seconds that workers have for an answer.
TIMEOUT = 1.0
#: The same for one that is asked by name: nobody waits once it has answered.
PATIENCE = 5.0
#: Seconds for which an answer serves all who ask.
KEPT = 2


def workers_list() -> list[dict[str, Any]]:
    """The workers that are alive, by name."""
    return cache.get_or_set("task_manager:workers", _ask, KEPT) or []


def _ask() -> list[dict[str, Any]]:
    try:
        source, workers = "flower", flower.workers()
    except flower.FlowerAway:
        source, workers = "celery", _from_celery()
    return [{**workers[name], "name": name, "source": source} for name in sorted(workers)]


def _from_celery() -> dict[str, dict[str, Any]]:
    # With as many answers as workers are known to live, nobody waits for more.
    alive = len(cancellations().workers(seconds=3 * LEASE))
    stats = _inspect(limit=alive or None).stats() or {}
    if not stats:
        return {}
    inspect = _inspect(destination=list(stats), limit=len(stats))
    active, queues = inspect.active() or {}, inspect.active_queues() or {}
    return {
        name: {
            "status": "online",
            "active": len(active.get(name, [])),
            "processed": sum(told["total"].values()),
            "concurrency": told.get("pool", {}).get("max-concurrency"),
            "queues": [queue["name"] for queue in queues.get(name, [])],
            "pid": told.get("pid"),
        }
        for name, told in stats.items()
    }


def workers_consuming(names: list[str]) -> dict[str, dict[str, Any]]:
    """Of those that answer: what they take tasks from, how many they run and may, their process."""
    if not names:
        return {}
    inspect = _inspect(destination=names, limit=len(names), timeout=2 * TIMEOUT)
    stats, queues = inspect.stats() or {}, inspect.active_queues() or {}
    active = inspect.active() or {}
    return {
        name: {
            "queues": sorted(queue["name"] for queue in queues[name]),
            "active": len(active.get(name, [])),
            "concurrency": told.get("pool", {}).get("max-concurrency"),
            "pid": told["pid"],
        }
        for name, told in stats.items()
        if name in queues
    }


def worker_tasks(name: str) -> list[dict[str, Any]] | None:
    """What it runs, and since how many seconds, and has taken to run next; None: no answer."""
    inspect = _inspect(destination=[name], limit=1, timeout=PATIENCE)
    active, reserved = inspect.active() or {}, inspect.reserved() or {}
    if name not in active or name not in reserved:
        return None
    now = time.time()
    return [
        {"id": task["id"], "name": task["name"], "seconds": max(0.0, now - task["time_start"])}
        for task in active[name]
    ] + [{"id": task["id"], "name": task["name"], "seconds": None} for task in reserved[name]]


def worker_stop_consuming(name: str) -> list[str] | None:
    """It takes no more tasks and finishes those it has; the queues it leaves. None: no answer."""
    told = _inspect(destination=[name], limit=1, timeout=PATIENCE).active_queues() or {}
    if name not in told:
        return None
    queues = sorted(queue["name"] for queue in told[name])
    for queue in queues:
        _control("cancel_consumer", queue, name)
    return queues


def worker_consume(name: str, queues: list[str]) -> None:
    """It takes tasks from these queues, too."""
    for queue in queues:
        _control("add_consumer", queue, name)


def _control(command: str, queue: str, name: str) -> None:
    options: dict[str, Any] = {"reply": True, "limit": 1, "timeout": PATIENCE}
    getattr(current_app.control, command)(queue, destination=[name], **options)


def _inspect(**options: Any) -> Any:
    return current_app.control.inspect(**{"timeout": TIMEOUT} | options)


def flower_info() -> dict[str, Any]:
    """Where Flower is and what it counted; no login."""
    return flower.info()
