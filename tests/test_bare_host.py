"""deploy/supervisor as on a bare host: stops, restarts and new settings, with work going on."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from rest_framework_simplejwt.tokens import AccessToken

from deploy.embedded.folder import PROJECT
from deploy.embedded.servers import free_port
from deploy.embedded.supervisor import call
from task_manager.models import TaskTemplate
from tests.processes import control, wait_until
from tests.stack.stack import copy_project
from tests.test_worker_cancel import traces
from tests.test_worker_leases import LATE, SHORT
from tests.test_worker_tracking import EXAMPLES, TASKS, row, send
from tests.visitors import Visitors
from tests.web import session_of

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def empty(broker: redis.Redis) -> None:
    """An empty broker."""


@dataclass
class Host:
    folder: Path
    variables: dict[str, str]
    port: int = field(default_factory=free_port)

    @property
    def env_file(self) -> Path:
        return self.folder / "env"

    def configure(self, **variables: str) -> None:
        self.variables |= variables
        text = "".join(f"{name}={value}\n" for name, value in self.variables.items())
        self.env_file.write_text(text)

    def supervisorctl(self, *arguments: str) -> None:
        socket = f"unix://{self.folder}/supervisor.sock"
        subprocess.run(
            [Path(sys.prefix, "bin", "supervisorctl"), "-s", socket, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=120,
        )

    def call(self, method: str, *arguments: Any) -> Any:
        return call(self.folder / "supervisor.sock", method, *arguments)

    def stop(self, program: str) -> None:
        """Returns as soon as supervisor has begun to."""
        self.call("stopProcess", program, False)

    def state(self, program: str) -> str:
        return str(self.call("getProcessInfo", program)["statename"])

    def is_running(self) -> bool:
        try:
            states = self.call("getAllProcessInfo")
        except OSError:
            return False
        return bool(states) and all(state["statename"] == "RUNNING" for state in states)

    def is_ready(self) -> bool:
        return b" ready." in (self.folder / "worker.log").read_bytes()


@contextmanager
def bare_host(folder: Path, **variables: str) -> Iterator[Host]:
    names = ("POSTGRES_", "REDIS_", "AWS_", "DJANGO_SECRET_KEY", "SNS_", "SQS_")
    static = folder / "static"
    static.mkdir()
    host = Host(folder, {key: os.environ[key] for key in os.environ if key.startswith(names)})
    host.configure(
        POSTGRES_DB=str(connection.settings_dict["NAME"]),
        WEB_BIND=f"127.0.0.1:{host.port}",
        FLOWER_PORT=str(free_port()),
        FLOWER_BASIC_AUTH="ops:a-long-password",
        DJANGO_HTTPS="0",
        CELERY_WORKER_CONCURRENCY="1",
        CELERY_IMPORTS=TASKS,
        PYTHONPATH=EXAMPLES,
        LOG_DIR=str(folder),
        RUN_DIR=str(folder),
        WORKERS_DIR=str(folder / "workers"),
        VENV=sys.prefix,
        DJANGO_STATIC_ROOT=str(static),
        **LATE,
        **SHORT,
        **variables,
    )
    process = subprocess.Popen(
        [PROJECT / "deploy" / "supervisor" / "start"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ENV_FILE": str(host.env_file),
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(host.is_running, seconds=90, what="supervisor runs all programs")
        wait_until(host.is_ready, seconds=60, what="the worker is ready")
        yield host
    finally:
        process.terminate()
        assert process.wait(90) == 0  # it stops each program first


def test_a_stopped_worker_finishes_its_task_and_leaves_the_rest(broker, tmp_path):
    with bare_host(tmp_path) as host:
        running = send("probe.sleep", 6)
        row(running, "STARTED")
        waiting = [send("probe.trace", str(number)) for number in range(20)]
        host.stop("worker")
        wait_until(lambda: host.state("worker") == "STOPPED", seconds=60, what="it has stopped")
        assert row(running, "SUCCESS")
        assert traces(broker) == {"slept": 1}
        host.call("startProcess", "worker")
        for task_id in waiting:
            row(task_id, "SUCCESS")
    assert set(traces(broker).values()) == {1}


def test_a_task_that_outlasts_the_grace_time_runs_again(broker, tmp_path):
    with bare_host(tmp_path, WORKER_STOP_SECONDS="2") as host:
        task_id = send("probe.sleep", 8)
        row(task_id, "STARTED")
        host.stop("worker")
        wait_until(lambda: host.state("worker") == "STOPPED", seconds=60, what="it was killed")
        assert row(task_id, "STARTED")
        host.call("startProcess", "worker")
        assert row(task_id, "SUCCESS")
    assert traces(broker) == {"slept": 2}


def test_hup_gives_the_web_new_settings_and_fails_nobody(
    tmp_path, make_shopper: Callable[..., User]
):
    user = make_shopper("boss")
    user.is_staff = True
    user.save()
    cookie = f"{settings.SESSION_COOKIE_NAME}={session_of(user)}"
    with bare_host(tmp_path) as host:
        stream = Visitors(host.port, str(AccessToken.for_user(user)), cookie)
        with stream:
            stream.wait_for_more()
            assert metrics(host, "rosebud") != 200
            host.configure(METRICS_TOKEN="rosebud")
            host.supervisorctl("signal", "HUP", "web")
            wait_until(lambda: metrics(host, "rosebud") == 200, seconds=90, what="new settings")
            stream.wait_for_more()
    assert stream.failures == []
    assert TaskTemplate.objects.count() == len(stream.made)


def metrics(host: Host, token: str) -> int:
    http = HTTPConnection("127.0.0.1", host.port, timeout=60)
    http.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"})
    status = http.getresponse().status
    http.close()
    return status


def test_a_restarted_worker_has_new_settings(tmp_path):
    with bare_host(tmp_path) as host:
        host.configure(CELERY_RESULT_EXPIRES="4321")
        host.supervisorctl("restart", "worker", "beat", "flower")
        wait_until(
            lambda: '"CELERY_RESULT_EXPIRES": 4321' in control("inspect", "conf").stdout,
            seconds=60,
            what="the new settings",
        )


def test_a_host_may_have_a_worker_alone_for_queues_of_its_own(broker, tmp_path):
    with bare_host(tmp_path, PROGRAMS="worker", WORKER_QUEUES="low_priority") as host:
        names = {facts["name"] for facts in host.call("getAllProcessInfo")}
        assert names == {"worker", "watchdog"}
        queues = control("inspect", "active_queues").stdout
        assert re.findall(r"'routing_key': '(\w+)'", queues) == ["low_priority"]


def test_each_program_shows_that_it_lives_and_is_started_again_when_killed(tmp_path):
    programs = ("web", "worker", "worker-2", "beat", "flower")
    further_worker(tmp_path)
    with bare_host(tmp_path) as host:
        for name in programs:
            sign = tmp_path / f"{name}.alive"  # where the watchdog looks
            wait_until(sign.exists, seconds=60, what=f"{name} shows that it lives")
            sign.unlink()
            wait_until(sign.exists, what=f"{name} shows it again")
            pid = host.call("getProcessInfo", name)["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda name=name, pid=pid: (  # type: ignore[misc]
                    host.state(name) == "RUNNING"
                    and host.call("getProcessInfo", name)["pid"] != pid
                ),
                seconds=60,
                what=f"{name} runs again",
            )
        for name in ("worker", "worker-2"):
            assert f" {name}@" in (tmp_path / f"{name}.log").read_text()


def further_worker(folder: Path) -> None:
    """As scripts/scale makes one."""
    text = (PROJECT / "deploy/supervisor/programs/worker.conf").read_text()
    (folder / "workers").mkdir()
    file = folder / "workers" / "worker-2.conf"
    file.write_text(text.replace("[program:worker]", "[program:worker-2]"))


def test_new_code_can_be_checked_before_it_is_started(tmp_path):
    project = copy_project(tmp_path / "project")
    file = tmp_path / "env"
    file.write_text("DJANGO_LANGUAGE_CODE=es\n")

    def check() -> "subprocess.CompletedProcess[str]":
        command = ("-m", "gunicorn", "--check-config", "--config", "deploy/gunicorn.conf.py")
        return subprocess.run(
            [sys.executable, *command, "marketplace.asgi"],
            cwd=project,
            env=os.environ | {"ENV_FILE": str(file), "DJANGO_STATIC_ROOT": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    assert check().returncode == 0
    file.write_text("WEB_THREADS=many\n")
    assert "WEB_THREADS='many'" in check().stderr
    file.write_text("")
    (project / "marketplace" / "asgi.py").write_text("nonsense")
    assert check().returncode != 0
