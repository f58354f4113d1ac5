"""deploy/supervisor: the same program files under quickstart and on bare hosts."""

import os
import signal
import subprocess
import sys
import time
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.folder import PROJECT
from deploy.embedded.servers import free_port
from deploy.embedded.supervisor import CONFIGURATION, PROGRAMS, SERVERS, call


def sections(pattern: str) -> dict[str, dict[str, str]]:
    parser = RawConfigParser(inline_comment_prefixes=())
    parser.read(CONFIGURATION.glob(pattern))
    return {name.removeprefix("program:"): dict(parser[name]) for name in parser.sections()}


def test_every_program_has_its_file():
    assert set(sections("programs/*.conf")) == set(PROGRAMS)
    assert set(sections("embedded/*.conf")) == set(SERVERS)


@pytest.mark.parametrize("name", PROGRAMS + SERVERS)
def test_stop_signal_reaches_the_main_process_alone(name: str):
    program = (sections("programs/*.conf") | sections("embedded/*.conf"))[name]
    assert program["stopsignal"] == ("INT" if name == "postgres" else "TERM")
    assert program["stopasgroup"] == "false"
    assert program["killasgroup"] == "true"
    assert program["autorestart"] == "true"
    assert program["stdout_logfile_maxbytes"] == "10MB"


def test_bare_host_runs_the_programs_in_the_foreground(tmp_path: Path):
    names = ("POSTGRES_", "REDIS_", "AWS_", "DJANGO_SECRET_KEY", "SNS_", "SQS_")
    file = tmp_path / "env"
    values = {name: value for name, value in os.environ.items() if name.startswith(names)}
    values |= {
        "WEB_BIND": f"127.0.0.1:{free_port()}",
        "FLOWER_PORT": str(free_port()),
        "FLOWER_BASIC_AUTH": "admin:a-secret-of-its-own",
        "CELERY_WORKER_CONCURRENCY": "1",
        "LOG_DIR": str(tmp_path),
        "RUN_DIR": str(tmp_path),
        "VENV": sys.prefix,
    }
    file.write_text("# a comment\n" + "".join(f"{key}={text}\n" for key, text in values.items()))
    process = subprocess.Popen(
        [PROJECT / "deploy" / "supervisor" / "start"],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ENV_FILE": str(file)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        pids = [program["pid"] for program in wait_until_running(tmp_path / "supervisor.sock")]
        assert len(pids) == len(PROGRAMS) + 1  # and the watchdog
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    finally:
        process.kill()
        process.wait()


def wait_until_running(socket: Path) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 60
    states: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        try:
            states = call(socket, "getAllProcessInfo")
        except OSError:
            states = []
        if states and all(state["statename"] == "RUNNING" for state in states):
            return states
        time.sleep(0.2)
    raise AssertionError(states)


def test_bare_host_without_environment_file_is_told_so(tmp_path: Path):
    result = subprocess.run(
        [PROJECT / "deploy" / "supervisor" / "start"],
        env={"PATH": os.environ["PATH"], "ENV_FILE": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "none cannot be read" in result.stderr
