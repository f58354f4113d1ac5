"""The embedded way: what scripts/quickstart runs in `var/embedded`."""

import os
from pathlib import Path

from deploy.embedded.environment import Environment
from deploy.embedded.folder import PROJECT, Folder
from deploy.embedded.supervisor import PROGRAMS, SERVERS, base_name
from deploy.embedded.supervisor import Supervisor as Supervisord
from deploy.ops.deployment import Deployment, Service, State
from deploy.ops.errors import NotRunning
from deploy.ops.host import service_of, supervised, supervisor_scale
from deploy.ops.settings_file import SettingsFile


class Embedded(Deployment):
    way = "embedded"
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

    def services(self) -> list[Service]:
        states = self.supervisor.states()
        order = [*SERVERS, *PROGRAMS]
        if not states:
            return [Service(name, name, State.STOPPED) for name in order]
        found = [service_of(facts) for name, facts in states.items() if base_name(name) in order]
        return sorted(found, key=lambda item: (order.index(item.name), item.instance))

    def environment(self) -> dict[str, str]:
        variables = Environment.load(self.folder, shell={}).of_programs()
        return variables | {"PYTHONPATH": str(PROJECT)}

    def application(self, *command: str, interactive: bool = False) -> list[str]:
        return ["env", "--chdir", str(PROJECT), *command]

    def postgres(self, *command: str) -> list[str]:
        from deploy.embedded.servers import Postgres

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

    def log_command(self, service: Service, *, lines: int, follow: bool) -> list[str]:
        more = ["-F"] if follow else []
        return ["tail", "-n", str(lines), *more, str(self.folder.log(service.instance))]

    def start(self, name: str) -> None:
        self._require_supervisor()
        for program in self._programs(name):
            supervised(self._call, "startProcess", program)

    def stop(self, name: str) -> None:
        self._require_supervisor()
        for program in self._programs(name):
            supervised(self._call, "stopProcess", program)

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def stop_instance(self, service: Service) -> None:
        supervised(self._call, "stopProcess", service.instance)

    def scale_workers(self, count: int) -> None:
        self._require_supervisor()
        supervisor_scale(
            self._call, PROJECT / "deploy" / "supervisor", self.folder.path / "workers", count
        )

    def _programs(self, name: str) -> list[str]:
        return sorted(found for found in self.supervisor.states() if base_name(found) == name)

    def _call(self, method: str, *arguments: object) -> object:
        return self.supervisor._call(method, *arguments)

    def _require_supervisor(self) -> None:
        if not self.supervisor.is_running():
            raise NotRunning("nothing runs here: start it with scripts/quickstart")
