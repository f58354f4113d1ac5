"""Flower, as far as it tells of workers over HTTP.

Without logins Flower 2.2 refuses everything under its `/api/`; the data behind its page of
workers it gives either way. Only `/api/workers` knows queues and concurrency.
"""

from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

import requests
from django.conf import settings

#: Seconds to connect, and between two bytes of the answer.
TIMEOUT = (0.5, 1.5)

#: What Flower counts of each worker's events, as it is shown.
COUNTED = {
    "active": "active",
    "task-received": "received",
    "task-succeeded": "succeeded",
    "task-failed": "failed",
    "task-retried": "retried",
    "task-revoked": "revoked",
}


class FlowerAway(Exception):
    """Flower does not answer, or not as Flower does."""


def workers() -> dict[str, dict[str, Any]]:
    """The workers that are alive, by name."""
    alive = _alive()
    details = _details() if alive else {}
    return {
        name: {
            "status": "online",
            "active": worker.get("active") or 0,
            "processed": worker.get("processed") or 0,
            "concurrency": _concurrency(details.get(name, {})),
            "queues": [queue["name"] for queue in details.get(name, {}).get("active_queues", [])],
            "pid": worker.get("pid"),
        }
        for name, worker in alive.items()
    }


def info() -> dict[str, Any]:
    """Where Flower is, whether it answers, and what it counted since it started."""
    told: dict[str, Any] = {
        "url": _without_login(settings.FLOWER_URL),
        "version": version("flower"),
    }
    try:
        workers = _alive().values()
    except FlowerAway:
        return {**told, "reachable": False, "workers": None, "tasks": None}
    tasks = {
        shown: sum(worker.get(counted) or 0 for worker in workers)
        for counted, shown in COUNTED.items()
    }
    return {**told, "reachable": True, "workers": len(workers), "tasks": tasks}


def _alive() -> dict[str, Any]:
    data = _get("/workers?json=1")
    try:
        return {worker["hostname"]: worker for worker in data["data"] if worker["status"]}
    except (KeyError, TypeError):
        raise FlowerAway from None


def _details() -> dict[str, Any]:
    try:
        details = _get("/api/workers")
    except FlowerAway:
        return {}
    return details if isinstance(details, dict) else {}


def _concurrency(details: dict[str, Any]) -> int | None:
    pool = details.get("stats", {}).get("pool", {})
    concurrency: int | None = pool.get("max-concurrency")
    return concurrency


def _get(path: str) -> Any:
    user, separator, password = settings.FLOWER_LOGIN.partition(":")
    with requests.Session() as session:
        session.trust_env = False  # no proxy stands before Flower, and no .netrc knows its login
        try:
            response = session.get(
                settings.FLOWER_URL.rstrip("/") + path,
                auth=(user, password) if separator else None,
                timeout=TIMEOUT,
                allow_redirects=False,
            )
            if response.status_code != requests.codes.ok:
                raise FlowerAway
            return response.json()
        except requests.RequestException:
            raise FlowerAway from None


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
