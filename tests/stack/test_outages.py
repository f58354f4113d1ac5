"""Redis and PostgreSQL go away and come back, in every order: all the rest comes back by itself."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.stack.stack import Stack, production, run, wait_until

OURS = ("proxy", "web", "worker", "beat", "flower")
#: As many seconds as one task takes at least.
TASK = 5
#: Seconds for which one of the two is back without the other.
APART = 5
PUBLISH = """
from promotions import tasks

quick, slow = tasks.release_expired_reservations, tasks.process_notification_queue
print(*({task}.apply_async(countdown={countdown}).id for _ in range({count})))
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("outages")
    with production(folder, failed, f"SQS_WAIT_SECONDS={TASK}\n") as stack:
        yield stack


def starts(stack: Stack) -> dict[str, tuple[int, str]]:
    """How often Docker has restarted each of our containers, and when it last started."""
    found = stack.containers()
    return {
        service: (found[service]["RestartCount"], found[service]["State"]["StartedAt"])
        for service in OURS
    }


def publish(stack: Stack, task: str, count: int, countdown: int = 0) -> list[str]:
    return stack.shell_code(PUBLISH.format(task=task, count=count, countdown=countdown)).split()


def assert_all_is_well(stack: Stack) -> None:
    """Each is healthy, beat publishes, a worker works, the history knows, Flower sees."""
    wait_until(
        lambda: set(stack.states().values()) == {"healthy", "exit 0"},
        seconds=240,
        what="all are healthy",
    )
    stack.wait_for_ends(publish(stack, "quick", 3), seconds=60)
    came_back = time.time()
    wait_until(lambda: last_check(stack) > came_back, seconds=60, what="a task that beat sent")
    wait_until(lambda: "true" in flower(stack), seconds=90, what="the worker in Flower")


def last_check(stack: Stack) -> float:
    """When a task of the schedule last began."""
    return float(
        stack.shell_code("""
from django.db.models import Max
from task_manager.models import TaskExecution

rows = TaskExecution.objects.filter(task_name="promotions.tasks.check_active_promos")
last = rows.aggregate(last=Max("started_at"))["last"]
print(last.timestamp() if last else 0)
""")
    )


def flower(stack: Stack) -> str:
    """Which workers Flower knows, and whether they are alive."""
    return stack.execute(
        "flower",
        "python",
        "-c",
        "import base64, os, urllib.request as r\n"
        "request = r.Request('http://127.0.0.1:5555/api/workers?status=1')\n"
        "login = base64.b64encode(os.environ['FLOWER_BASIC_AUTH'].encode()).decode()\n"
        "request.add_header('Authorization', 'Basic ' + login)\n"
        "print(r.urlopen(request, timeout=30).read().decode())",
    )


@pytest.mark.parametrize(
    ("go", "come", "services", "seconds"),
    [
        ("stop", "start", ["redis"], 20),
        ("kill", "start", ["postgres"], 20),
        ("kill", "start", ["redis", "postgres"], 20),
        ("stop", "start", ["postgres", "redis"], 20),
        # Longer than any socket waits for an answer.
        ("pause", "unpause", ["redis", "postgres"], 45),
    ],
)
def test_all_come_back_without_a_restart(
    stack: Stack, go: str, come: str, services: list[str], seconds: int
) -> None:
    """The services come back in this order, some seconds after one another."""
    before = starts(stack)
    found = stack.containers()
    for service in services:
        assert run("docker", go, found[service]["Id"]).returncode == 0
    time.sleep(seconds)
    for service in services:
        assert run("docker", come, found[service]["Id"]).returncode == 0
        time.sleep(APART)
    assert_all_is_well(stack)
    assert starts(stack) == before


@pytest.mark.parametrize("first", ["redis", "postgres"])
def test_all_start_before_redis_and_postgresql_do(stack: Stack, first: str) -> None:
    found = {service: item["Id"] for service, item in stack.containers().items()}
    last = "postgres" if first == "redis" else "redis"
    stack.compose("stop", "--timeout", "10")
    for service in (*reversed(OURS), None, first, None, last):
        if service is None:
            time.sleep(20)
        else:
            assert run("docker", "start", found[service]).returncode == 0
    assert_all_is_well(stack)
    assert {count for count, _ in starts(stack).values()} == {0}


def test_a_worker_stopped_before_its_tasks_end_loses_none(stack: Stack) -> None:
    """They come back once its lease is over, and run on the other worker."""

    def workers() -> list[Any]:
        return stack.compose("ps", "--quiet", "worker").split()

    (old,) = workers()
    later = publish(stack, "quick", 20, countdown=60)
    slow = publish(stack, "slow", 24)
    wait_until(lambda: count(stack, slow, "STARTED") >= 4, seconds=60, what="four of them run")
    stack.compose("up", "--detach", "--no-recreate", "--scale", "worker=2", "worker")
    assert run("docker", "stop", "--time", "1", old).returncode == 0
    inspected = run("docker", "inspect", "--format", "{{.State.ExitCode}}", old).stdout
    assert inspected.strip() == "137", "it was killed at its tasks"
    stack.wait_for_ends(slow + later, seconds=240)
    assert count(stack, slow + later, "SUCCESS") == 44
    run("docker", "rm", old)
    stack.compose("up", "--detach", "--wait")


def count(stack: Stack, task_ids: list[str], status: str) -> int:
    return int(
        stack.shell_code(f"""
from task_manager.models import TaskExecution

print(TaskExecution.objects.filter(task_id__in={task_ids!r}, status={status!r}).count())
""")
    )
