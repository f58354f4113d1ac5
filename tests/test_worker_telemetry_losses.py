"""A worker that is killed in the middle of a sync loses nothing: another goes on where it was."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.utils import timezone

from task_manager.models import TaskExecution
from telemetry.models import SyncState, TelemetryRecordEntry
from tests.processes import wait_until
from tests.sandbox import Sandbox, running_sandbox
from tests.test_worker_cancel import children_of
from tests.test_worker_telemetry import (
    CHAIN,
    MERGE,
    SYNC,
    chain_run,
    listed,
    result_of,
    stored,
    worker,
)
from tests.test_worker_tracking import ended, send

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

#: So that a sync takes some seconds.
MANY = 8000


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


#: As production has it.
LATE = {"CELERY_TASK_ACKS_LATE": "1", "CELERY_TASK_REJECT_ON_WORKER_LOST": "1"}


def kill_at_work(sandbox: Sandbox, log: Path, **environ: str) -> list[int]:
    """Kill a worker in the middle of a chain's sync; what is stored by then."""
    sandbox.freeze(0, MANY)
    sandbox.fault("slow", calls=0, seconds=1)
    with worker(log, sandbox, **environ) as process:
        send(CHAIN)
        wait_until(TelemetryRecordEntry.objects.exists, what="it is at work")
        for pid in [process.pid, *map(int, children_of(process.pid))]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    sandbox.clear()
    known = stored()
    assert 0 < len(known) < MANY
    return known


def test_a_killed_worker_s_sync_is_gone_on_with_by_the_next_chain(
    broker: redis.Redis, sandbox, tmp_path
):
    known = kill_at_work(sandbox, tmp_path / "one.log")
    with worker(tmp_path / "two.log", sandbox):
        assert [*result_of(ended(CHAIN))] == ["skipped"]  # nobody knows yet that it is dead
        SyncState.objects.update(held_until=timezone.now())
        sync, merge = chain_run()
    assert sync["highest_id_before"] == known[-1]
    assert sync["inserted"] == MANY - len(known)
    assert merge["is_complete"]
    assert stored() == listed(sandbox)


def test_in_production_a_killed_worker_s_sync_is_gone_on_with_in_its_own_chain(
    broker: redis.Redis, sandbox, tmp_path
):
    known = kill_at_work(sandbox, tmp_path / "one.log", **LATE)
    merges = TaskExecution.objects.filter(celery_name=MERGE, status="SUCCESS")
    with worker(tmp_path / "two.log", sandbox, **LATE):
        wait_until(merges.exists, seconds=90, what="the chain has come to its end")
    assert TaskExecution.objects.filter(celery_name=CHAIN).count() == 1
    sync = result_of(TaskExecution.objects.get(celery_name=SYNC))
    assert (sync["highest_id_before"], sync["inserted"]) == (known[-1], MANY - len(known))
    assert result_of(merges.get())["is_complete"]
    assert stored() == listed(sandbox)
    assert SyncState.objects.get().holder == ""
