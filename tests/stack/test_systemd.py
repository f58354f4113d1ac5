"""deploy/systemd on a bare host: systemd is process 1, PostgreSQL and Redis are elsewhere."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.stack.stack import Stack, copy_project, run, wait_until

UNIT = "marketplace-worker@high_priority:default:low_priority"
ENVIRONMENT = """
POSTGRES_HOST=postgres
REDIS_HOST=redis
CELERY_TASK_ACKS_LATE=1
CELERY_TASK_REJECT_ON_WORKER_LOST=1
CELERY_WORKER_PREFETCH_MULTIPLIER=1
CELERY_WORKER_CONCURRENCY=2
CELERY_IMPORTS=probe
"""
#: Each run leaves a line.
PROBE = """
import time

from celery import shared_task

@shared_task(bind=True)
def rest(self, seconds):
    with open("/var/tmp/runs", "a") as file:
        print(self.request.id, file=file)
    time.sleep(seconds)
"""
IMAGE = """
FROM bare-host:trixie
COPY --from={image} /app /opt/flash-promos
COPY --from={image} /venv /opt/flash-promos/.venv
RUN useradd --system flash-promos
"""


#: The latter: something of the distribution does not work in a container.
RUNNING = ("running", "degraded")


@dataclass
class Host:
    name: str
    stack: Stack

    def try_run(self, *command: str, user: str = "root") -> tuple[int, str]:
        done = run("docker", "exec", "-u", user, "-w", "/opt/flash-promos", self.name, *command)
        return done.returncode, done.stdout + done.stderr

    def run(self, *command: str, user: str = "root") -> str:
        code, output = self.try_run(*command, user=user)
        assert code == 0, f"{command}: {output}"
        return output

    def write(self, path: str, text: str) -> None:
        done = run(
            *("docker", "exec", "-i", self.name, "sh", "-c", 'mkdir -p "${1%/*}" && cat > "$1"'),
            *("write", path),
            input=text,
        )
        assert done.returncode == 0, done.stderr

    def python(self, code: str) -> str:
        """What `code` prints in Django's shell, as the service's user and with its variables."""
        command = (".venv/bin/python", "manage.py", "shell", "-v", "0", "-c", code)
        return self.run("env", "ENV_FILE=/etc/flash-promos/env", *command, user="flash-promos")

    def publish(self, seconds: int, count: int) -> list[str]:
        return self.python(
            f"from probe import rest\nprint(*(rest.delay({seconds}).id for _ in range({count})))"
        ).split()

    def runs(self) -> list[str]:
        return self.try_run("cat", "/var/tmp/runs")[1].split()  # noqa: S108

    def count(self, task_ids: list[str], status: str) -> int:
        names = ",".join(f"'{task_id}'" for task_id in task_ids)
        where = f"status = '{status}' AND task_id IN ({names})"
        query = f"SELECT count(*) FROM task_manager_taskexecution WHERE {where}"
        return int(self.stack.execute("postgres", "psql", "-qAtX", "marketplace", "-c", query))

    def show(self, name: str) -> str:
        """A property of the worker's unit."""
        return self.run("systemctl", "show", "--value", "--property", name, UNIT).strip()


@contextmanager
def bare_host(stack: Stack) -> Iterator[Host]:
    """A container as a host, beside the stack's PostgreSQL and Redis, with the image's files."""
    name = f"{stack.name}-host"
    built = run("docker", "build", "--tag", name, "-", input=IMAGE.format(image=stack.name))
    assert built.returncode == 0, built.stderr
    options = ("--privileged", "--cgroupns=host", "--tmpfs", "/run", "--tmpfs", "/tmp")  # noqa: S108
    cgroup = ("--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--network", f"{stack.name}_default")
    try:
        started = run("docker", "run", "--detach", "--name", name, *options, *cgroup, name)
        assert started.returncode == 0, started.stderr
        host = Host(name, stack)
        wait_until(
            lambda: host.try_run("systemctl", "is-system-running")[1].strip() in RUNNING,
            seconds=60,
            what="systemd runs",
        )
        host.write("/etc/flash-promos/env", (stack.folder / ".env").read_text() + ENVIRONMENT)
        host.write("/opt/flash-promos/probe.py", PROBE)
        for file in (stack.folder / "deploy" / "systemd").iterdir():
            host.write(f"/etc/systemd/system/{file.name}", file.read_text())
        host.run("systemctl", "daemon-reload")
        yield host
    finally:
        run("docker", "rm", "--force", "--volumes", name)
        run("docker", "image", "rm", name)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Host]:
    stack = Stack(copy_project(tmp_path_factory.mktemp("systemd")))
    written = run("scripts/init-env", cwd=stack.folder)
    assert written.returncode == 0, written.stderr
    with stack.running(failed):
        stack.compose("up", "--detach", "--build", "--wait", "postgres", "redis")
        stack.compose("run", "--rm", "-T", "migrate")
        with bare_host(stack) as host:
            yield host
            if failed():
                print(host.run("journalctl", "--no-pager", "--unit", UNIT))


@pytest.fixture(autouse=True)
def _worker(host: Host) -> Iterator[None]:
    """The worker runs, and has nothing to do."""
    host.run("systemctl", "start", UNIT)
    yield
    host.run("systemctl", "revert", UNIT)
    host.run("systemctl", "start", UNIT)


def test_a_stopped_worker_finishes_its_tasks_and_leaves_the_rest(host: Host) -> None:
    running = host.publish(8, 2)
    wait_until(lambda: host.count(running, "STARTED") == 2, seconds=60, what="both run")
    waiting = host.publish(0, 20)
    host.run("systemctl", "stop", UNIT)
    assert (host.show("ActiveState"), host.show("Result")) == ("inactive", "success")
    assert set(host.runs()) & {*running, *waiting} == set(running)
    host.run("systemctl", "start", UNIT)
    every = running + waiting
    wait_until(lambda: host.count(every, "SUCCESS") == 22, seconds=60, what="all are done")
    ran = Counter(host.runs())
    assert [ran[task_id] for task_id in every] == [1] * 22


def test_a_task_that_outlasts_the_time_to_stop_runs_again(host: Host) -> None:
    host.write(f"/etc/systemd/system/{UNIT}.service.d/stop.conf", "[Service]\nTimeoutStopSec=2\n")
    host.run("systemctl", "daemon-reload")
    (task_id,) = host.publish(15, 1)
    wait_until(lambda: host.count([task_id], "STARTED"), seconds=60, what="it runs")
    host.run("systemctl", "stop", UNIT)
    assert host.show("Result") == "timeout"
    host.run("systemctl", "start", UNIT)
    wait_until(lambda: host.count([task_id], "SUCCESS"), seconds=120, what="it is done")
    assert host.runs().count(task_id) == 2


def test_a_killed_worker_is_started_again_and_its_task_runs(host: Host) -> None:
    (task_id,) = host.publish(10, 1)
    wait_until(lambda: host.count([task_id], "STARTED"), seconds=60, what="it runs")
    first = host.show("MainPID")
    host.run("systemctl", "kill", "--signal", "KILL", UNIT)
    wait_until(lambda: host.show("MainPID") not in ("0", first), seconds=60, what="it runs again")
    wait_until(lambda: host.count([task_id], "SUCCESS"), seconds=120, what="its task is done")
    assert host.runs().count(task_id) == 2
