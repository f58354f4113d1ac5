"""A worker that is told to stop while it holds much more than it works on."""

import time

import pytest
import redis
from celery import current_app

from task_manager.models import TaskExecution
from tests.processes import wait_until
from tests.test_worker_cancel import running, traces
from tests.test_worker_leases import LATE, SHORT
from tests.test_worker_tracking import row, send

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

AHEAD = {**LATE, **SHORT, "CELERY_WORKER_PREFETCH_MULTIPLIER": "10"}
DELAY = 20


@pytest.fixture(autouse=True)
def empty(broker: redis.Redis) -> None:
    """An empty broker."""


def test_a_stopped_worker_hands_back_all_that_it_has_not_begun(broker, tmp_path):
    with running(tmp_path, "one", **AHEAD) as one:
        published = time.time()
        later = [
            current_app.send_task("probe.trace", [f"later-{number}"], countdown=DELAY).id
            for number in range(20)
        ]
        wait_until(lambda: broker.hlen("unacked") == 20, what="it holds those of later")
        begun = [send("probe.sleep", 4) for _ in range(2)]
        for task_id in begun:
            row(task_id, "STARTED")
        for number in range(300):
            send("probe.trace", str(number))
        # Two at work and eighteen ahead.
        wait_until(lambda: broker.hlen("unacked") == 40, what="it holds as many as it may")
        one.terminate()
        assert one.wait(60) == 0
    assert traces(broker) == {"slept": 2}
    assert broker.hlen("unacked") == 0
    assert broker.llen("default") == 320
    with running(tmp_path, "two", **AHEAD):
        wait_until(lambda: len(traces(broker)) == 321, seconds=90, what="all have run")
        wait_until(lambda: broker.hlen("unacked") == 0, what="nothing is held")
        for task_id in later:
            started_at = row(task_id, "SUCCESS").started_at
            assert started_at
            assert started_at.timestamp() >= published + DELAY
    assert {name: count for name, count in traces(broker).items() if count != 1} == {"slept": 2}
    statuses = set(TaskExecution.objects.values_list("status", flat=True))
    assert statuses == {"SUCCESS"}
