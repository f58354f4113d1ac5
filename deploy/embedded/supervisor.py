"""supervisord, which runs the servers and programs, spoken to over its own XML-RPC socket."""

import os
import re
import socket
import subprocess
import sys
import time
import xmlrpc.client
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from deploy.embedded import processes, source
from deploy.embedded.environment import Environment
from deploy.embedded.errors import ProgramError
from deploy.embedded.folder import PROJECT, Folder

CONFIGURATION = PROJECT / "deploy" / "supervisor"
SERVERS = ("postgres", "redis", "aws", "sandbox")
PROGRAMS = ("web", "worker", "beat", "flower")
#: supervisor's listener, which restarts a program that hangs.
WATCHDOG = "watchdog"
#: supervisord waits for each program in turn, the worker's grace and PostgreSQL's at most.
STOP_SECONDS = 90

_UNREACHABLE = (OSError, HTTPException, xmlrpc.client.ProtocolError)


class _Connection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = _Connection(self.path)
        self._connection = host, connection  # so that `close` finds it
        return connection


def call(path: Path, method: str, *arguments: Any) -> Any:
    """Ask the supervisord behind this socket."""
    with xmlrpc.client.ServerProxy(
        "http://localhost/RPC2", transport=_Transport(str(path))
    ) as server:
        return getattr(server.supervisor, method)(*arguments)


class Supervisor:
    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def _call(self, method: str, *arguments: Any) -> Any:
        return call(self.folder.socket, method, *arguments)

    def is_running(self) -> bool:
        try:
            state: str = self._call("getState")["statename"]
        except _UNREACHABLE:
            return False
        return state == "RUNNING"

    def is_outdated(self) -> bool:
        """Whether its environment or configuration changed since it started."""
        sources = [self.folder.env_file, *CONFIGURATION.rglob("*.conf")]
        return source.newest(sources) > self.folder.pid_file.stat().st_mtime

    def start(self, environment: Environment) -> None:
        """Start supervisord, which starts the servers."""
        self.folder.make_run()
        self.folder.pid_file.unlink(missing_ok=True)
        variables = environment.of_programs() | {
            processes.MARK: "1",
            "SUPERVISOR_SOCKET": str(self.folder.socket),
            "RUN_DIR": str(self.folder.socket.parent),
            "WORKERS_DIR": str(self._link("workers", self.folder.workers)),
        }
        if "%" in variables["LOG_DIR"]:
            # supervisor expands a log's name twice; its programs take theirs as it is.
            variables["LOG_DIR"] = str(self._link("logs", self.folder.logs))
        configuration = self._link("configuration", CONFIGURATION)
        command = [sys.executable, "-m", "supervisor.supervisord"]
        command += ["--configuration", str(configuration / "embedded.conf")]
        if os.geteuid() == 0:
            command += ["--user", "root"]  # said aloud, or it warns
        result = subprocess.run(
            command, env=variables, cwd=PROJECT, capture_output=True, text=True, close_fds=True
        )
        if result.returncode:
            reason = (result.stderr or result.stdout).strip().splitlines()
            raise ProgramError("supervisord", f"supervisord did not start: {' '.join(reason[:1])}")
        deadline = time.monotonic() + 10
        while not (self.is_running() and self.folder.pid_file.exists()):
            if time.monotonic() > deadline:
                raise ProgramError("supervisord", "supervisord did not answer within 10 s")
            time.sleep(0.05)

    def _link(self, name: str, folder: Path) -> Path:
        """A link to it, as supervisor takes its folders' names for patterns."""
        link = self.folder.socket.with_name(name)
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        return link

    def stop(self) -> bool:
        """Stop supervisord and all it runs, worker before servers; False when nothing ran."""
        ran = False
        if self.is_running():
            ran = True
            pid = self._call("getPID")
            with suppress(*_UNREACHABLE):
                self._call("shutdown")
            deadline = time.monotonic() + STOP_SECONDS
            while processes.alive(pid) and time.monotonic() < deadline:
                time.sleep(0.05)
        # What a supervisord that was killed left behind, and who outlived the grace.
        ran = bool(processes.stop(self.folder.path)) or ran
        self.folder.remove_run()
        self.folder.pid_file.unlink(missing_ok=True)
        self.folder.aws_ready.unlink(missing_ok=True)
        return ran

    def states(self) -> dict[str, dict[str, Any]]:
        """Each program's name with supervisor's facts about it; empty when nothing runs."""
        try:
            return {facts["name"]: facts for facts in self._call("getAllProcessInfo")}
        except _UNREACHABLE:
            return {}

    def start_programs(self) -> None:
        """Start what does not run, and start again what runs older code than is there now."""
        code = source.changed_at()
        for name, facts in self.states().items():
            if name != WATCHDOG and base_name(name) not in PROGRAMS:
                continue
            state = facts["statename"]
            if state in ("STARTING", "RUNNING") and facts["start"] < code:
                self._call("stopProcess", name)
                state = "STOPPED"
            if state in ("STOPPED", "EXITED", "FATAL"):
                with suppress(xmlrpc.client.Fault):  # seen by `check`
                    self._call("startProcess", name, False)

    def check(self) -> None:
        """Raise when a program has given up."""
        states = self.states()
        if not states:
            raise ProgramError("supervisord", "supervisord ended")
        for name, facts in states.items():
            if facts["statename"] == "FATAL":
                raise ProgramError(name, f"{name} does not stay up: {facts['description']}")


def base_name(program: str) -> str:
    """`worker` of `worker-2`, which does the same."""
    return re.sub(r"-\d+$", "", program)


def log_names(folder: Folder) -> list[str]:
    workers = sorted(file.stem for file in folder.logs.glob("worker-*.log"))
    return [*PROGRAMS, *workers, *SERVERS, WATCHDOG, "supervisord", "setup"]
