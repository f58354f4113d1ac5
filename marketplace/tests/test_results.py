"""The result backend without Redis; tests/test_worker_outages.py has real workers."""

import logging

import pytest

from marketplace.celery import app
from marketplace.results import Backend
from marketplace.tests.test_health import closed_redis_url


@pytest.fixture
def backend() -> Backend:
    return Backend(app=app, url=closed_redis_url())


def test_celery_uses_it():
    assert type(app.backend) is Backend


@pytest.mark.parametrize("state", ["STARTED", "RETRY", "SUCCESS", "FAILURE"])
def test_outside_a_task_nobody_waits(backend, caplog, monkeypatch, state):
    monkeypatch.setattr("marketplace.results.PATIENCE", 1e9)
    value = ValueError("no boxes") if state == "FAILURE" else {"boxes": 1}
    with caplog.at_level(logging.ERROR, "marketplace.results"):
        stored = backend.store_result("a-task", value, state)
    assert stored == backend.encode_result(value, state)
    assert f"{state} of a-task was not stored" in caplog.text
