"""Releases of the embedded way: commits of this clone, of which the checked-out one runs next."""

import os
import sys

from deploy.ops import shell
from deploy.ops.deployment import PROJECT, Service
from deploy.ops.embedded import Embedded
from deploy.ops.errors import OpsError, UsageError
from deploy.ops.rollout import Rollout

#: Of a release that holds changes which are in no commit.
CHANGED = "-changed"


class EmbeddedRollout(Rollout):
    deployment: Embedded
    ROOM = 1000

    def check(self) -> None:
        if not (PROJECT / ".git").exists():
            raise OpsError(
                f"{PROJECT} is no git clone, so there would be no way back; without one: "
                "scripts/quickstart"
            )
        self.require_room(self.deployment.data)

    def make(self, source: str | None) -> str:
        if source is not None:
            raise UsageError(
                "the embedded way runs what this clone holds and takes no RELEASE: "
                f"git checkout {source}, then scripts/upgrade"
            )
        ensure = 'source "$1"; ensure_venv base embedded'
        script = str(PROJECT / "scripts" / "lib" / "python.sh")
        shell.run(["bash", "-euo", "pipefail", "-c", ensure, "ensure-venv", script])
        return self._here()

    def running(self) -> str:
        """What was checked out when the programs started; a commit that scripts/upgrade went to
        is known by name."""
        started = [service.started_at for service in self._programs() if service.started_at]
        if not started:
            raise OpsError("nothing runs here: start it with scripts/quickstart")
        when = min(started).strftime("%Y-%m-%d %H:%M:%S +0000")
        return _git("rev-parse", "--short", f"HEAD@{{{when}}}")

    def _programs(self) -> list[Service]:
        return [service for service in self.deployment.services() if service.name == "web"]

    def contract(self) -> str:
        return shell.run(
            ["git", "-C", str(PROJECT), "show", f"{self.running()}:deploy/contract.json"]
        )

    def command(self, release: str, *command: str) -> tuple[list[str], dict[str, str]]:
        return self.deployment.application(*command), self.deployment.environment()

    def require(self, release: str) -> None:
        if shell.try_run(["git", "-C", str(PROJECT), "cat-file", "-e", release]).returncode:
            raise OpsError(f"{PROJECT} has no commit {release} any more")
        self._require_clean(release)

    def put(self, release: str) -> None:
        """scripts/quickstart migrates, and starts anew what runs older code."""
        if release != self._here():
            self._require_clean(release)
            _git("checkout", "--quiet", "--detach", release)
        environment = os.environ | {"EMBEDDED_DIR": str(self.deployment.folder.path)}
        sys.stdout.flush()
        shell.stream([str(PROJECT / "scripts" / "quickstart")], env=environment)

    def _here(self) -> str:
        changed = CHANGED if _changes() else ""
        return _git("rev-parse", "--short", "HEAD") + changed

    def _require_clean(self, release: str) -> None:
        if _changes():
            raise OpsError(
                f"{PROJECT} holds changes that are in no commit, so {release} is not checked out "
                "over them: commit or stash them"
            )


def _changes() -> bool:
    return bool(_git("status", "--porcelain", "--untracked-files=no"))


def _git(*arguments: str) -> str:
    return shell.run(["git", "-C", str(PROJECT), *arguments]).strip()
