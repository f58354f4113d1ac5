"""Who works: as Flower knows it, or as Celery's workers answer themselves."""

from typing import Any

from celery import current_app
from django.core.cache import cache

from task_manager.clients import flower
from task_manager.clients.cancellations import LEASE, cancellations

#: Seconds that workers have for an answer.
TIMEOUT = 1.0
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
    """What those of them that answer take tasks from, and how many they run."""
    if not names:
        return {}
    inspect = _inspect(destination=names, limit=len(names))
    queues, active = inspect.active_queues() or {}, inspect.active() or {}
    return {
        name: {
            "queues": sorted(queue["name"] for queue in queues[name]),
            "active": len(active.get(name, [])),
        }
        for name in queues
    }


def _inspect(**options: Any) -> Any:
    return current_app.control.inspect(timeout=TIMEOUT, **options)


def flower_info() -> dict[str, Any]:
    """Where Flower is and what it counted; no login."""
    return flower.info()
