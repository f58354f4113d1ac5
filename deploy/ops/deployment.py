"""What a command may ask of a deployment, and which one runs here."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.ops import shell
from deploy.ops.errors import NotRunning, OpsError, UsageError
from deploy.ops.settings_file import SettingsFile

if TYPE_CHECKING:
    from deploy.ops.redis import Redis

PROJECT = Path(__file__).resolve().parents[2]
#: The programs that are ours, in the order in which they start.
PROGRAMS = ("web", "worker", "beat", "flower")


class State(StrEnum):
    RUNNING = "running"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Service:
    """One process of a service: a container, a unit, a program of supervisor's."""

    #: web, worker, beat, flower; proxy, postgres, redis, localstack, aws or sandbox where it runs.
    name: str
    #: What its manager calls it: `flash-promos-web-1`, `marketplace-web.service`, `worker-2`.
    instance: str
    state: State
    #: What runs: the release of our programs, the server's own version otherwise; "" unknown.
    version: str = ""
    started_at: datetime | None = None
    #: Bytes; None when unknown or unlimited.
    memory: int | None = None
    memory_limit: int | None = None
    #: A worker's node ends in `@host`; its process there, None where it has the host for itself.
    host: str = ""
    pid: int | None = None

    @property
    def is_running(self) -> bool:
        return self.state not in (State.STOPPED, State.FAILED)


class Deployment(ABC):
    #: compose, systemd, supervisor or embedded.
    way: str
    #: Whether somebody depends on it: then it has backups.
    is_production: bool

    # --- What it is ---

    @abstractmethod
    def describe(self) -> str:
        """One line for people: `Compose project flash-promos in /srv/promos`."""

    @property
    @abstractmethod
    def settings_file(self) -> SettingsFile:
        """Its variables; the file may be missing under Compose in development."""

    @property
    @abstractmethod
    def data(self) -> Path:
        """The folder for what the commands keep: backups, copies of purged messages."""

    @abstractmethod
    def folders(self) -> list[Path]:
        """Where data and logs lie, whose disks must not fill."""

    @abstractmethod
    def services(self) -> list[Service]:
        """All that should run here, also what does not."""

    def running(self, name: str) -> list[Service]:
        return [
            service for service in self.services() if service.name == name and service.is_running
        ]

    # --- Commands inside it ---

    @abstractmethod
    def application(self, *command: str, interactive: bool = False) -> list[str]:
        """The command line that runs `python …` or `celery …` with the application's code and
        variables; it works while the programs are stopped."""

    @abstractmethod
    def environment(self) -> dict[str, str] | None:
        """The environment for the command lines of this class; None: the shell's."""

    def manage(self, *arguments: str, input: str | None = None, timeout: float = 120) -> str:
        """What `manage.py` prints; an OpsError with its last words."""
        command = self.application("python", "manage.py", *arguments)
        done = shell.try_run(command, env=self.environment(), input=input, timeout=timeout)
        if done.returncode:
            raise manage_error(arguments, done)
        return done.stdout

    def become_manage(self, *arguments: str) -> None:
        """Be `manage.py` from now on, with this terminal."""
        command = self.application("python", "manage.py", *arguments, interactive=True)
        shell.become(command, self.environment())

    @abstractmethod
    def postgres(self, *command: str) -> list[str]:
        """The command line of a client tool (`pg_dump`, `psql`, …) beside the database, connected
        to it; standard input and output are free."""

    @abstractmethod
    def postgres_environment(self) -> dict[str, str] | None:
        """The environment for `postgres`."""

    def postgres_admin(self, *command: str) -> tuple[list[str], dict[str, str] | None] | None:
        """The same with its environment, as a role that may make and rename databases, and not
        connected yet; None: there is no such role's way in from here."""
        return None

    def redis(self) -> "Redis | None":
        """Its Redis, to one who may do everything; None: there is no way to be it from here."""
        return None

    def keep_database_password(self, verifier: str) -> None:
        """See to it that the application's new password outlives the server's next start, where
        the server sets it at each."""
        return

    @abstractmethod
    def log_command(
        self, service: Service, *, lines: int | None, follow: bool, since: datetime | None = None
    ) -> list[str]:
        """The command line that prints a service's log: its last lines, None for all there are;
        where the log is a file, `since` is left to the caller."""

    # --- Changes ---

    @abstractmethod
    def start(self, name: str) -> None:
        """Start all processes of this service that should run, and wait until they are up."""

    @abstractmethod
    def stop(self, name: str) -> None:
        """Stop all processes of this service; a worker finishes its tasks first."""

    @abstractmethod
    def restart(self, name: str) -> None:
        """With new settings and code; one after the other where that keeps it going."""

    def restart_each(self, names: Sequence[str]) -> None:
        """One service after the other."""
        for name in names:
            self.restart(name)

    @abstractmethod
    def stop_instance(self, service: Service) -> None:
        """Stop this one process, as `stop` does."""

    @abstractmethod
    def scale_workers(self, count: int) -> None:
        """Run this many workers on this host from now on, also after a reboot."""


def manage_error(arguments: tuple[str, ...], done: shell.Done) -> OpsError:
    """What a failed `manage.py` says of it, in its one line where it has one."""
    last = done.stderr.strip().rpartition("\n")[2]
    if found := re.fullmatch(r"(?:Command|Usage)Error: (.+)", last):
        return (UsageError if done.returncode == 2 else OpsError)(found[1])
    return OpsError(shell.failure(["manage.py", *arguments], done))


def find(way: str | None = None) -> Deployment:
    """The deployment that runs here; `way` says which when several do."""
    from deploy.ops.compose import Compose
    from deploy.ops.embedded import Embedded
    from deploy.ops.host import Supervisor, Systemd

    kinds: dict[str, Any] = {
        "compose": Compose,
        "systemd": Systemd,
        "supervisor": Supervisor,
        "embedded": Embedded,
    }
    if way:
        found: Deployment | None = kinds[way].find()
        if found is None:
            raise NotRunning(f"--on {way}: {kinds[way].MISSING}")
        return found
    here: list[Deployment] = [found for kind in kinds.values() if (found := kind.find())]
    if not here:
        reasons = "\n".join(f"  {name:<11}{kind.MISSING}" for name, kind in kinds.items())
        raise NotRunning(f"no deployment was found here:\n{reasons}")
    if len(here) > 1:
        names = " and ".join(found.way for found in here)
        raise UsageError(f"{names} are both here: say which by --on")
    return here[0]
