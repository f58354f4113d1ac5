"""Our programs on a host: their release, the database's tables, their units, and that they run."""

import http.client
import re
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.ops import shell
from deploy.ops.deployment import PROGRAMS, PROJECT, State
from deploy.ops.errors import OpsError
from deploy.ops.host import Host
from deploy.ops.installing.steps import File, Step
from deploy.ops.releases import Releases

UNITS = Path("/etc/systemd/system")
UNIT_TYPES = {".service", ".socket", ".target", ".slice", ".timer", ".path"}
#: What holds for all services of ours.
SHARED = Path("marketplace-.service.d", "common.conf")
SUPERVISOR = UNITS / "marketplace-supervisor.service"
#: What supervisor runs, where that is not all.
SUPERVISED = UNITS / "marketplace-supervisor.service.d" / "programs.conf"
DEFAULT_BIND = ("127.0.0.1", 8000)
WRAPPER = Path("/usr/local/bin/flash-promos")
#: Seconds that all programs have to become healthy.
HEALTHY_SECONDS = 180


def wrapper() -> File:
    """`flash-promos status` on this host."""
    return File(WRAPPER, Path(__file__).with_name("flash-promos").read_text("utf-8"), 0o755)


class CurrentRelease(Step):
    """The first release of this host; those after it come by scripts/upgrade."""

    releases = Releases()

    def describe(self) -> str:
        release = self.releases.of(PROJECT)
        return f"make the release {release.name} in {self.releases.folder} and turn to it"

    def is_done(self) -> bool:
        current = self.releases.current()
        return bool(current and (current.path == PROJECT or current == self.releases.of(PROJECT)))

    def do(self) -> None:
        self.releases.folder.mkdir(parents=True, exist_ok=True)
        self.releases.switch(self.releases.make(PROJECT))


@dataclass(frozen=True)
class Migrated(Step):
    """The database has the tables of the current release."""

    host: Host
    #: Whether this host is the one that migrates.
    may_migrate: bool

    def describe(self) -> str:
        return "migrate the database" if self.may_migrate else "see that the database is migrated"

    def is_done(self) -> bool:
        if Releases().current() is None or not self.host.settings_file.path.exists():
            return False
        check = self.host.application("python", "manage.py", "migrate", "--check")
        return shell.try_run(check, env=self.host.environment(), timeout=120).returncode == 0

    def do(self) -> None:
        if self.may_migrate:
            self.host.manage("migrate", "--noinput", timeout=24 * 3600)
            return
        # What is wrong with the settings or the way to the database, in its own words.
        self.host.manage("check", "--database", "default")
        raise OpsError(
            "the database lacks migrations of this release: bring the first host to this release "
            "before its workers (scripts/upgrade there)"
        )


class Units(Step):
    """The units of this way, and what they share, as the release has them."""

    def __init__(
        self,
        way: str,
        web: tuple[str, int],
        release: Path = PROJECT,
        files: tuple[File, ...] = (),
    ) -> None:
        """`files`: what this host has besides."""
        systemd, supervisor = release / "deploy" / "systemd", release / "deploy" / "supervisor"
        if way == "systemd":
            sources = [path for path in systemd.iterdir() if path.suffix in UNIT_TYPES]
        else:
            sources = [*supervisor.glob("*.service"), *supervisor.glob("*.service.d/*.conf")]
        more = (*files, *(listen(web) if way == "systemd" else ()))
        sources.append(systemd / SHARED)
        self.files = [*(self._file(path.parent, path.name) for path in sorted(sources)), *more]

    @staticmethod
    def _file(folder: Path, name: str) -> File:
        into = UNITS / folder.name if folder.suffix == ".d" else UNITS
        return File(into / name, (folder / name).read_text(encoding="utf-8"))

    def describe(self) -> str:
        return f"write {len(self.files)} files of units to {UNITS}"

    def is_done(self) -> bool:
        return all(file.is_done() for file in self.files)

    def do(self) -> None:
        for file in self.files:
            file.path.parent.mkdir(exist_ok=True)
            file.do()
        shell.run(["systemctl", "daemon-reload"])


def listen(web: tuple[str, int]) -> tuple[File, ...]:
    """systemd's socket where WEB_BIND says; the web itself does not open it."""
    address, port = web
    host = f"[{address}]" if ":" in address else address
    text = f"[Socket]\nListenStream=\nListenStream={host}:{port}\n"
    path = UNITS / "marketplace-web.socket.d" / "bind.conf"
    return (File(path, text),) if web != DEFAULT_BIND else ()


def supervised(programs: tuple[str, ...], queues: str) -> tuple[File, ...]:
    """What supervisor runs, and its worker's queues, where that is not all."""
    if programs == PROGRAMS and not queues:
        return ()
    lines = [f'Environment="PROGRAMS={" ".join(programs)}"']
    if queues:
        lines.append(f"Environment=WORKER_QUEUES={queues.replace(':', ',')}")
    return (File(SUPERVISED, "\n".join(("[Service]", *lines, ""))),)


def supervised_here() -> tuple[tuple[str, ...], str]:
    """The programs and queues that `supervised` wrote."""
    text = SUPERVISED.read_text(encoding="utf-8") if SUPERVISED.exists() else ""
    programs, queues = re.search(r"PROGRAMS=([a-z ]+)", text), re.search(r"QUEUES=(\S+)", text)
    return tuple(programs[1].split()) if programs else PROGRAMS, queues[1] if queues else ""


@dataclass(frozen=True)
class Enabled(Step):
    """They start with the host."""

    units: tuple[str, ...]

    def describe(self) -> str:
        return f"let the host start {' '.join(self.units)}"

    def is_done(self) -> bool:
        states = shell.try_run(["systemctl", "is-enabled", *self.units]).stdout.split()
        return states == ["enabled"] * len(self.units)

    def do(self) -> None:
        shell.run(["systemctl", "enable", "--quiet", *self.units])


@dataclass(frozen=True)
class Started(Step):
    units: tuple[str, ...]

    def describe(self) -> str:
        return f"start {' '.join(self.units)}"

    def is_done(self) -> bool:
        states = shell.try_run(["systemctl", "is-active", *self.units]).stdout.split()
        return set(states) <= {"active", "activating", "reloading"}

    def do(self) -> None:
        # One that failed too often is given another chance.
        shell.try_run(["systemctl", "reset-failed", *self.units])
        # Whether they come up is for the next step to see, which says more when they do not.
        shell.run(["systemctl", "start", "--no-block", *self.units])


@dataclass(frozen=True)
class Healthy(Step):
    host: Host
    #: The services that should run here.
    names: tuple[str, ...]
    web: tuple[str, int]

    def describe(self) -> str:
        return f"wait until {', '.join(self.names)} are healthy"

    def is_done(self) -> bool:
        return not self._fault()

    def do(self) -> None:
        end = time.monotonic() + HEALTHY_SECONDS
        while fault := self._fault():
            if time.monotonic() > end:
                raise OpsError(
                    f"{fault}, after {HEALTHY_SECONDS} s: flash-promos logs and flash-promos "
                    "doctor say more; run this again when it is mended"
                )
            time.sleep(0.5)

    def _fault(self) -> str:
        """What is not as it should be; empty when all is well."""
        try:
            services = self.host.services()
        except OpsError as error:
            return str(error)
        for name in self.names:
            states = [service.state for service in services if service.name == name]
            if not states or set(states) != {State.RUNNING}:
                return f"{name} is {', '.join(states) or 'not there'}"
        return readiness_fault(self.web) if "web" in self.names else ""


def readiness_fault(web: tuple[str, int]) -> str:
    """Why /readyz does not answer 200; empty when it does."""
    address = "127.0.0.1" if web[0] in ("0.0.0.0", "::", "") else web[0]  # noqa: S104
    connection = http.client.HTTPConnection(address, web[1], timeout=10)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(500).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"the web does not answer at {address}:{web[1]}: {error}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"the web is not ready: {body}"
