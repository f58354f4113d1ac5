"""What counts as wrong, at its bounds."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.ops.deployment import Service, State
from deploy.ops.observation import Observation, Space, disks, last_backup
from deploy.ops.problems import notes, problems

LONG_AGO = datetime.now(UTC) - timedelta(days=3)
#: Whenever the test is run, it is less than a minute since then.
SOON = datetime.now(UTC) + timedelta(days=1)
NODE = {"queues": ["default"], "active": 0, "concurrency": 2, "pid": 7, "last_seen_seconds": 0.1}
QUEUE = {"depth": 0, "oldest_seconds": 0.0, "limit": 100, "workers": ["worker@here"]}
WORKER = Service(
    "worker", "worker", State.RUNNING, started_at=LONG_AGO, memory=10, host="here", pid=7
)
SOUND = Observation(
    deployment="the embedded way",
    way="embedded",
    is_production=False,
    services=[WORKER],
    services_error="",
    state={
        "errors": {},
        "queues": {"default": QUEUE},
        "workers": {"worker@here": NODE},
        "periodic": {"a": {"overdue": False}, "b": {"overdue": False}},
        "promised_tasks": {"unfinished": 0, "waiting": 0, "oldest_seconds": 0.0},
        "tracking": {"lag_seconds": 0.0},
        "dead_letters_waiting": 0,
        "pending_migrations": [],
    },
    disks=[Space("/data", 100, 10)],
    memory=Space("memory", 100, 5),
    backup_at=LONG_AGO,
)
WEB = Service("web", "web", State.RUNNING, started_at=LONG_AGO)
PRODUCTION = replace(SOUND, is_production=True, services=[WEB, WORKER])


def whats(seen: Observation) -> list[str]:
    return [problem.what for problem in problems(seen)]


def with_state(**changes: Any) -> Observation:
    return replace(SOUND, state=SOUND.state | changes)


def with_worker(**changes: Any) -> Observation:
    return replace(SOUND, services=[replace(WORKER, **changes)])


def with_queue(**changes: Any) -> Observation:
    return with_state(queues={"default": QUEUE | changes})


def test_a_sound_system_has_none() -> None:
    assert problems(SOUND) == []
    assert notes(SOUND) == []


@pytest.mark.parametrize(
    ("seen", "what"),
    [
        (with_worker(state=State.STOPPED), "worker is stopped"),
        (with_worker(state=State.FAILED), "worker has failed"),
        (with_worker(state=State.UNHEALTHY), "worker runs and is unhealthy"),
        (with_worker(pid=8), "worker runs and does not answer"),
        (with_worker(memory=96, memory_limit=100), "worker uses 96 B of its 100 B"),
        (replace(SOUND, services=[], services_error="no Docker"), "cannot be seen: no Docker"),
        (with_queue(depth=81), "the queue default holds 81 of at most 100 messages"),
        (with_queue(oldest_seconds=301.0), "a message waits in the queue default for 5 min"),
        (with_queue(workers=[]), "no worker takes from the queue default"),
        (with_state(periodic={"a": {"overdue": True}, "b": {"overdue": False}}), "overdue is a"),
        (with_state(periodic={"a": {"overdue": True}}), "overdue is every periodic task"),
        (with_state(dead_letters_waiting=2), "2 dead letters wait to be requeued or discarded"),
        (with_state(pending_migrations=["shop.0002_x"]), "not applied: shop.0002_x"),
        (with_state(tracking={"lag_seconds": 301.0}), "the task history is 5 min behind"),
        (
            with_state(promised_tasks={"waiting": 3, "oldest_seconds": 301.0}),
            "3 promised tasks are not in the broker, one for 5 min",
        ),
        (replace(SOUND, disks=[Space("/data", 100, 9)]), "the disk of /data is nearly full"),
        (replace(SOUND, memory=Space("memory", 100, 4)), "the host has 4 B of memory left"),
        (replace(PRODUCTION, backup_at=LONG_AGO), "the last backup is 3 d 0 h old"),
        (replace(PRODUCTION, backup_at=None), "there is no backup"),
    ],
)
def test_what_is_wrong_is_named_with_what_helps(seen: Observation, what: str) -> None:
    (problem,) = problems(seen)
    assert what in problem.what
    assert problem.help


@pytest.mark.parametrize(
    "seen",
    [
        with_worker(started_at=SOON, pid=8),
        with_worker(memory=95, memory_limit=100),
        with_queue(depth=80, oldest_seconds=300.0),
        with_queue(depth=1000, limit=None),
        with_worker(state=State.STARTING),
        replace(SOUND, backup_at=None),
        replace(PRODUCTION, backup_at=LONG_AGO, services=[WORKER]),
    ],
)
def test_what_is_not_wrong_yet(seen: Observation) -> None:
    assert problems(seen) == []


def test_what_is_away_is_said_once_and_nothing_is_made_up_for_it() -> None:
    away = "ConnectionError: refused"
    seen = replace(SOUND, state={"errors": {"broker": away, "redis": away}})
    assert whats(seen) == [f"Redis does not answer: {away}"]


def test_what_starts_and_a_missing_backup_are_noted() -> None:
    seen = replace(with_worker(state=State.STARTING), backup_at=None)
    assert notes(seen) == [
        "worker is starting",
        "there is no backup: scripts/backup makes one",
    ]


def test_folders_that_are_not_there_have_no_disk_and_no_backup(tmp_path) -> None:
    assert disks([tmp_path / "missing"]) == []
    assert last_backup(tmp_path / "missing") is None
    (shown,) = disks([tmp_path, tmp_path])
    assert 0 < shown.free < shown.total
