"""A deployment that `scripts/doctor` examines: what it found, and the commands that help here."""

import json
import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from deploy.embedded.supervisor import SERVERS
from deploy.ops import probe, shell
from deploy.ops.compose import Compose
from deploy.ops.deployment import PROJECT, Deployment, Service, State
from deploy.ops.errors import OpsError
from deploy.ops.host import CURRENT, RUN

T = TypeVar("T")
#: Seconds for the probe and for manage.py, both with a container to be made for them.
TIMEOUT = 90


class Severity(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    severity: Severity
    #: What was seen, in one line.
    seen: str
    #: A command that helps on this deployment, or what to do.
    helps: str = ""


def ok(seen: str) -> Finding:
    return Finding(Severity.OK, seen)


def warning(seen: str, helps: str = "") -> Finding:
    return Finding(Severity.WARNING, seen, helps)


def error(seen: str, helps: str = "") -> Finding:
    return Finding(Severity.ERROR, seen, helps)


class Examined:
    """Each fact is asked for once, when the first check needs it, also when that fails."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._failed: set[str] = set()

    def _once(self, name: str, ask: Callable[[], T]) -> T:
        if name in self._failed:
            raise OpsError("for the same reason as above")
        try:
            return ask()
        except OpsError:
            self._failed.add(name)
            raise

    @cached_property
    def services(self) -> list[Service]:
        return self._once("services", self.deployment.services)

    @cached_property
    def settings(self) -> dict[str, str]:
        """The environment file's; under Compose in development there may be none."""
        file = self.deployment.settings_file
        return self._once("settings", file.read) if file.path.exists() else {}

    @cached_property
    def probe(self) -> dict[str, Any]:
        """What deploy/ops/probe.py saw, and `skew`: seconds that its clock is off this host's."""
        return self._once("probe", self._run_probe)

    def _run_probe(self) -> dict[str, Any]:
        text = Path(probe.__file__).read_text(encoding="utf-8")
        command = self.deployment.application("python", "-")
        before = time.time()
        done = shell.try_run(
            command, env=self.deployment.environment(), input=text, timeout=TIMEOUT
        )
        after = time.time()
        if done.returncode:
            raise OpsError(last_words(done))
        seen: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
        seen["skew"] = max(0.0, seen["at"] - after) or min(0.0, seen["at"] - before)
        return seen

    @cached_property
    def state(self) -> dict[str, Any]:
        """`manage.py system_state`."""
        return self._once("state", self._read_state)

    def _read_state(self) -> dict[str, Any]:
        command = self.deployment.application("python", "manage.py", "system_state")
        done = shell.try_run(command, env=self.deployment.environment(), timeout=TIMEOUT)
        if done.returncode:
            raise OpsError(last_words(done))
        read: dict[str, Any] = json.loads(done.stdout)
        return read

    def part(self, name: str, source: str) -> Any:
        """A part of the state; an OpsError when its source did not answer."""
        if name not in self.state:
            raise OpsError(self.state["errors"].get(source, f"{source} did not answer"))
        return self.state[name]

    # --- What runs ---

    def instances(self, name: str) -> list[Service]:
        return [service for service in self.services if service.name == name]

    def runs(self, name: str) -> bool:
        stopped = (State.STOPPED, State.FAILED)
        return any(service.state not in stopped for service in self.instances(name))

    # --- What helps ---

    def command(self, action: str, name: str) -> str:
        """That starts or restarts a service, as one types it on this deployment."""
        deployment = self.deployment
        if name == "worker" and action == "start" and deployment.way != "embedded":
            # Where there were several, there are again.
            return f"scripts/scale worker {max(1, len(self.instances(name)))}"
        if isinstance(deployment, Compose):
            verb = "up --detach --wait" if action == "start" else "restart"
            return f"{self.compose} {verb} {name}"
        if deployment.way == "embedded":
            # Servers are started with supervisor alone.
            anew = "scripts/quickstart stop && " if name in SERVERS else ""
            return f"{anew}scripts/quickstart"
        server = {"postgres": "postgresql", "redis": "redis-server"}.get(name)
        if server or deployment.way == "systemd":
            units = [server] if server else [one.instance for one in self.instances(name)]
            return f"sudo systemctl {action} {' '.join(units) or f'marketplace-{name}.service'}"
        control = f"{CURRENT}/.venv/bin/supervisorctl -s unix://{RUN}/supervisor.sock"
        return f"sudo {control} {action} {name}"

    def start(self, name: str) -> str:
        return self.command("start", name)

    def restart(self, name: str) -> str:
        return self.command("restart", name)

    def apply_settings(self) -> str:
        """The command after which all programs run with the settings as they are now."""
        if self.deployment.way == "compose":
            return f"{self.compose} up --detach --wait"
        if self.deployment.way == "embedded":
            return "scripts/quickstart"
        if self.deployment.way == "systemd":
            return "sudo systemctl restart 'marketplace-*'"
        return "sudo systemctl restart marketplace-supervisor"

    @cached_property
    def compose(self) -> str:
        """`docker compose`, with what it takes to mean this project."""
        deployment = self.deployment
        if not isinstance(deployment, Compose):
            return ""
        words = ["docker", "compose"]
        files = [_short(Path(file)) for file in deployment.files.split(":") if file]
        if ":".join(files) != self.settings.get("COMPOSE_FILE", "docker-compose.yml"):
            words += [word for file in files for word in ("-f", file)]
        usual = "flash-promos-production" if deployment.is_production else "flash-promos"
        if deployment.project != self.settings.get("COMPOSE_PROJECT_NAME", usual):
            words += ["--project-name", deployment.project]
        return shlex.join(words)

    @property
    def manage(self) -> str:
        """The start of a command line that runs manage.py."""
        way = self.deployment.way
        if way == "compose":
            return f"{self.compose} run --rm migrate python manage.py"
        if way == "embedded":
            return "scripts/quickstart run python manage.py"
        run = f"sudo -u flash-promos env ENV_FILE={self.deployment.settings_file.path}"
        return f"{run} {CURRENT}/.venv/bin/python {CURRENT}/manage.py"


def _short(file: Path) -> str:
    return str(file.relative_to(PROJECT)) if file.is_relative_to(PROJECT) else str(file)


def last_words(done: shell.Done) -> str:
    """The line of a failure that says most: an exception's, without the way to it."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if not lines:
        return f"exit code {done.returncode}"
    return re.sub(r"^(error|[\w.]*\.\w+|\w+Error): ", "", lines[-1])
