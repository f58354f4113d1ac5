"""The health endpoints against dependencies that really fail."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection, connections
from django.db.migrations.recorder import MigrationRecorder

from deploy.embedded.servers import free_port
from marketplace import health
from marketplace.celery import app

ALL_OK = {"database": "ok", "migrations": "ok", "redis": "ok", "broker": "ok"}


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch):
    """A process that has not yet seen the migrations applied."""
    monkeypatch.setattr(health, "_migrations_applied", False)


@contextmanager
def closed_database() -> Iterator[None]:
    """This thread's connection leads to a port where nothing listens."""
    real, closed = connections["default"], connection.copy()
    closed.settings_dict["PORT"] = free_port()
    connections["default"] = closed
    try:
        yield
    finally:
        connections["default"] = real


@contextmanager
def closed_broker() -> Iterator[None]:
    url = app.conf.broker_write_url
    app.conf.update(broker_write_url=closed_redis_url())
    try:
        yield
    finally:
        app.conf.update(broker_write_url=url)


def closed_redis_url() -> str:
    return f"redis://127.0.0.1:{free_port()}/0"


def checks(client) -> tuple[int, dict[str, str]]:
    response = client.get("/readyz")
    body = response.json()
    assert body["status"] == ("ready" if response.status_code == 200 else "unavailable")
    return response.status_code, body["checks"]


def test_healthz_asks_nothing_of_anybody(client):
    with closed_database():
        response = client.get("/healthz", headers={"host": "not-allowed.example"})
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.django_db
def test_readyz_is_ready_when_everything_answers(client):
    assert checks(client) == (200, ALL_OK)


@pytest.mark.django_db
def test_readyz_names_redis_when_it_is_away(client, settings):
    settings.REDIS_URL = closed_redis_url()
    assert checks(client) == (503, ALL_OK | {"redis": "failed"})


@pytest.mark.django_db
def test_readyz_names_the_broker_when_it_is_away(client):
    with closed_broker():
        assert checks(client) == (503, ALL_OK | {"broker": "failed"})


@pytest.mark.django_db
def test_readyz_names_migrations_when_one_is_not_applied(client):
    MigrationRecorder.Migration.objects.filter(app="promotions", name__startswith="0002").delete()
    assert checks(client) == (503, ALL_OK | {"migrations": "failed"})


@pytest.mark.django_db
def test_readyz_names_the_database_when_it_is_away(client):
    with closed_database():
        assert checks(client) == (503, ALL_OK | {"database": "failed", "migrations": "failed"})
    assert checks(client) == (200, ALL_OK)


@pytest.mark.django_db
def test_readyz_recovers_with_its_dependency(client):
    with closed_broker():
        assert checks(client)[0] == 503
    assert checks(client) == (200, ALL_OK)


@pytest.mark.django_db
def test_the_reason_goes_to_the_log_and_not_to_the_public(client, settings, caplog):
    settings.REDIS_URL = closed_redis_url()
    with caplog.at_level(logging.WARNING, "marketplace.health"):
        response = client.get("/readyz")
    assert "refused" not in response.text
    [record] = [record for record in caplog.records if record.name == "marketplace.health"]
    assert (record.levelname, "redis" in record.message, "refused" in record.message) == (
        "WARNING",
        True,
        True,
    )


@pytest.mark.django_db
def test_an_applied_migration_is_asked_for_once(client, django_assert_num_queries):
    assert checks(client)[0] == 200
    with django_assert_num_queries(1):
        assert checks(client)[0] == 200
