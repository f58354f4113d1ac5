"""A worker that is killed in the middle of a sync loses nothing: another goes on where it was."""

import os
import signal
from collections.abc import Iterator

import pytest
import redis
from django.utils import timezone

from telemetry.models import SyncState, TelemetryRecordEntry
from tests.processes import wait_until
from tests.sandbox import Sandbox, running_sandbox
from tests.test_worker_cancel import children_of
from tests.test_worker_telemetry import (
    CHAIN,
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


def test_a_killed_worker_s_sync_is_gone_on_with_by_another(broker: redis.Redis, sandbox, tmp_path):
    sandbox.freeze(0, MANY)
    sandbox.fault("slow", calls=0, seconds=1)
    with worker(tmp_path / "one.log", sandbox) as process:
        send(CHAIN)
        wait_until(TelemetryRecordEntry.objects.exists, what="it is at work")
        for pid in [process.pid, *map(int, children_of(process.pid))]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    sandbox.clear()
    known = stored()
    assert 0 < len(known) < MANY
    with worker(tmp_path / "two.log", sandbox):
        assert [*result_of(ended(CHAIN))] == ["skipped"]  # nobody knows yet that it is dead
        SyncState.objects.update(held_until=timezone.now())
        sync, merge = chain_run()
    assert sync["highest_id_before"] == known[-1]
    assert sync["inserted"] == MANY - len(known)
    assert merge["is_complete"]
    assert stored() == listed(sandbox)
