"""deploy/systemd on a bare host: systemd is process 1, PostgreSQL and Redis are elsewhere."""

import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stack.stack import Stack, copy_project, run, wait_until
from tests.visitors import Visitors

UNIT = "marketplace-worker@high_priority:default:low_priority.service"
UNITS = (
    "marketplace-web.service",
    UNIT,
    "marketplace-beat.service",
    "marketplace-flower.service",
)
ALL = ("marketplace.target", "marketplace-web.socket", *UNITS)
SUPERVISOR = "marketplace-supervisor.service"
#: Services beside the target's.
OTHERS = (SUPERVISOR, "marketplace.backup.service")
#: What `systemd-analyze security` may find at most, of 10.
EXPOSURE = 2.5
UNIT_FILES = "/etc/systemd/system"
CURRENT = "/opt/flash-promos/current"
#: Seconds; longer than Redis' `socket_timeout` holds anybody up, and a tick of beat.
WATCHDOG = 45
#: All may take their time to end, as this machine may be busy.
PATIENCE = f"[Service]\nWatchdogSec={WATCHDOG}\nTimeoutStopSec=100\n"
#: AWS is not there.
ENVIRONMENT = """
POSTGRES_HOST=postgres
REDIS_HOST=redis
DJANGO_HTTPS=0
CELERY_WORKER_CONCURRENCY=2
CELERY_IMPORTS=probe
PROCESS_NOTIFICATION_QUEUE_SECONDS=86400
"""
#: Of the container's, so that visitors reach it.
LISTEN = """
[Socket]
ListenStream=
ListenStream=0.0.0.0:8000
"""
#: Each run leaves a line.
PROBE = """
import time

from celery import shared_task

@shared_task(bind=True)
def rest(self, seconds):
    with open("/var/lib/flash-promos/runs", "a") as file:
        print(self.request.id, file=file)
    time.sleep(seconds)
"""
#: For Django's shell: prints the token and the cookie of somebody of the staff.
STAFF = """
from datetime import timedelta
from django.contrib.auth.models import User
from django.test import Client
from rest_framework_simplejwt.tokens import AccessToken

user = User.objects.create_user("staff", is_staff=True)
token = AccessToken.for_user(user)
token.set_exp(lifetime=timedelta(hours=1))
client = Client()
client.force_login(user)
print(token)
print(*(f"{cookie.key}={cookie.value}" for cookie in client.cookies.values()), sep="; ")
"""
IMAGE = """
FROM bare-host:trixie
RUN useradd --system --home-dir /var/lib/flash-promos flash-promos \
 && mkdir -p /opt/flash-promos/releases /etc/flash-promos \
 && ln -s releases/first /opt/flash-promos/current
COPY --from={image} /app /opt/flash-promos/releases/first
COPY --from={image} /venv /opt/flash-promos/releases/first/.venv
COPY --from={image} /srv/static /opt/flash-promos/releases/first/staticfiles
"""


#: The latter: something of the distribution does not work in a container.
RUNNING = ("running", "degraded")


@dataclass
class Host:
    name: str
    stack: Stack

    def try_run(self, *command: str, user: str = "root") -> tuple[int, str]:
        done = run("docker", "exec", "-u", user, "-w", CURRENT, self.name, *command)
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

    def copy(self, source: Path | str, target: str) -> None:
        done = run("docker", "cp", "--quiet", str(source), f"{self.name}:{target}")
        assert done.returncode == 0, done.stderr

    def python(self, code: str) -> str:
        """What `code` prints in Django's shell, as the service's user and with its variables."""
        command = (".venv/bin/python", "manage.py", "shell", "-v", "0", "-c", code)
        return self.run("env", "ENV_FILE=/etc/flash-promos/env", *command, user="flash-promos")

    def publish(self, *seconds: int) -> list[str]:
        """The ids of tasks that take so long, in this order."""
        return self.python(
            f"from probe import rest\nprint(*(rest.delay(each).id for each in {seconds}))"
        ).split()

    def runs(self) -> list[str]:
        return self.try_run("cat", "/var/lib/flash-promos/runs")[1].split()

    def count(self, task_ids: list[str], status: str) -> int:
        names = ",".join(f"'{task_id}'" for task_id in task_ids)
        where = f"status = '{status}' AND task_id IN ({names})"
        query = f"SELECT count(*) FROM task_manager_taskexecution WHERE {where}"
        return int(self.stack.execute("postgres", "psql", "-qAtX", "marketplace", "-c", query))

    def show(self, name: str, unit: str = UNIT) -> str:
        """A property of the unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit).strip()

    def states(self) -> set[str]:
        return {self.show("ActiveState", unit) for unit in ALL}

    def main_pids(self) -> dict[str, str]:
        return {unit: self.show("MainPID", unit) for unit in UNITS}

    def have_restarted(self, before: dict[str, str]) -> bool:
        """Whether each unit runs, as another process than before."""
        now = self.main_pids()
        return self.states() == {"active"} and all(
            now[unit] not in ("0", before[unit]) for unit in UNITS
        )

    @property
    def port(self) -> int:
        """Where the web is reached from outside."""
        return int(run("docker", "port", self.name, "8000").stdout.rpartition(":")[2])

    def visitors(self) -> Visitors:
        token, cookie = self.python(STAFF).split("\n")[:2]
        return Visitors(self.port, token, cookie)

    def answers(self) -> bool:
        """Whether anybody listens where the web does."""
        with socket.socket() as client:
            client.settimeout(5)
            return client.connect_ex((self.run("hostname", "-I").split()[0], 8000)) == 0


@contextmanager
def bare_host(stack: Stack) -> Iterator[Host]:
    """A container as a host, beside the stack's PostgreSQL and Redis, with the image's files."""
    name = f"{stack.name}-host"
    built = run("docker", "build", "--tag", name, "-", input=IMAGE.format(image=stack.name))
    assert built.returncode == 0, built.stderr
    options = ("--privileged", "--cgroupns=host", "--tmpfs", "/run", "--tmpfs", "/tmp")  # noqa: S108
    cgroup = ("--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--network", f"{stack.name}_default")
    ports = ("--publish", "127.0.0.1::8000")
    try:
        started = run("docker", "run", "--detach", "--name", name, *options, *cgroup, *ports, name)
        assert started.returncode == 0, started.stderr
        host = Host(name, stack)
        wait_until(
            lambda: host.try_run("systemctl", "is-system-running")[1].strip() in RUNNING,
            seconds=60,
            what="systemd runs",
        )
        host.write("/etc/flash-promos/env", (stack.folder / ".env").read_text() + ENVIRONMENT)
        host.write(f"{CURRENT}/probe.py", PROBE)
        # The image goes without some of them.
        for folder in ("deploy", "scripts"):
            host.copy(stack.folder / folder, f"{CURRENT}/")
        host.copy(f"{stack.folder}/deploy/systemd/.", f"{UNIT_FILES}/")
        for file in (SUPERVISOR, f"{SUPERVISOR}.d"):
            host.copy(stack.folder / "deploy" / "supervisor" / file, f"{UNIT_FILES}/")
        host.write(f"{UNIT_FILES}/marketplace-web.socket.d/listen.conf", LISTEN)
        host.write(f"{UNIT_FILES}/marketplace-.service.d/patience.conf", PATIENCE)
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable", "--quiet", *ALL)
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
                print(host.run("journalctl", "--no-pager", "--unit", "marketplace*"))


@pytest.fixture(autouse=True)
def _all_run(host: Host) -> Iterator[None]:
    host.run("systemctl", "start", *ALL)
    yield
    host.run("systemctl", "revert", UNIT)


def test_the_units_are_in_order_and_may_do_little(host: Host) -> None:
    # Colons in a name mean something else to `verify`.
    every = {*ALL, *OTHERS, "marketplace.backup.timer", "marketplace-worker@default.service"}
    verify = ("systemd-analyze", "verify", "--recursive-errors=no")
    code, said = host.try_run(*verify, *(every - {UNIT}))
    assert (code, [line for line in said.splitlines() if "marketplace" in line]) == (0, [])
    exposure = {}
    for unit in (*UNITS, *OTHERS):
        report = host.run("systemd-analyze", "security", "--no-pager", unit)
        exposure[unit] = float(re.findall(r"Overall exposure level for .*: ([\d.]+)", report)[0])
    print(exposure)
    assert max(exposure.values()) <= EXPOSURE, exposure


def test_the_target_stops_and_starts_all(host: Host) -> None:
    """And what stands still is not started by the next who connects."""
    # It returns at once, while its parts still end.
    host.run("systemctl", "stop", "marketplace.target")
    wait_until(lambda: host.states() == {"inactive"}, seconds=120, what="all have ended")
    assert not host.answers()
    assert host.states() == {"inactive"}
    host.run("systemctl", "start", "marketplace.target")
    assert host.states() == {"active"}
    assert host.answers()


def test_killed_programs_are_started_again_and_their_task_runs(host: Host) -> None:
    (task_id,) = host.publish(8)
    wait_until(lambda: host.count([task_id], "STARTED"), seconds=60, what="it runs")
    before = host.main_pids()
    host.run("systemctl", "kill", "--kill-whom", "main", "--signal", "KILL", *UNITS)
    wait_until(lambda: host.have_restarted(before), seconds=180, what="all run again")
    wait_until(lambda: host.count([task_id], "SUCCESS"), seconds=120, what="the task is done")
    assert host.runs().count(task_id) == 2


def test_a_program_that_hangs_is_started_again(host: Host) -> None:
    before = host.main_pids()
    host.run("systemctl", "kill", "--kill-whom", "main", "--signal", "STOP", *UNITS)
    wait_until(lambda: host.have_restarted(before), seconds=WATCHDOG + 180, what="all run again")
    for unit in UNITS:
        assert "Fatal Python error: Aborted" in host.run("journalctl", "--no-pager", "--unit", unit)


def test_nobody_is_restarted_while_redis_and_postgresql_do_not_answer(host: Host) -> None:
    before = host.main_pids()
    host.stack.compose("pause", "redis", "postgres")
    try:
        time.sleep(WATCHDOG + 10)
        assert host.main_pids() == before
    finally:
        host.stack.compose("unpause", "redis", "postgres")
    (task_id,) = host.publish(0)
    wait_until(lambda: host.count([task_id], "SUCCESS"), seconds=90, what="it is done")
    assert host.main_pids() == before


def test_a_restart_of_the_web_fails_nobody(host: Host) -> None:
    visitors = host.visitors()
    with visitors:
        for _ in range(2):
            visitors.wait_for_more()
            before = host.show("MainPID", "marketplace-web.service")
            host.run("systemctl", "restart", "marketplace-web")
            assert host.show("MainPID", "marketplace-web.service") != before
        visitors.wait_for_more()
    assert visitors.failures == []
    query = "SELECT count(*) FROM task_manager_tasktemplate"
    made = host.stack.execute("postgres", "psql", "-qAtX", "marketplace", "-c", query)
    assert int(made) == len(visitors.made)


def test_a_stopped_worker_finishes_its_tasks_and_leaves_the_rest(host: Host) -> None:
    every = host.publish(12, 12, *[0] * 20)
    running, waiting = every[:2], every[2:]
    wait_until(lambda: host.count(running, "STARTED") == 2, seconds=60, what="both run")
    host.run("systemctl", "stop", UNIT)
    assert (host.show("ActiveState"), host.show("Result")) == ("inactive", "success")
    assert not set(host.runs()) & set(waiting)
    host.run("systemctl", "start", UNIT)
    wait_until(lambda: host.count(every, "SUCCESS") == 22, seconds=60, what="all are done")
    ran = Counter(host.runs())
    assert [ran[task_id] for task_id in every] == [1] * 22


def test_a_task_that_outlasts_the_time_to_stop_runs_again(host: Host) -> None:
    host.write(f"{UNIT_FILES}/{UNIT}.d/stop.conf", "[Service]\nTimeoutStopSec=2\n")
    host.run("systemctl", "daemon-reload")
    (task_id,) = host.publish(12)
    wait_until(lambda: host.count([task_id], "STARTED"), seconds=60, what="it runs")
    host.run("systemctl", "stop", UNIT)
    assert host.show("Result") == "timeout"
    host.run("systemctl", "start", UNIT)
    wait_until(lambda: host.count([task_id], "SUCCESS"), seconds=120, what="it is done")
    assert host.runs().count(task_id) == 2
