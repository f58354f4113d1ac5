"""The runbook's first commands on Compose."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.stack.stack import Stack, copy_project, run, wait_until

SERVICES = {"web", "worker", "beat", "flower", "postgres", "redis", "localstack"}
#: For Django's shell: a task that failed for good.
DEAD_LETTER = """
from django.utils import timezone
from task_manager.models import DeadLetter

name = "task_manager.tasks.check_queues"
DeadLetter.objects.create(
    task_id="dead", task_name=name, celery_name=name, created_at=timezone.now()
)
print("made")
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    stack = Stack(copy_project(tmp_path_factory.mktemp("runbook")))
    (stack.folder / ".env").write_text("CHECK_ACTIVE_PROMOS_SECONDS=10\n")
    with stack.running(failed):
        stack.compose("up", "--detach", "--build", "--wait")
        yield stack


def ops(stack: Stack, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return stack.try_run(f"scripts/{command}", *arguments)


def status(stack: Stack) -> dict[str, Any]:
    told = ops(stack, "status", "--json")
    assert told.returncode in (0, 1), told.stderr
    read: dict[str, Any] = json.loads(told.stdout)
    return read


def healthy(stack: Stack) -> dict[str, Any]:
    """The first status in which all is well."""
    seen: list[dict[str, Any]] = []

    def well() -> bool:
        seen[:] = [status(stack)]
        return bool(seen[0]["healthy"])

    wait_until(well, seconds=90, what=f"all is well, not {seen}")
    return seen[0]


def workers(stack: Stack) -> list[str]:
    return stack.compose("ps", "--quiet", "worker").split()


def test_status_shows_each_container_and_what_waits(stack: Stack) -> None:
    told = healthy(stack)
    assert {service["name"] for service in told["services"]} == SERVICES
    assert all(service["version"] for service in told["services"])
    # An engine that cannot read its cgroups tells 0, which is not shown.
    unknown = run("docker", "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}").stdout
    for service in told["services"]:
        assert bool(service["memory"]) == (f"{service['instance']} 0B" not in unknown), service
    (node,) = told["state"]["workers"]
    assert all(queue["workers"] == [node] for queue in told["state"]["queues"].values())
    shown = ops(stack, "status")
    assert shown.returncode == 0, shown.stdout
    assert re.search(rf"^worker +{stack.name}-worker-1 +running", shown.stdout, re.MULTILINE)


def test_logs_of_a_task_are_found_in_every_container(stack: Stack) -> None:
    task = stack.execute(
        "web", "python", "manage.py", "run_task", "task_manager.tasks.check_queues"
    )
    task_id = task.strip()
    wait_until(
        lambda: "succeeded" in ops(stack, "logs", "--task", task_id).stdout,
        seconds=60,
        what="the task's lines",
    )
    shown = ops(stack, "logs", "--lines", "5").stdout
    named = {line.partition("|")[0].strip() for line in shown.splitlines()}
    assert {f"{stack.name}-{name}-1" for name in ("web", "worker", "beat", "postgres")} <= named


def test_a_task_and_a_dead_letter_by_hand(stack: Stack) -> None:
    ran = ops(stack, "run-task", "task_manager.tasks.check_queues", "--wait", "60")
    assert ran.returncode == 0, ran.stderr
    made = ops(stack, "app", "python", "manage.py", "shell", "-v", "0", "-c", DEAD_LETTER)
    assert (made.returncode, made.stdout) == (0, "made\n"), made.stderr
    (letter,) = json.loads(ops(stack, "dead-letters", "list", "--json").stdout)
    assert letter["task_id"] == "dead"
    again = ops(stack, "dead-letters", "requeue", "dead")
    assert again.stdout.startswith("dead requeued as "), again.stderr
    assert ops(stack, "dead-letters", "list").stdout == ""


def test_scaled_workers_stay_after_the_next_up(stack: Stack) -> None:
    scaled = ops(stack, "scale", "worker", "2")
    assert scaled.returncode == 0, scaled.stderr
    assert "after:  2 " in scaled.stdout
    assert "WORKER_REPLICAS=2\n" in (stack.folder / ".env").read_text()
    before = set(stack.compose("ps", "--quiet").split())
    stack.compose("up", "--detach", "--wait")
    assert set(stack.compose("ps", "--quiet").split()) == before
    assert len(workers(stack)) == 2


def test_a_drained_worker_stops_and_comes_back_by_scale(stack: Stack) -> None:
    name = f"{stack.name}-worker-2"
    drained = ops(stack, "drain", name)
    assert drained.returncode == 0, drained.stderr
    assert len(workers(stack)) == 1
    told = status(stack)
    assert f"{name} is stopped" in [problem["what"] for problem in told["problems"]]
    assert ops(stack, "scale", "worker", "2").returncode == 0
    healthy(stack)
    assert ops(stack, "scale", "worker", "1").returncode == 0
    assert len(workers(stack)) == 1


def test_without_redis_status_tells_the_rest(stack: Stack) -> None:
    stack.compose("stop", "redis")
    shown = ops(stack, "status")
    assert shown.returncode == 1
    for text in (
        "-redis-1 is stopped",
        "Redis does not answer",
        "docker compose up",
        "Dead letters",
    ):
        assert text in shown.stdout
