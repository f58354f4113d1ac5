"""`scripts/queues`, `dead-letters` and `run-task` on a real deployment of the embedded way."""

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from deploy.embedded.supervisor import call
from tests.embedded import ROOT, Done, Quickstart, running_embedded
from tests.processes import wait_until

pytestmark = pytest.mark.worker

RELEASE = "promotions.tasks.release_expired_reservations"
CLEANUP = "promotions.tasks.cleanup_expired_promos"

#: Publishes arguments: how many, task, queue; prints the ids.
FILL = """
import sys
import django
django.setup()
from marketplace.celery import app
count, task, queue = int(sys.argv[1]), *sys.argv[2:4]
with app.producer_pool.acquire() as producer:
    for _ in range(count):
        print(app.send_task(task, queue=queue, producer=producer).id)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    """Without a worker and beat, so that what waits stays."""
    with running_embedded(tmp_path_factory.mktemp("queues") / "embedded") as quickstart:
        for program in ("beat", "worker"):
            control(quickstart, "stopProcess", program)
        yield quickstart


@pytest.fixture
def _empty(running: Quickstart) -> None:
    with broker(running) as client:
        client.delete("default", "high_priority", "low_priority")


def broker(running: Quickstart) -> redis.Redis:
    return redis.Redis(
        port=running.ports["EMBEDDED_REDIS_PORT"],
        username="operator",
        password=running.values["OPERATOR_PASSWORD"],
    )


def control(running: Quickstart, method: str, program: str) -> Any:
    return call(Path(os.path.realpath(running.folder / "run")) / "supervisor.sock", method, program)


def queues(running: Quickstart, *arguments: str, text: str = "") -> str:
    done = running.ops("queues", *arguments, text=text)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fill(running: Quickstart, count: int, *, task: str = RELEASE, queue: str = "default") -> Any:
    done = running.run("run", sys.executable, "-c", FILL, str(count), task, queue)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def waiting(running: Quickstart, queue: str = "default") -> list[str]:
    """The ids, the first in turn first."""
    with broker(running) as client:
        raws: Any = client.lrange(queue, 0, -1)
    return [json.loads(raw)["headers"]["id"] for raw in reversed(raws)]


def copies(running: Quickstart) -> list[Path]:
    return sorted(
        (running.folder / "purged").glob("*.jsonl"), key=lambda path: path.stat().st_mtime
    )


def assert_refused(done: Done, code: int, message: str) -> None:
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("_empty")
def test_what_waits_is_listed_and_peeked_at(running: Quickstart):
    ids = fill(running, 3)
    lines = queues(running, "list").splitlines()
    assert lines[0].split() == ["QUEUE", "WAITING", "OLDEST", "LIMIT", "WORKERS"]
    assert lines[1].split()[:2] == ["default", "3"]
    assert lines[1].split()[-2:] == ["50000", "none"]
    facts = json.loads(queues(running, "list", "--json"))["default"]
    assert (facts["depth"], facts["workers"]) == (3, [])
    shown = queues(running, "peek", "default", "-n", "2").splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [[each, RELEASE] for each in ids[:2]]
    assert waiting(running) == ids


@pytest.mark.usefixtures("_empty")
def test_a_purge_asks_keeps_a_copy_and_is_put_back_once(running: Quickstart):
    others, ids = fill(running, 2, task=CLEANUP), fill(running, 3)
    before = copies(running)
    refused = running.ops("queues", "purge", "default", "--task", RELEASE, text="n\n")
    assert (refused.returncode, refused.stderr) == (1, "error: nothing was changed\n")
    assert f"Take 3 messages of {RELEASE} out of default? A copy goes to " in refused.stdout
    assert copies(running) == before
    said = queues(running, "purge", "default", "--task", RELEASE, text="y\n")
    (copy,) = set(copies(running)) - set(before)
    assert f"scripts/queues restore {copy.name} puts them back" in said
    assert waiting(running) == others
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [json.loads(line)["id"] for line in copy.read_text().splitlines()] == ids
    assert queues(running, "restore", copy.name) == "3 messages were put back.\n"
    assert waiting(running) == [*ids, *others]
    again = running.ops("queues", "restore", str(copy))
    assert_refused(again, 1, f"nothing of {copy.stem} is out of its queue")


@pytest.mark.usefixtures("_empty")
@pytest.mark.parametrize("is_restored", [False, True], ids=["purge", "restore"])
def test_killed_in_the_middle_nothing_is_lost_and_nothing_doubled(
    running: Quickstart, is_restored: bool
):
    ids = fill(running, 1500)
    before = set(copies(running))
    if is_restored:
        queues(running, "purge", "default", "--yes")
        (copy,) = set(copies(running)) - before
        kill(running, "restore", copy.name, when=lambda: waiting(running))
    else:
        kill(running, "purge", "default", "--yes", when=lambda: set(copies(running)) - before)
        (copy,) = set(copies(running)) - before
    done = running.ops("queues", "restore", copy.name)
    assert done.returncode == 0 or "nothing of " in done.stderr
    assert waiting(running) == ids


def kill(running: Quickstart, *arguments: str, when: Any) -> None:
    """scripts/queues and all that it started, by -9, once this holds."""
    process = subprocess.Popen(
        [ROOT / "scripts" / "queues", *arguments],
        env=running.shell(FLASH_PROMOS_ON="embedded"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: process.poll() is not None or when(), what="it is in the middle")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


@pytest.mark.usefixtures("_empty")
def test_messages_are_moved_and_run_by_workers_of_the_other_queue(running: Quickstart):
    ids = fill(running, 2, queue="low_priority")
    said = queues(running, "move", "low_priority", "high_priority")
    assert said == "2 messages were moved from low_priority to high_priority.\n"
    assert waiting(running, "high_priority") == ids
    control(running, "startProcess", "worker")
    try:
        wait_until(
            lambda: not waiting(running, "high_priority"), seconds=60, what="the worker takes them"
        )
        # Its result is the same whenever it runs; a reservation of the demo may end by then.
        done = running.ops("run-task", CLEANUP, "--wait", "60")
        assert (done.returncode, done.stdout.splitlines()[1:]) == (
            0,
            ['{"removed": 0, "archived": 0}'],
        )
    finally:
        control(running, "stopProcess", "worker")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["queues", "peek", "vip"], "no queue is called 'vip'; there are default, high_priority"),
        (["queues", "purge", "vip"], "no queue is called 'vip'"),
        (["queues", "restore", "nothing"], "there is no copy nothing; "),
    ],
)
def test_a_wrong_call_is_one_line(running: Quickstart, arguments: list[str], message: str):
    assert_refused(running.ops(arguments[0], *arguments[1:]), 2, message)


def test_other_commands_pass_on_what_manage_py_says(running: Quickstart):
    wrong = running.ops("run-task", "promotions.tasks.release", "--on", "embedded")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "no task is called 'promotions.tasks.release'" in wrong.stderr
    assert json.loads(running.ops("dead-letters", "--on=embedded", "list", "--json").stdout) == []
    missing = running.ops("dead-letters", "discard", "4711", "--yes")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "4711: there is no such dead letter" in missing.stderr


@pytest.mark.parametrize("command", ["queues", "dead-letters", "run-task", "doctor"])
def test_help_reads_without_a_deployment(tmp_path: Path, command: str):
    nowhere = Quickstart(tmp_path / "none")
    done = nowhere.script(command, "--help", FLASH_PROMOS_ON="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: scripts/{command} ")
    assert f"  scripts/{command}" in done.stdout[20:]


def test_a_broker_that_is_away_is_named(running: Quickstart):
    control(running, "stopProcess", "redis")
    try:
        for arguments in (["list"], ["purge", "default", "--yes"]):
            done = running.ops("queues", *arguments)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("error: the broker ")
    finally:
        control(running, "startProcess", "redis")
