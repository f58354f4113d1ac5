"""`scripts/quickstart`, run as a newcomer runs it: real servers, ports and folders of its own."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded import processes
from deploy.embedded.api import Api
from deploy.embedded.servers import free_port, listens
from tests.embedded import Quickstart, running_embedded
from tests.processes import wait_until

pytestmark = pytest.mark.worker

#: What a developer's shell may hold, none of which may reach the system.
STRAY = {
    "CELERY_BROKER_URL": "redis://nowhere.invalid:1/0",
    "POSTGRES_HOST": "nowhere.invalid",
    "DJANGO_DEBUG": "1",
    "PYTHONPATH": "/nowhere",
    "http_proxy": "http://nowhere.invalid:1",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    folder = tmp_path_factory.mktemp("quickstart") / "embedded"
    with running_embedded(folder, **STRAY) as quickstart:
        yield quickstart


@pytest.fixture
def fresh(tmp_path: Path) -> Quickstart:
    """One that has not run, and of which nothing may be left when it cannot."""
    return Quickstart(tmp_path / "embedded")


def assert_one_line(result: subprocess.CompletedProcess[str], *pieces: str) -> None:
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for piece in pieces:
        assert piece in result.stderr


def test_first_run_shows_a_promo_opened_told_and_reserved(running: Quickstart):
    assert running.first is not None
    output = running.first.stdout
    assert re.search(r"Promo opened +.+: \d+\.\d\d instead of \d+\.\d\d", output)
    assert re.search(r"Shoppers told +([1-9]\d*), delivered \1\n", output)
    assert re.search(r"demo-shopper holds .+ at .+ for \d+\.\d\d until \d\d:\d\d:\d\d", output)
    for address in ("/", "/api/schema/swagger/", "/admin/"):
        assert re.search(rf":{running.ports['HOST_PORT_WEB']}{address}\s", output)
    assert f"user admin, password {running.values['ADMIN_PASSWORD']}" in output
    assert running.first.stderr == ""


def test_system_is_ready_and_the_shopper_was_told(running: Quickstart):
    api = running.api()
    assert api.call("GET", "/readyz")[1]["status"] == "ready"
    assert running.reservations() >= 1
    api.login("demo-shopper", running.values["DEMO_PASSWORD"])
    assert api.call("GET", "/api/notifications/")[1]["count"] == 1


def test_telemetry_comes_from_the_simulator(running: Quickstart):
    api = running.api()
    assert api.login("admin", running.values["ADMIN_PASSWORD"]) == 200

    def views() -> list[Any]:
        """Merged records with their channels' names."""
        rows = api.call("GET", "/api/telemetry/merged/?page_size=100")[1]["results"]
        return [row for row in rows if row["data_name"]]

    wait_until(views, seconds=60)
    state = api.call("GET", "/api/telemetry/state/")[1]
    assert (state["configured"], state["error"], state["quarantined"]) == (True, "", 0)


def test_flower_asks_for_its_password(running: Quickstart):
    flower = Api(f"http://127.0.0.1:{running.ports['HOST_PORT_FLOWER']}")
    deadline = time.monotonic() + 20
    while (status := flower.call("GET", "/")[0]) == 0 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status == 401


def test_secrets_are_for_their_owner_alone(running: Quickstart):
    assert stat.S_IMODE((running.folder / "env").stat().st_mode) == 0o600
    assert stat.S_IMODE(running.folder.stat().st_mode) == 0o700
    commands = [
        path.read_bytes()
        for pid in processes.of_folder(running.folder)
        if (path := Path(f"/proc/{pid}/cmdline")).exists()
    ]
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH"):
        assert not any(running.values[name].encode() in command for command in commands)


def test_second_run_keeps_everything(running: Quickstart):
    before, reservations = running.values, running.reservations()
    # Other passwords in the shell change nothing: the file wins.
    result = running.run(ADMIN_PASSWORD="other", **STRAY)
    assert result.returncode == 0, result.stderr
    assert "demo-shopper holds" in result.stdout
    assert before["ADMIN_PASSWORD"] in result.stdout
    assert running.values == before
    assert running.reservations() >= reservations


def test_status_names_every_program(running: Quickstart):
    deadline = time.monotonic() + 20
    while (result := running.run("status")).returncode and time.monotonic() < deadline:
        time.sleep(0.5)  # supervisor calls a program RUNNING after some seconds
    assert result.returncode == 0
    for name in ("postgres", "redis", "aws", "sandbox", "web", "worker", "beat", "flower"):
        assert re.search(rf"^{name} +RUNNING", result.stdout, re.MULTILINE)


def test_logs_show_a_program_and_refuse_others(running: Quickstart):
    assert "check_active_promos" in running.run("logs", "worker", "-n", "200").stdout
    refused = running.run("logs", "nonsense")
    assert refused.returncode == 2
    assert "nonsense" in refused.stderr


def test_run_gives_a_command_the_environment(running: Quickstart):
    result = running.run("run", "celery", "-A", "marketplace", "inspect", "ping", **STRAY)
    assert "pong" in result.stdout, result.stderr


def test_killed_supervisord_is_made_good(running: Quickstart):
    reservations = running.reservations()
    supervisord = int((running.folder / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    orphans = processes.of_folder(running.folder)
    assert orphans
    result = running.run()
    assert result.returncode == 0, result.stderr
    assert "Stopped what an earlier run left behind" in result.stdout
    assert not set(orphans) & set(processes.of_folder(running.folder))
    assert running.reservations() >= reservations


def test_reset_asks_first(running: Quickstart):
    for answer in ("", "n\n", "\n"):
        result = running.run("reset", text=answer)
        assert result.returncode == 1
        assert "delete the data" in result.stdout
    assert running.api().call("GET", "/healthz")[0] == 200


def test_stop_ends_every_process(running: Quickstart):
    socket_folder = (running.folder / "run").resolve()
    started = processes.of_folder(running.folder)
    assert len(started) > 10
    assert running.run("stop").returncode == 0
    assert not any(map(processes.alive, started))
    assert processes.of_folder(running.folder) == []
    assert not any(map(listens, running.ports.values()))
    assert not socket_folder.exists()
    assert running.run("status").returncode == 3
    assert "Nothing ran" in running.run("stop").stdout


def test_reset_deletes_the_data(running: Quickstart):
    backup = running.folder / "backups" / "20260101T000000Z"
    backup.mkdir(parents=True)
    (running.folder / "releases.json").write_text("[]")
    done = running.run("reset", "--yes")
    assert done.returncode == 0
    assert list(running.folder.iterdir()) == [backup.parent]
    assert "stays what is not the system's own data: backups" in done.stdout
    shutil.rmtree(backup.parent)
    assert running.run("reset", "--yes").returncode == 0
    assert not running.folder.exists()
    assert "nothing to delete" in running.run("reset").stdout


def test_taken_port_is_named_and_nothing_stays(fresh: Quickstart):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        fresh.ports["EMBEDDED_REDIS_PORT"] = port
        result = fresh.run()
    assert_one_line(result, f"port {port} is taken by", str(os.getpid()), "EMBEDDED_REDIS_PORT=")
    assert not fresh.folder.exists()


def test_wrong_port_is_refused(fresh: Quickstart):
    assert_one_line(fresh.run(HOST_PORT_WEB="http"), "HOST_PORT_WEB=http is no port")
    assert not fresh.folder.exists()


def test_wrong_setting_is_named_and_nothing_goes_on_running(fresh: Quickstart):
    fresh.folder.mkdir()
    (fresh.folder / "env").write_text("CELERY_BROKER_URLL=redis://elsewhere\n")
    assert_one_line(fresh.run(), f"{fresh.folder}/env: CELERY_BROKER_URLL")
    assert processes.of_folder(fresh.folder) == []


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["stop", "web"], ["logs"]])
def test_unknown_arguments_end_with_the_usage(fresh: Quickstart, arguments: list[str]):
    result = fresh.run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("usage: scripts/quickstart")
    assert not fresh.folder.exists()


def test_help_needs_no_environment(fresh: Quickstart, tmp_path: Path):
    result = fresh.run("--help", VENV=str(tmp_path / "venv"))
    assert result.returncode == 0
    assert "HOST_PORT_WEB" in result.stdout
    assert not (tmp_path / "venv").exists()


def fake(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_old_python_is_refused(fresh: Quickstart, tmp_path: Path):
    venv = tmp_path / "venv"
    python = fake(tmp_path, "old", "echo 3.9")
    result = fresh.run(PYTHON=python, VENV=str(venv))
    assert_one_line(result, f"{python} is Python 3.9; 3.11 or newer is needed")
    assert not venv.exists()


def test_python_without_ensurepip_is_refused(fresh: Quickstart, tmp_path: Path):
    python = fake(tmp_path, "bare", "echo 3.12 ensurepip")
    result = fresh.run(PYTHON=python, VENV=str(tmp_path / "venv"))
    assert_one_line(result, "lacks its module ensurepip", "apt install python3.12-venv")


def test_missing_python_is_named(fresh: Quickstart, tmp_path: Path):
    result = fresh.run(PYTHON="/nowhere/python", VENV=str(tmp_path / "venv"))
    assert_one_line(result, "PYTHON=/nowhere/python is no Python that runs")


def test_full_disk_is_noticed_before_anything_is_made(fresh: Quickstart, tmp_path: Path):
    fake(tmp_path, "df", 'echo head; echo "/dev/x 9 9 20480 9% /"')
    path = f"{tmp_path}:{os.environ['PATH']}"
    venv = tmp_path / "venv"
    result = fresh.run(PATH=path, PYTHON=sys.executable, VENV=str(venv))
    assert_one_line(result, "the disk is too full", "needs 1000 MB", "20 MB left")
    assert not venv.exists()


def test_unreachable_pypi_is_named_and_no_venv_stays(fresh: Quickstart, tmp_path: Path):
    venv = tmp_path / "venv"
    result = fresh.run(
        VENV=str(venv),
        PYTHON=sys.executable,
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        PIP_INDEX_URL=f"http://127.0.0.1:{free_port()}/simple",
        PIP_NO_CACHE_DIR="1",
        TMPDIR=str(tmp_path),
    )
    assert_one_line(result, "PyPI cannot be reached")
    assert not venv.exists()
    assert not fresh.folder.exists()
