"""scripts/upgrade and scripts/rollback on the production stack, under load all the while."""

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from deploy.ops.settings_file import SettingsFile
from tests.stack.stack import Edits, Stack, production, run
from tests.visitors import Visitors

PROGRAMS = ("web", "worker", "beat", "flower")
#: As many seconds as one task takes.
TASK = 8

NEW: Edits = {"marketplace/health.py": ('{"status": "ok"}', '{"status": "new"}')}
#: Its workers end some seconds after they became healthy.
CRASHES: Edits = {
    "marketplace/celery.py": (
        "\napp = ",
        "\nimport os, threading\nfrom celery.signals import worker_ready\n"
        "worker_ready.connect(\n"
        "    lambda **_: threading.Timer(8, os._exit, (1,)).start(), weak=False\n"
        ")\napp = ",
    )
}
RENAMED: Edits = {"promotions/tasks.py": ("def cleanup_expired_promos", "def renamed")}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("upgrade")
    with production(folder, failed, f"SQS_WAIT_SECONDS={TASK}\n") as stack:
        stack.make_staff()
        yield stack


@pytest.fixture(scope="module")
def template(stack: Stack) -> str:
    """Of a task that takes TASK seconds."""
    return stack.make_template("promotions.tasks.process_notification_queue")


@pytest.fixture
def visitors(stack: Stack, template: str) -> Visitors:
    return stack.visitors(template)


def ops(stack: Stack, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As on a host whose .env names the image."""
    image = stack.variables.get("APP_IMAGE") or stack.name
    settings = SettingsFile(stack.folder / ".env")
    if "APP_IMAGE" not in settings.read():
        settings.write(APP_IMAGE=image)
    shell = stack.shell({})
    del shell["APP_IMAGE"]
    done = run(f"scripts/{command}", *arguments, cwd=stack.folder, env=shell)
    # For the fixture's own compose commands.
    stack.variables["APP_IMAGE"] = settings.read()["APP_IMAGE"]
    return done


def upgrade(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ops(stack, "upgrade", "--no-backup", "--yes", *arguments)


def images(stack: Stack) -> set[str]:
    """That our programs run."""
    containers = stack.containers()
    return {containers[name]["Config"]["Image"] for name in PROGRAMS}


def test_releases_come_and_go_under_load(stack: Stack, visitors: Visitors, template: str) -> None:
    with visitors:
        visitors.wait_for_more()
        with stack.edited(NEW):
            done = upgrade(stack)
        assert done.returncode == 0, done.stdout + done.stderr
        assert stack.http("/healthz") == (200, '{"status": "new"}')
        (new,) = images(stack)
        assert new == stack.variables["APP_IMAGE"]
        labels = json.loads(run("docker", "image", "inspect", new).stdout)[0]["Config"]["Labels"]
        assert labels["org.opencontainers.image.version"] == new.partition(":")[2]
        before = stack.containers()["web"]["Id"]
        stack.compose("up", "--detach", "--wait")
        assert stack.containers()["web"]["Id"] == before, "the next `up` does not agree"

        with stack.edited({**NEW, **CRASHES}):
            broken = upgrade(stack)
        assert broken.returncode == 1, broken.stdout
        assert f"did not take over, going back to {new}" in broken.stderr
        assert f"error: {new} runs again: it did not stay" in broken.stderr
        assert (images(stack), stack.variables["APP_IMAGE"]) == ({new}, new)

        listed = ops(stack, "rollback", "--list").stdout.split()
        assert listed[1:] == [new, "runs"]
        back = ops(stack, "rollback", "--yes")
        assert back.returncode == 0, back.stdout + back.stderr
        assert stack.http("/healthz") == (200, '{"status": "ok"}')
        assert images(stack) == {listed[0]} == {stack.variables["APP_IMAGE"]}
        visitors.wait_for_tasks()
    assert visitors.failures == []
    assert stack.templates() == sorted([template, *visitors.made])
    stack.wait_for_ends(visitors.tasks, seconds=120)


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
    before = stack.containers()
    with stack.edited(edits):
        done = upgrade(stack, *arguments)
    assert (done.returncode, error in done.stderr) == (code, True), done.stderr
    assert {name: item["Id"] for name, item in stack.containers().items()} == {
        name: item["Id"] for name, item in before.items()
    }
