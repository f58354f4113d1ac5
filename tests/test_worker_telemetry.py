"""Real workers sync from the simulator of PanAccess and merge, whatever dies or is down."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from task_manager.models import DeadLetter, TaskExecution
from telemetry.models import MergedTelemetricOTT, SyncState, TelemetryRecordEntry
from tests.processes import celery, wait_until
from tests.sandbox import Sandbox
from tests.servers import operator
from tests.test_worker_tracking import ended, row, send

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

CHAIN, SYNC, MERGE = (
    f"telemetry.tasks.{name}"
    for name in ("sync_and_merge_telemetry_chain", "sync_telemetry_task", "merge_ott_task")
)


@pytest.fixture
def sandbox(simulator: Sandbox) -> Sandbox:
    simulator.clear()
    simulator.freeze(0, 2500)
    return simulator


@contextmanager
def worker(log: Path, sandbox: Sandbox, **environ: str) -> Iterator[Any]:
    variables = {
        "PANACCESS_URL": sandbox.url,
        "PANACCESS_USERNAME": sandbox.username,
        "PANACCESS_PASSWORD": sandbox.password,
        "PANACCESS_API_TOKEN": sandbox.token,
        # By its name: imported here, it would hurry the tests, too.
        "CELERY_IMPORTS": "tests.impatient_telemetry",
        **environ,
    }
    with celery("worker", "--concurrency=2", "--loglevel=info", log=log, **variables) as process:
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield process


@pytest.fixture(scope="module")
def folder(worker_database, simulator, tmp_path_factory) -> Iterator[Path]:
    """A worker's; its logs are in it."""
    folder = tmp_path_factory.mktemp("logs")
    with worker(folder / "console.log", simulator, LOG_DIR=str(folder)):
        yield folder


def stored() -> list[int]:
    return [*TelemetryRecordEntry.objects.order_by("pk").values_list("pk", flat=True)]


def listed(sandbox: Sandbox) -> list[int]:
    return [record["recordId"] for record in sandbox.listing()]


def result_of(execution: TaskExecution) -> Any:
    return execution.result


def chain_run() -> tuple[Any, Any]:
    """What sync and merge of a chain return."""
    begun = TaskExecution.objects.values_list("pk", flat=True)
    known = {*begun}
    started = result_of(ended(CHAIN))["started"]
    merge = result_of(row(started, "SUCCESS"))
    sync = TaskExecution.objects.exclude(pk__in=known).get(celery_name=SYNC)
    return result_of(row(sync.pk, "SUCCESS")), merge


def name_for(view: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Of its channel: the last that was told until then, else the first after it."""
    channel = str(view["dataId"])
    tellers = [r for r in records if r["actionId"] == 7 and str(r["dataId"]) == channel]
    before = [r["dataName"] for r in tellers if r["timestamp"] <= view["timestamp"]]
    return str([*before[-1:], *(r["dataName"] for r in tellers), ""][0])


def is_free() -> bool:
    return SyncState.objects.get().holder == ""


def test_a_chain_stores_what_is_new_and_names_the_views(folder, sandbox):
    sync, merge = chain_run()
    records = sandbox.listing()
    views = [record for record in records if record["actionId"] == 8]
    highest = records[-1]["recordId"]
    assert stored() == [record["recordId"] for record in records]
    assert (sync["inserted"], sync["is_complete"]) == (2500, True)
    assert sync["highest_id_after"] == highest
    assert merge == {"merged": len(views), "is_complete": True, "highest_id_after": highest}
    names = dict(MergedTelemetricOTT.objects.values_list("record_id", "data_name"))
    assert names == {view["recordId"]: name_for(view, records) for view in views}
    wait_until(is_free, what="the chain is let go")
    sandbox.freeze(0, 2510)
    sync, _ = chain_run()
    assert (sync["highest_id_before"], sync["inserted"], sync["pages"]) == (highest, 10, 1)


def test_a_chain_that_is_due_while_one_runs_is_skipped(folder, sandbox):
    sandbox.fault("slow", calls=0, seconds=4)
    first = send(CHAIN)
    started = result_of(row(first, "SUCCESS"))["started"]
    assert [*result_of(ended(CHAIN))] == ["skipped"]
    assert [*result_of(ended(SYNC))] == ["skipped"]
    assert [*result_of(ended(MERGE))] == ["skipped"]
    sandbox.clear()
    row(started, "SUCCESS")
    assert stored() == listed(sandbox)


def test_while_panaccess_is_down_a_sync_is_tried_four_times_and_the_next_goes_on(folder, sandbox):
    sandbox.fault("error_500", calls=0)
    merge = result_of(row(send(CHAIN), "SUCCESS"))["started"]
    failed = TaskExecution.objects.filter(celery_name=SYNC, status="FAILURE")
    wait_until(failed.exists, seconds=60, what="the sync has failed")
    sync = failed.get()
    assert (sync.retries, stored()) == (3, [])
    assert "PanAccessAway" in sync.error
    wait_until(is_free, what="the chain is let go")
    assert "PanAccessAway: login: " in SyncState.objects.get().error
    errors = (folder / "errors.log").read_text()
    assert errors.count(": ERROR/") == 1
    assert sync.pk in errors
    assert not DeadLetter.objects.exists()
    assert not TaskExecution.objects.filter(pk=merge, status="SUCCESS").exists()
    sandbox.clear()
    close_circuit()
    chain_run()
    assert stored() == listed(sandbox)
    assert SyncState.objects.get().error == ""


def close_circuit() -> None:
    with operator(settings.REDIS_URL) as client:
        client.delete("panaccess:pybreaker:state", "panaccess:pybreaker:fail_counter")
