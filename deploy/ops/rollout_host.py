"""Releases on a bare host: folders under /opt/flash-promos/releases."""

import sys
from pathlib import Path

from deploy.ops import cli, shell
from deploy.ops.deployment import PROGRAMS, PROJECT
from deploy.ops.errors import OpsError
from deploy.ops.host import HOME, Host, require_root
from deploy.ops.releases import Releases
from deploy.ops.rollout import KEPT, Rollout


class HostRollout(Rollout):
    deployment: Host

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

    def compare(self, release: str, contract: str) -> str:
        command = self._of(release, "python", "-m", "deploy.contract", "compare")
        environment = self.deployment.environment()
        done = shell.try_run(command, env=environment, input=contract, timeout=120)
        if done.returncode:
            raise OpsError(f"{release} may not follow what runs:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def require(self, release: str) -> None:
        self.releases.get(release)

    def put(self, release: str) -> None:
        if release != self.running():
            self._migrate(release)
            self.releases.switch(self.releases.get(release))
        for service in self.deployment.services():
            if service.name in PROGRAMS and service.version != release:
                cli.say(f"Restarting {service.instance}")
                self.deployment.control("restart", service.instance)

    def _migrate(self, release: str) -> None:
        cli.say("Migrating the database")
        command = self._of(release, "python", "manage.py", "migrate", "--noinput")
        sys.stdout.flush()
        shell.stream(command, env=self.deployment.environment())

    def prune(self) -> None:
        self.releases.prune(KEPT)

    def _of(self, release: str, *command: str) -> list[str]:
        """As `application`, with the code of a release that is not the current one."""
        folder = str(self.releases.get(release).path)
        here = str(self.releases.link)
        return [word.replace(here, folder) for word in self.deployment.application(*command)]
