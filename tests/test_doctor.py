"""`scripts/doctor` on a real deployment of the embedded way, with each cause made for real."""

import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.conf import settings

from deploy.embedded.supervisor import call
from deploy.ops import checks, probe
from deploy.ops.examined import Severity
from tests.embedded import Quickstart, running_embedded
from tests.processes import wait_until

pytestmark = pytest.mark.worker

Doctor = Callable[[], dict[str, list[dict[str, str]]]]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    with running_embedded(tmp_path_factory.mktemp("doctor") / "embedded") as quickstart:
        yield quickstart


@pytest.fixture
def doctor(running: Quickstart) -> Doctor:
    """Its findings by check; its exit code is 1 when one is an error."""

    def examine() -> dict[str, list[dict[str, str]]]:
        done = running.ops("doctor", "--json")
        assert done.stderr == ""
        findings = json.loads(done.stdout)
        assert done.returncode == int("error" in {finding["severity"] for finding in findings})
        found: dict[str, list[dict[str, str]]] = {}
        for finding in findings:
            found.setdefault(finding["check"], []).append(finding)
        return found

    return examine


def control(running: Quickstart, method: str, program: str) -> Any:
    return call(Path(os.path.realpath(running.folder / "run")) / "supervisor.sock", method, program)


@contextmanager
def stopped(running: Quickstart, *programs: str) -> Iterator[None]:
    for program in programs:
        control(running, "stopProcess", program)
    try:
        yield
    finally:
        for program in programs:
            control(running, "startProcess", program)


@contextmanager
def frozen(running: Quickstart, program: str) -> Iterator[int]:
    pid = control(running, "getProcessInfo", program)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def setting(running: Quickstart, **values: str) -> Iterator[None]:
    """The environment file with these; as it was at the end, its time included."""
    file = running.folder / "env"
    text, status = file.read_text(), file.stat()
    lines = [line for line in text.splitlines() if line.partition("=")[0] not in values]
    file.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in values.items())]))
    try:
        yield
    finally:
        file.write_text(text)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def errors(found: dict[str, list[dict[str, str]]], check: str) -> str:
    return "\n".join(
        f"{finding['seen']} -> {finding['helps']}"
        for finding in found[check]
        if finding["severity"] == Severity.ERROR
    )


@pytest.fixture(scope="module")
def frozen_beat(running: Quickstart) -> Iterator[int]:
    """Its process, from the first test on that asks: what is due takes a while to be overdue."""
    with frozen(running, "beat") as pid:
        yield pid


# --- On a deployment -----------------------------------------------------------------------------
def test_nothing_is_wrong_with_a_new_deployment(running: Quickstart, doctor: Doctor):
    wait_until(lambda: running.run("status").returncode == 0, what="all programs are up")
    found = doctor()
    wrong = [one for of_check in found.values() for one in of_check if one["severity"] != "ok"]
    assert wrong == []
    expected = {check.__name__.removeprefix("check_") for check in checks.CHECKS}
    assert set(found) == expected - {"image", "localstack", "ports"}


def test_it_is_a_table_for_people(running: Quickstart):
    done = running.ops("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"the embedded way in {running.folder}"
    assert all(re.match(r"✓ [a-z]+ +\S", line) for line in lines[1:])


@pytest.mark.usefixtures("frozen_beat")
def test_programs_that_do_not_run_and_their_ports(running: Quickstart, doctor: Doctor):
    with stopped(running, "worker", "flower"), socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", running.ports["HOST_PORT_FLOWER"]))
        other.listen()
        found = doctor()
    assert "worker is stopped -> scripts/quickstart" in errors(found, "services")
    for queue in ("default", "high_priority", "low_priority"):
        assert re.search(rf"{queue}: \d+ waiting, and no worker", errors(found, "queues"))
    assert re.search(
        rf"port {running.ports['HOST_PORT_FLOWER']}, which flower needs, is taken by .*, process "
        rf"{os.getpid()} -> .*HOST_PORT_FLOWER",
        errors(found, "ports"),
    )


def test_wrong_passwords_unknown_names_and_a_restart_that_is_due(
    running: Quickstart, doctor: Doctor
):
    wrong = {"POSTGRES_PASSWORD": "wrong-password", "REDIS_PASSWORD": "wrong-password"}
    with setting(running, **wrong, DJANGO_ALOWED_HOSTS="localhost"):
        found = doctor()
    for check, title in (("postgres", "PostgreSQL"), ("redis", "Redis")):
        said = errors(found, check)
        assert f"{title} at 127.0.0.1" in said
        assert "it refuses" in said
        assert f"_PASSWORD in {running.folder}/env to the one that it knows" in said
        assert "wrong-password" not in said
    assert found["variables"][0]["helps"] == "did you mean DJANGO_ALLOWED_HOSTS?"
    assert "started before the settings changed" in found["restart"][0]["seen"]
    assert found["migrations"][0]["seen"].startswith("not known: ")


def test_a_web_that_took_the_new_settings_without_a_restart_is_not_named(
    running: Quickstart, doctor: Doctor
):
    def named() -> list[str]:
        return re.findall(r"[\w-]+", doctor()["restart"][0]["seen"].partition(" started ")[0])

    with setting(running, LOG_FORMAT="json"):
        assert {"web", "worker"} <= set(named())
        os.kill(control(running, "getProcessInfo", "web")["pid"], signal.SIGHUP)
        wait_until(lambda: "web" not in named(), seconds=90, what="the web has new processes")
        assert "worker" in named()


def test_names_that_lead_nowhere_and_secrets_that_are_none(running: Quickstart, doctor: Doctor):
    nowhere = {"POSTGRES_HOST": "nowhere.invalid", "REDIS_HOST": "nowhere.invalid"}
    with setting(running, **nowhere, DJANGO_SECRET_KEY="x" * 20, METRICS_TOKEN="changeme"):
        found = doctor()
    for check in ("postgres", "redis"):
        assert "the name nowhere.invalid leads nowhere" in errors(found, check)
    assert "manage.py does not run: DJANGO_SECRET_KEY is too short" in errors(found, "application")
    assert "METRICS_TOKEN is a public default" in errors(found, "secrets")
    assert "DJANGO_SECRET_KEY is easy to guess" in [one["seen"] for one in found["secrets"]]


def test_a_redis_that_hangs_is_told_from_one_that_is_gone(running: Quickstart, doctor: Doctor):
    with frozen(running, "redis"):
        assert "no answer in time" in errors(doctor(), "redis")
    with stopped(running, "redis"):
        found = doctor()
    assert "nobody listens there" in errors(found, "redis")
    assert "scripts/quickstart stop && scripts/quickstart" in errors(found, "services")
    assert errors(found, "postgres") == ""


def test_what_redis_may_evict_and_migrations_that_wait(running: Quickstart, doctor: Doctor):
    migrate = ("run", "python", "manage.py", "migrate", "--fake", "task_manager")
    assert running.run(*migrate, "0001").returncode == 0
    with redis.Redis(
        port=running.ports["EMBEDDED_REDIS_PORT"],
        username="operator",
        password=running.values["OPERATOR_PASSWORD"],
    ) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            found = doctor()
        finally:
            client.config_set("maxmemory-policy", "noeviction")
            running.run(*migrate)
    assert "maxmemory-policy is allkeys-lru" in errors(found, "eviction")
    assert "not applied: task_manager.0002_outbox" in errors(found, "migrations")
    assert "scripts/quickstart run python manage.py migrate" in errors(found, "migrations")


def test_a_beat_that_runs_and_does_not_tick(running: Quickstart, doctor: Doctor, frozen_beat: int):
    wait_until(lambda: errors(doctor(), "beat"), seconds=90, what="periodic tasks are overdue")
    found = doctor()
    assert re.search(r"beat does not tick: .* overdue -> ", errors(found, "beat"))
    assert errors(found, "services") == ""
    os.kill(frozen_beat, signal.SIGCONT)


def test_a_deployment_that_is_stopped_is_examined_too(running: Quickstart, doctor: Doctor):
    assert running.run("stop").returncode == 0
    found = doctor()
    assert errors(found, "services") == "nothing runs -> scripts/quickstart"
    assert "nobody listens there" in errors(found, "postgres")
    assert found["disk"][0]["severity"] == "ok"


def test_where_nothing_is_it_says_what_could_be(running: Quickstart, tmp_path: Path):
    done = running.ops("doctor", EMBEDDED_DIR=str(tmp_path / "none"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: --on embedded: scripts/quickstart was not run here\n"


# --- What it goes by -----------------------------------------------------------------------------
def test_the_public_secrets_are_those_that_the_settings_refuse():
    assert probe.public_secrets() == settings.DEVELOPMENT_SECRETS


@pytest.mark.parametrize(
    ("free", "severity"), [(50, "ok"), (10, "ok"), (9, "warning"), (2, "warning"), (1, "error")]
)
def test_a_disk_that_fills(free: int, severity: str):
    assert checks.disk_finding(Path("/"), free * 10**7, 10**9).severity == severity


@pytest.mark.parametrize(
    ("image", "asks"),
    [
        ("localstack/localstack:4.14.0", False),
        ("localstack/localstack:3", False),
        ("localstack/localstack:4.14.1", True),
        ("localstack/localstack:2026.3.0", True),
        ("localstack/localstack:latest", True),
        ("registry.example.com:5000/localstack/localstack", True),
        ("localstack/localstack-pro:5.0.0@sha256:00", True),
        ("motoserver/moto:5", False),
    ],
)
def test_a_localstack_that_asks_for_a_token(image: str, asks: bool):
    assert checks.asks_for_token(image) is asks


def test_clocks_that_differ_are_named():
    seen = {"skew": 0.0, "postgres": {"ahead": 61.0}, "redis": {"ahead": -200.0}}
    found = list(checks.check_clock(SimpleNamespace(probe=seen)))  # type: ignore[arg-type]
    assert [finding.seen for finding in found] == [
        "PostgreSQL's clock is 61 s ahead of this host's",
        "Redis's clock is 3 min behind this host's",
    ]
