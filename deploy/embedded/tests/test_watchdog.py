"""deploy/supervisor/watchdog.py under a real supervisord, with programs of a line each."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.embedded.folder import PROJECT
from deploy.embedded.supervisor import CONFIGURATION, call
from tests.processes import wait_until

SUPERVISORD = f"""
[supervisord]
nodaemon=true
pidfile=%(ENV_RUN_DIR)s/supervisord.pid
logfile=%(ENV_LOG_DIR)s/supervisord.log
[unix_http_server]
file=%(ENV_RUN_DIR)s/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files={CONFIGURATION}/watchdog.conf
"""
#: `worker-2` shows that it lives, `flower` does not and is deaf, `postgres` is none of ours.
PROGRAMS = {
    "worker-2": "while :; do touch %(ENV_RUN_DIR)s/worker-2.alive; sleep 0.2; done",
    "beat": "while :; do touch %(ENV_RUN_DIR)s/beat.alive; sleep 0.2; done",
    "flower": "trap '' ABRT; while :; do sleep 0.2; done",
    "postgres": "sleep 1000",
}
PROGRAM = """
[program:{name}]
command=bash -c "{script}"
autorestart=true
startsecs=0
stdout_logfile=NONE
stderr_logfile=NONE
"""


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """What systemd hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{os.urandom(8).hex()}")
        heard.settimeout(60)
        yield heard


@pytest.fixture
def ask(tmp_path: Path, manager: socket.socket) -> Iterator[Callable[..., Any]]:
    """Asks a supervisord whose programs have to show each 6 s that they live."""
    programs = "".join(
        PROGRAM.format(name=name, script=script) for name, script in PROGRAMS.items()
    )
    file = tmp_path / "supervisord.conf"
    file.write_text(SUPERVISORD + programs)
    environment = {
        "PATH": os.environ["PATH"],
        "VENV": sys.prefix,
        "PROJECT_DIR": str(PROJECT),
        "LOG_DIR": str(tmp_path),
        "RUN_DIR": str(tmp_path),
        "PROGRAMS_START_RETRIES": "3",
        "WATCHDOG_SECONDS": "6",
        "WATCHDOG_SOCKET": manager.getsockname().decode().replace("\0", "@"),
    }
    command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(file)]
    command += ["--user", "root"] if os.geteuid() == 0 else []
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "supervisor.sock").exists, what="supervisord listens")
        yield lambda *words: call(tmp_path / "supervisor.sock", *words)
    finally:
        process.terminate()
        process.wait(60)


def test_what_hangs_is_ended_and_nothing_else(ask, tmp_path: Path, manager: socket.socket):
    def pid(name: str) -> int:
        return int(ask("getProcessInfo", name)["pid"])

    wait_until(lambda: all(map(pid, PROGRAMS)), what="all run")
    first = {name: pid(name) for name in PROGRAMS}
    wait_until((tmp_path / "beat.alive").exists, what="it has shown that it lives")
    os.kill(first["beat"], signal.SIGSTOP)
    wait_until(lambda: pid("beat") != first["beat"], seconds=90, what="the stopped one is replaced")
    wait_until(lambda: pid("flower") != first["flower"], seconds=90, what="and the deaf one")
    assert [pid(name) for name in ("worker-2", "postgres")] == [
        first[name] for name in ("worker-2", "postgres")
    ]
    log = (tmp_path / "watchdog.log").read_text()
    assert f"beat ({first['beat']}) has shown no sign of life for 6 s: ABRT" in log
    assert f"flower ({first['flower']}) has shown no sign of life for 6 s: KILL" in log
    assert "Traceback" not in log
    assert manager.recv(100) == b"WATCHDOG=1"
