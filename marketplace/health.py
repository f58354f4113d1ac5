"""`/healthz`: the process lives. `/readyz`: what it needs answers, else 503 and what does not.

Anybody may ask, so the answer names the checks alone; why one failed stands in the log.
"""

import logging
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse

from marketplace import sentinel
from marketplace.celery import app

logger = logging.getLogger(__name__)

TIMEOUT = 2

# The code of a process does not change, so one yes holds for its life.
_migrations_applied = False


def check_database() -> None:
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute("SELECT 1")


def check_migrations() -> None:
    """Raise unless every migration of this code is applied; asked until the first yes."""
    global _migrations_applied
    if _migrations_applied:
        return
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise RuntimeError("migrations are pending: run manage.py migrate")
    _migrations_applied = True


def check_redis() -> None:
    with redis.Redis.from_url(
        settings.REDIS_URL,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        **sentinel.options(),
    ) as client:
        client.ping()


def check_broker() -> None:
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=TIMEOUT)
        connection.default_channel  # noqa: B018  opens it, which asks the server


CHECKS: dict[str, Callable[[], None]] = {
    "database": check_database,
    "migrations": check_migrations,
    "redis": check_redis,
    "broker": check_broker,
}


def readiness() -> dict[str, str]:
    """Each check's name with `ok` or `failed`."""
    results = {}
    for name, check in CHECKS.items():
        try:
            check()
        except Exception as error:  # any failure means not ready
            logger.warning("Not ready: %s: %s: %s", name, type(error).__name__, error)
            results[name] = "failed"
        else:
            results[name] = "ok"
    return results


class HealthMiddleware:
    """Answers before the host check, redirects and sessions, which a probe would trip over."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path == "/healthz":
            return JsonResponse({"status": "ok"})
        if request.path == "/readyz":
            checks = readiness()
            ready = set(checks.values()) == {"ok"}
            return JsonResponse(
                {"status": "ready" if ready else "unavailable", "checks": checks},
                status=200 if ready else 503,
            )
        return self.get_response(request)
