"""`docker compose up` in a fresh clone, with no .env."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.stack.stack import Stack, copy_project, wait_until

#: Publishes ten tasks and prints their ids.
PUBLISH = """
import marketplace.celery, django
django.setup()
from promotions.tasks import release_expired_reservations as task
print(*(task.delay().id for _ in range(10)))
"""
SERVICES = {"web", "worker", "beat", "flower", "postgres", "redis", "localstack"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    stack = Stack(copy_project(tmp_path_factory.mktemp("development")))
    assert not (stack.folder / ".env").exists()
    # What only its owner may read, such as the caches that the embedded way leaves, stops nothing.
    (stack.folder / "deploy" / "private").mkdir(mode=0o700)
    with stack.running(failed):
        stack.compose("up", "--detach", "--build", "--wait")
        yield stack


@pytest.fixture(scope="module")
def opened_at(stack: Stack) -> float:
    """When a promo's window began; its delivery is awaited by a later test."""
    stack.open_promo("umbrella")
    return time.monotonic()


def test_every_service_is_healthy(stack: Stack, opened_at: float) -> None:
    assert stack.states() == dict.fromkeys(SERVICES, "healthy") | {"migrate": "exit 0"}


def test_ports_are_open_on_this_host_alone(stack: Stack) -> None:
    addresses = {
        binding["HostIp"]
        for container in stack.containers().values()
        for bindings in (container["NetworkSettings"]["Ports"] or {}).values()
        for binding in bindings or ()
    }
    assert addresses == {"127.0.0.1"}


def test_each_container_is_confined_but_localstack(stack: Stack) -> None:
    assert stack.unconfined().keys() == {"localstack"}


def test_web_answers_with_its_static_files(stack: Stack) -> None:
    assert stack.http("/readyz")[0] == 200
    status, page = stack.http("/admin/login/")
    assert status == 200
    sheet = re.search(r'href="(/static/admin/css/base[^"]*)"', page)
    assert sheet
    assert stack.http(sheet[1])[0] == 200


def test_flower_shows_the_worker(stack: Stack) -> None:
    wait_until(
        lambda: "celery@" in stack.http("/workers", port="HOST_PORT_FLOWER")[1],
        seconds=60,
        what="a worker in Flower",
    )


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("inspect ping", "pong"),
        ("inspect active", "1 node online"),
        ("inspect scheduled", "1 node online"),
        ("inspect stats", "prefetch_count"),
        ("inspect conf", "CELERY_TASK_DEFAULT_QUEUE"),
    ],
)
def test_inspect(stack: Stack, command: str, answer: str) -> None:
    assert answer in stack.execute("worker", "celery", "-A", "marketplace", *command.split())


def test_a_task_by_hand_from_the_shell(stack: Stack) -> None:
    printed = stack.shell_code(
        "from promotions.tasks import check_active_promos\n"
        "print(check_active_promos.delay().get(timeout=60))"
    )
    assert "published" in printed


def test_a_task_from_the_shell_is_in_the_history_within_a_second(stack: Stack) -> None:
    stack.make_staff()
    task_id = stack.shell_code(
        "from promotions.tasks import check_active_promos\nprint(check_active_promos.delay().id)"
    ).strip()
    published = time.monotonic()
    # The shell has ended meanwhile: its last second does not count.
    wait_until(
        lambda: stack.execution(task_id),
        seconds=published + 1 - time.monotonic(),
        what="the task in GET /api/tasks/executions/",
    )
    wait_until(
        lambda: stack.execution(task_id).get("status") == "SUCCESS",
        seconds=30,
        what="its end",
    )


def test_redis_cli_ping(stack: Stack) -> None:
    done = stack.try_compose("exec", "-T", "redis", "redis-cli", "ping")
    assert (done.stdout, done.stderr) == ("PONG\n", "")


def test_psql_is_the_superuser_inside_the_container(stack: Stack) -> None:
    query = ("--tuples-only", "--no-align", "--command", "SELECT current_user", "marketplace")
    assert stack.execute("postgres", "psql", *query) == "postgres\n"


def test_provisioning_again_changes_nothing(stack: Stack) -> None:
    stack.execute("worker", "python", "promotions/clients/provision.py")
    count = stack.shell_code(
        "import boto3; from django.conf import settings\n"
        "sns = boto3.client('sns', region_name='us-east-1')\n"
        "arn = settings.SNS_TOPIC_ARN\n"
        "print(len(sns.list_subscriptions_by_topic(TopicArn=arn)['Subscriptions']))"
    )
    assert count == "1\n"


def test_a_promo_opens_and_is_delivered_within_its_periods(stack: Stack, opened_at: float) -> None:
    # A minute until the check, half a minute until the queue is read, and the work itself.
    stack.wait_for_delivery("umbrella", seconds=opened_at + 120 - time.monotonic())


def test_tasks_published_while_postgresql_is_away_are_in_the_history(stack: Stack) -> None:
    stack.compose("stop", "postgres")
    try:
        ids = stack.execute("beat", "python", "-c", PUBLISH).split()
    finally:
        stack.compose("up", "--detach", "--wait", "postgres")
    stack.wait_for_ends(ids, seconds=60)


def test_tasks_around_a_restart_of_redis_are_in_the_history(stack: Stack) -> None:
    before = stack.execute("beat", "python", "-c", PUBLISH).split()
    stack.wait_for_ends(before, seconds=60)
    stack.compose("restart", "redis")
    stack.compose("up", "--detach", "--wait", "redis", "worker")
    after = stack.execute("beat", "python", "-c", PUBLISH).split()
    stack.wait_for_ends(before + after, seconds=120)


def test_control_pool_restart(stack: Stack) -> None:
    command = ("celery", "-A", "marketplace", "control", "pool_restart")
    assert "reload started" in stack.execute("worker", *command)
    assert "pong" in stack.execute("worker", "celery", "-A", "marketplace", "inspect", "ping")


def test_purge(stack: Stack) -> None:
    stack.compose("stop", "worker")
    stack.shell_code("from promotions.tasks import check_active_promos as t; t.delay(); t.delay()")
    command = ("celery", "-A", "marketplace", "purge")
    printed = stack.execute("beat", *command, input="y\n")
    purged = re.search(r"Purged (\d+) messages", printed)
    assert purged, printed
    assert int(purged[1]) >= 2
    stack.compose("up", "--detach", "--wait", "worker")


def test_a_stopped_worker_finishes_its_task(stack: Stack) -> None:
    assert stack.stop_worker_within_a_task() == "SUCCESS"
    stack.compose("up", "--detach", "--wait", "worker")


def test_a_changed_source_file_restarts_web_and_worker(stack: Stack) -> None:
    def starts() -> int:
        return len(re.findall(r"celery@\w+ ready", stack.compose("logs", "worker")))

    before = starts()
    file = stack.folder / "marketplace" / "health.py"
    source = file.read_text()
    assert '"status": "ok"' in source
    file.write_text(source.replace('"status": "ok"', '"status": "edited"'))
    wait_until(lambda: "edited" in stack.http("/healthz")[1], seconds=60, what="web anew")
    wait_until(lambda: starts() > before, seconds=60, what="worker anew")


def test_nothing_was_written_into_the_source(stack: Stack) -> None:
    assert not list(stack.folder.rglob("__pycache__"))


def test_beat_and_worker_start_without_a_warning(stack: Stack) -> None:
    logs = stack.compose("logs", "beat", "worker")
    assert "superuser privileges" not in logs
    assert "RedBeat will stop" not in logs


# Last: with a .env it is another stack.
def test_telemetry_comes_from_the_simulator(stack: Stack) -> None:
    (stack.folder / ".env").write_text(
        "COMPOSE_PROFILES=sandbox\n"
        "PANACCESS_URL=http://sandbox:8090/panaccess/\n"
        "SYNC_AND_MERGE_TELEMETRY_SECONDS=5\n"
    )
    stack.compose("up", "--detach", "--wait")
    assert stack.states()["sandbox"] == "healthy"
    assert "a simulator" in stack.http("/", port="HOST_PORT_SANDBOX")[1]

    def views() -> Any:
        """A merged record with its channel's name."""
        path = "/api/telemetry/merged/?page_size=100"
        rows = json.loads(stack.http(path, token=stack.token)[1])["results"]
        return [row for row in rows if row["data_name"]]

    wait_until(views, seconds=60, what="a merged record")
    state = json.loads(stack.http("/api/telemetry/state/", token=stack.token)[1])
    assert (state["error"], state["quarantined"]) == ("", 0)
    assert stack.unconfined().keys() == {"localstack"}
