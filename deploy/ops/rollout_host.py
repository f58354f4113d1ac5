"""Releases on a bare host: folders under /opt/flash-promos/releases."""

from pathlib import Path

from deploy.ops import cli, shell
from deploy.ops.deployment import PROGRAMS, PROJECT, Service
from deploy.ops.errors import OpsError
from deploy.ops.host import HOME, Host, require_root
from deploy.ops.installing.programs import Units
from deploy.ops.installing.settings import Settings
from deploy.ops.releases import Releases
from deploy.ops.rollout import KEPT, Rollout

#: Ends with an error when the web would not start.
CHECK = [
    "python",
    "-m",
    "gunicorn",
    "--check-config",
    "--config",
    "deploy/gunicorn.conf.py",
    "marketplace.asgi",
]


class HostRollout(Rollout):
    deployment: Host
    ROOM = 1000

    def __init__(self, deployment: Host) -> None:
        super().__init__(deployment)
        self.releases = Releases()

    def check(self) -> None:
        require_root()
        self.require_room(HOME)

    def make(self, source: str | None) -> str:
        folder = Path(source).absolute() if source else PROJECT
        if folder.parent == self.releases.folder:
            return self.releases.get(folder.name).name
        with cli.step(f"Making {self.releases.of(folder).name} of {folder}"):
            return self.releases.make(folder).name

    def running(self) -> str:
        current = self.releases.current()
        if current is None:
            raise OpsError(f"{self.releases.link} is not there: scripts/install-host")
        return current.name

    def contract(self) -> str:
        return (self.releases.link / "deploy" / "contract.json").read_text(encoding="utf-8")

    def command(self, release: str, *command: str) -> tuple[list[str], dict[str, str]]:
        folder = str(self.releases.get(release).path)
        here = str(self.releases.link)
        line = [word.replace(here, folder) for word in self.deployment.application(*command)]
        return line, self.deployment.environment()

    def require(self, release: str) -> None:
        self.releases.get(release)

    def put(self, release: str) -> None:
        made = self.releases.get(release)
        if release != self.running():
            with cli.step("Seeing whether it starts"):
                self._run(release, *CHECK)
            with cli.step("Migrating the database"):
                self._run(release, "python", "manage.py", "migrate", "--noinput")
            self.releases.switch(made)
        units = Units(self.deployment.way, Settings(self.deployment.settings_file).web, made.path)
        if not units.is_done():
            units.do()
        for service in self.deployment.services():
            if service.name in PROGRAMS and service.version != release:
                with cli.step(f"Restarting {service.instance}"):
                    self._restart(service)

    def _run(self, release: str, *command: str) -> None:
        line, environment = self.command(release, *command)
        shell.run(line, env=environment)

    def _restart(self, service: Service) -> None:
        """The web's clients notice nothing: its socket is systemd's, and supervisor's web starts
        new processes before the old ones go. A worker finishes its tasks first."""
        if self.deployment.way == "systemd":
            shell.run(["systemctl", "restart", service.instance])
        else:
            self.deployment.control("restart", service.instance)

    def source(self, release: str) -> Path:
        return self.releases.get(release).path

    def forget(self, releases: list[str]) -> None:
        self.releases.prune(KEPT)
