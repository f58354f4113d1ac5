"""Putting one release in the place of another: what upgrade and rollback have in common."""

import argparse
import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from deploy.ops import cli, health, shell
from deploy.ops.deployment import PROJECT, Deployment
from deploy.ops.errors import OpsError

#: Releases that can be gone back to, the one that runs among them.
KEPT = 5


@dataclass(frozen=True)
class History:
    """The names of the releases that ran, the oldest first, the one that runs last."""

    path: Path

    def read(self) -> list[str]:
        try:
            names: list[str] = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise OpsError(f"{self.path} cannot be read: {error}") from error
        return names

    def write(self, names: list[str]) -> None:
        unfinished = self.path.with_suffix(".unfinished")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(self.path)
        except OSError as error:
            raise OpsError(f"{self.path} cannot be written: {error.strerror}") from error

    def went_to(self, release: str, *, before: str) -> list[str]:
        """`release` runs now, and `before` did: a step on, or back to one of those before it.
        Those that it forgets."""
        names = self.read()
        if before not in names:
            names.append(before)
        if release in names:
            names = names[: names.index(release)]
        names.append(release)
        self.write(names[-KEPT:])
        return names[:-KEPT]


class Rollout(ABC):
    """How releases come and go in one of the four ways. A release has a name."""

    #: Megabytes that a new release takes at most.
    ROOM = 2000

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.history = History(deployment.data / "releases.json")

    @abstractmethod
    def check(self) -> None:
        """Raise when nothing can be changed here at all."""

    @abstractmethod
    def make(self, source: str | None) -> str:
        """The release of what the command was given, made when it is not there."""

    @abstractmethod
    def running(self) -> str:
        """The release that runs."""

    @abstractmethod
    def contract(self) -> str:
        """deploy/contract.json of the one that runs."""

    @abstractmethod
    def command(self, release: str, *command: str) -> tuple[list[str], dict[str, str]]:
        """The line that runs a command with the code of this release, and its environment."""

    @abstractmethod
    def require(self, release: str) -> None:
        """Raise unless it is there to go back to."""

    @abstractmethod
    def put(self, release: str) -> None:
        """Migrate, and restart what runs another one, without an interruption where it can be.
        Run again it goes on where it ended."""

    def compare(self, release: str, contract: str) -> str:
        """What `deploy.contract compare` of this release says; an OpsError with what it breaks."""
        line, environment = self.command(release, "python", "-m", "deploy.contract", "compare")
        done = shell.try_run(line, env=environment, cwd=PROJECT, input=contract, timeout=180)
        if done.returncode:
            raise OpsError(f"{release} may not follow what runs:\n{done.stderr.strip()}")
        return done.stdout.strip()

    def source(self, release: str) -> Path:
        """The folder that has its files."""
        return PROJECT

    def forget(self, releases: list[str]) -> None:  # noqa: B027  where nothing piles up
        """Remove those that nobody goes back to any more."""

    def require_room(self, folder: Path) -> None:
        free = shutil.disk_usage(folder).free // 1_000_000
        if free < self.ROOM:
            raise OpsError(
                f"the disk is too full: a release needs {self.ROOM} MB under {folder}, "
                f"{free} MB are free"
            )


def of(deployment: Deployment) -> Rollout:
    from deploy.ops.rollout_compose import ComposeRollout
    from deploy.ops.rollout_embedded import EmbeddedRollout
    from deploy.ops.rollout_host import HostRollout

    kinds = {"compose": ComposeRollout, "embedded": EmbeddedRollout}
    made: Rollout = kinds.get(deployment.way, HostRollout)(deployment)  # type: ignore[arg-type]
    return made


def add_watch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=float,
        default=health.SETTLE,
        help=f"for which everything has to stay healthy afterwards ({health.SETTLE})",
    )


def go(rollout: Rollout, release: str, *, before: str, watch: float) -> None:
    """To `release`, or back to `before` when it does not become healthy and stay so for `watch`
    seconds."""
    try:
        cli.say(f"{before} -> {release}")
        _allow(rollout, release)
        rollout.put(release)
        with cli.step("Seeing that it stays healthy"):
            health.settle(rollout.deployment, seconds=watch)
    except (OpsError, KeyboardInterrupt) as error:
        reason = str(error) or "interrupted"
        cli.warn(f"{release} did not take over, going back to {before}: {reason}")
        _go_back(rollout, before, reason, watch)
    rollout.forget(rollout.history.went_to(release, before=before))


def _allow(rollout: Rollout, release: str) -> None:
    """The Redis that runs takes the commands that the release gives, before it gives them."""
    rules = rollout.source(release) / "compose" / "redis" / "application.rules"
    settings = rollout.deployment.settings_file
    user = (settings.read() if settings.path.exists() else {}).get("REDIS_USER") or "marketplace"
    if redis := rollout.deployment.redis():
        redis.allow(user, rules.read_text(encoding="utf-8"))


def _go_back(rollout: Rollout, before: str, reason: str, watch: float) -> None:
    first = reason.splitlines()[-1]
    try:
        rollout.put(before)
        with cli.step(f"Seeing that {before} is healthy"):
            health.settle(rollout.deployment, seconds=watch)
    except OpsError as worse:
        raise OpsError(f"{first}; and {before} did not come back: {worse}") from worse
    raise OpsError(f"{before} runs again: {first}")
