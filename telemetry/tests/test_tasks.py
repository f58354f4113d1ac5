"""The tasks: one chain at a time, three retries a minute apart, and the chain let go at the end."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.exceptions import Retry
from django.utils import timezone

from task_manager.clients.broker import broker as open_broker
from telemetry.clients.panaccess import PanAccess, PanAccessAway
from telemetry.exceptions import NotConfigured, NotHeld
from telemetry.models import MergedTelemetricOTT, SyncState, TelemetryRecordEntry
from telemetry.services.holding import chain_hold
from telemetry.tasks import merge_ott_task, sync_and_merge_telemetry_chain, sync_telemetry_task
from telemetry.tests.telling import HOLDER, name_told, stored, told

pytestmark = pytest.mark.django_db

TASKS = [sync_and_merge_telemetry_chain, sync_telemetry_task, merge_ott_task]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Whatever is asked of PanAccess or PostgreSQL first fails."""
    settings.PANACCESS_URL = "http://panaccess.example/"

    def refuse(*_: Any, **__: Any) -> None:
        raise PanAccessAway("down")

    monkeypatch.setattr(PanAccess, "telemetry_records", refuse)
    monkeypatch.setattr("telemetry.services.merge.batch_merge", refuse)
    monkeypatch.setattr("telemetry.tasks.chain", refuse)


def holder() -> str:
    return SyncState.objects.get().holder


def try_it(task: Any, retries: int = 0, *args: Any) -> Any:
    """One try of a task; its chain is the test's."""
    request = {"id": "a", "root_id": HOLDER, "retries": retries, "called_directly": False}
    task.push_request(**request, is_eager=False, args=[])
    try:
        return task.run(*args)
    finally:
        task.pop_request()


@pytest.mark.parametrize("retries", range(3))
@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_failed_is_tried_again_in_a_minute(broker, away, task, retries):
    with pytest.raises(Retry) as retry:
        try_it(task, retries)
    with open_broker() as queues:
        (message,) = queues.waiting("low_priority")
    wait = datetime.fromisoformat(message.headers["eta"]) - datetime.now(UTC)
    when: Any = retry.value.when
    assert (when, message.headers["retries"]) == (60, retries + 1)
    assert timedelta(seconds=50) < wait <= timedelta(seconds=60)
    assert holder() == HOLDER


@pytest.mark.django_db(transaction=True)  # Celery closes the connection
@pytest.mark.parametrize("task", TASKS)
def test_a_task_that_failed_four_times_lets_the_chain_go(away, monkeypatch, task):
    tries, retry = Counter[str](), task.retry

    def count(**options: Any) -> Any:
        tries["failed"] += 1
        return retry(**options)

    monkeypatch.setattr(task, "retry", count)
    result = task.apply()
    assert (result.status, str(result.result), tries["failed"]) == ("FAILURE", "down", 4)
    assert holder() == ""


@pytest.mark.parametrize("task", TASKS)
def test_while_another_chain_is_at_work_it_is_skipped(settings, task):
    settings.PANACCESS_URL = "http://panaccess.example/"
    chain_hold("another")
    assert try_it(task) == {"skipped": str(NotHeld())}
    assert holder() == "another"


def test_the_end_of_one_chain_is_not_that_of_another(away):
    chain_hold("another")
    merge_ott_task.on_failure(PanAccessAway(), "a", (), {}, None)
    assert holder() == "another"


@pytest.mark.parametrize("task", TASKS[:2])
def test_without_an_address_it_is_skipped(settings, task):
    settings.PANACCESS_URL = ""
    assert try_it(task) == {"skipped": str(NotConfigured())}
    assert not SyncState.objects.exists()


def test_a_dead_chain_s_hold_frees_itself():
    chain_hold("dead")
    SyncState.objects.update(held_until=timezone.now() - timedelta(seconds=1))
    assert try_it(merge_ott_task)["is_complete"]
    assert holder() == ""


def test_a_chain_that_is_at_work_may_go_on():
    chain_hold(HOLDER)
    until = SyncState.objects.get().held_until
    chain_hold(HOLDER)
    later = SyncState.objects.get().held_until
    assert until
    assert later
    assert later >= until > timezone.now()


def test_the_chain_publishes_sync_and_what_comes_after_it(broker, settings):
    settings.PANACCESS_URL = "http://panaccess.example/"
    result = try_it(sync_and_merge_telemetry_chain)
    with open_broker() as queues:
        (message,) = queues.waiting("low_priority")
    assert message.headers["task"] == sync_telemetry_task.name
    assert [*result] == ["started"]
    assert holder() == HOLDER


def test_a_sync_alone_lets_the_chain_go(sandbox):
    result = try_it(sync_telemetry_task)
    assert (result["inserted"], holder()) == (100, "")
    assert TelemetryRecordEntry.objects.count() == 100


def test_the_merge_tells_how_far_the_sync_came():
    stored(name_told(1, "2026-11-20 10:00:00", "Uno"), told(2))
    SyncState.objects.update(holder="")
    result = try_it(merge_ott_task, 0, {"highest_id_after": 2})
    assert result == {"merged": 1, "is_complete": True, "highest_id_after": 2}
    assert MergedTelemetricOTT.objects.get().data_name == "Uno"
    assert try_it(merge_ott_task)["highest_id_after"] is None
