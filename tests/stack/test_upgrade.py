"""scripts/upgrade and scripts/rollback on the production stack, under load all the while."""

import json
import subprocess

import pytest

from tests.stack.stack import Edits, Stack, assert_ran_once, run
from tests.visitors import Visitors

PROGRAMS = ("web", "worker", "beat", "flower")
NEW: Edits = {"marketplace/health.py": ('{"status": "ok"}', '{"status": "new"}')}
#: Its Flower, which is the last to be restarted, ends some seconds after it became healthy.
CRASHES: Edits = {
    "flowerconfig.py": (
        "import sys\n",
        """
import os, socket, sys, threading, time

def crash():
    while socket.socket().connect_ex(("127.0.0.1", 5555)):
        time.sleep(0.5)
    time.sleep(12)
    os._exit(1)

threading.Thread(target=crash, daemon=True).start()
""",
    )
}
RENAMED: Edits = {"promotions/tasks.py": ("def cleanup_expired_promos", "def renamed")}


def upgrade(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return stack.ops("upgrade", "--yes", *arguments)


def images(stack: Stack) -> set[str]:
    """That our programs run."""
    containers = stack.containers()
    return {containers[name]["Config"]["Image"] for name in PROGRAMS}


def test_releases_come_and_go_under_load(stack: Stack, visitors: Visitors, template: str) -> None:
    with stack.followed("worker") as log:
        with visitors:
            visitors.wait_for_more()
            releases_come_and_go(stack)
            visitors.wait_for_tasks()
        assert visitors.failures == []
        assert stack.templates() == sorted([template, *visitors.made])
        stack.wait_for_ends(visitors.tasks, seconds=120)
        assert_ran_once(visitors.tasks, log)


def releases_come_and_go(stack: Stack) -> None:
    with stack.edited(NEW):
        done = upgrade(stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack.http("/healthz") == (200, '{"status": "new"}')
    (new,) = images(stack)
    assert new == stack.variables["APP_IMAGE"]
    backups = stack.ops("backup", "list", "--json")
    assert len(json.loads(backups.stdout)) == 1
    labels = json.loads(run("docker", "image", "inspect", new).stdout)[0]["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == new.partition(":")[2]
    stack.assert_settled()

    stack.build("broken", {**NEW, **CRASHES})
    broken = upgrade(stack, "broken", "--no-backup", "--watch", "30")
    assert broken.returncode == 1, broken.stdout
    assert f"did not take over, going back to {new}" in broken.stderr
    assert f"error: {new} runs again: it did not stay" in broken.stderr
    assert (images(stack), stack.variables["APP_IMAGE"]) == ({new}, new)

    listed = stack.ops("rollback", "--list").stdout.split()
    assert listed[1:] == [new, "runs"]
    back = stack.ops("rollback", "--yes")
    assert back.returncode == 0, back.stdout + back.stderr
    assert stack.http("/healthz") == (200, '{"status": "ok"}')
    assert images(stack) == {listed[0]} == {stack.variables["APP_IMAGE"]}


@pytest.mark.parametrize(
    ("edits", "arguments", "code", "error"),
    [
        (RENAMED, (), 1, "promotions.tasks.cleanup_expired_promos is gone"),
        ({}, ("no-such-release",), 1, "no-such-release here, and none could be fetched"),
        ({}, ("--on", "systemd"), 3, "error: --on systemd: this host was not set up"),
    ],
)
def test_what_may_not_be_is_refused_before_anything_changes(
    stack: Stack, edits: Edits, arguments: tuple[str, ...], code: int, error: str
) -> None:
    before = stack.ids()
    with stack.edited(edits):
        done = upgrade(stack, *arguments)
    assert (done.returncode, error in done.stderr) == (code, True), done.stderr
    assert stack.ids() == before
