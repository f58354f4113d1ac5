"""A bare host that scripts/install-host set up, under systemd or supervisor."""

import os
import pwd
import re
import socket
import time
import xmlrpc.client
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.embedded.supervisor import base_name, call
from deploy.ops import shell
from deploy.ops.deployment import PROGRAMS, Deployment, Service, State
from deploy.ops.errors import OpsError
from deploy.ops.redis import NetworkRedis, Redis
from deploy.ops.settings_file import SettingsFile
from deploy.ops.waiting import wait_until

USER = "flash-promos"
ETC = Path("/etc/flash-promos")
HOME = Path("/opt/flash-promos")
#: The release that runs; `releases/` beside it holds those before.
CURRENT = HOME / "current"
DATA = Path("/var/lib/flash-promos")
LOGS = Path("/var/log/flash-promos")
RUN = Path("/run/flash-promos")
#: Says `systemd` or `supervisor`.
MANAGER = ETC / "manager"
#: Logged in to Redis with it, one may do everything; there where install-host set Redis up.
REDIS_OPERATOR = ETC / "redis-operator"
#: One more worker for the same queues ends in a dot and a number.
WORKERS = "marketplace-worker@"


class Host(Deployment):
    is_production = True
    MISSING = f"this host was not set up by scripts/install-host ({MANAGER} is not there)"

    @classmethod
    def find(cls) -> "Host | None":
        try:
            manager = MANAGER.read_text().strip()
        except OSError:
            return None
        return cls() if manager == cls.way else None

    def describe(self) -> str:
        return f"{self.way} on this host, {CURRENT} -> {CURRENT.resolve().name}"

    @property
    def settings_file(self) -> SettingsFile:
        return SettingsFile(ETC / "env")

    @property
    def data(self) -> Path:
        return DATA

    def folders(self) -> list[Path]:
        return [DATA, LOGS]

    @property
    def release(self) -> str:
        return CURRENT.resolve().name

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{CURRENT}/.venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(DATA),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "TERM": os.environ.get("TERM", "dumb"),
            "ENV_FILE": str(ETC / "env"),
        }

    def application(self, *command: str, interactive: bool = False) -> list[str]:
        program = [str(CURRENT / ".venv" / "bin" / command[0]), *command[1:]]
        inside = ["env", "--chdir", str(CURRENT), *program]
        if os.geteuid() == 0:
            return ["setpriv", "--reuid", USER, "--regid", USER, "--init-groups", *inside]
        if os.geteuid() != pwd.getpwnam(USER).pw_uid:
            raise OpsError(f"only root and {USER} may run the application's commands: use sudo")
        return inside

    def postgres(self, *command: str) -> list[str]:
        return list(command)

    def postgres_environment(self) -> dict[str, str]:
        values = self.settings_file.read()
        return os.environ | {
            "PGHOST": values.get("POSTGRES_HOST") or "127.0.0.1",
            "PGPORT": values.get("POSTGRES_PORT") or "5432",
            "PGDATABASE": values.get("POSTGRES_DB") or "marketplace",
            "PGUSER": values.get("POSTGRES_USER") or "marketplace",
            "PGPASSWORD": self.settings_file.secret("POSTGRES_PASSWORD"),
        }

    def postgres_admin(self, *command: str) -> tuple[list[str], dict[str, str] | None] | None:
        """Root may be the superuser of a PostgreSQL on this host."""
        values = self.settings_file.read()
        is_here = values.get("POSTGRES_HOST", "") in ("", "127.0.0.1", "localhost", "::1")
        if os.geteuid() != 0 or not is_here or not _is_user("postgres"):
            return None
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        env["PGPORT"] = values.get("POSTGRES_PORT") or "5432"
        return [*_as_user("postgres"), "env", "--chdir", "/", *command], env

    def redis(self) -> NetworkRedis | None:
        try:
            password = REDIS_OPERATOR.read_text().strip()
        except OSError:
            return None
        values = self.settings_file.read()
        host, port = values.get("REDIS_HOST") or "127.0.0.1", values.get("REDIS_PORT") or "6379"
        return NetworkRedis(host, int(port), password, DistributionRedis())

    def start(self, name: str) -> None:
        for instance in self.instances(name):
            self.control("start", instance)

    def stop(self, name: str) -> None:
        for instance in self.instances(name):
            self.control("stop", instance)

    def restart(self, name: str) -> None:
        """One after the other; the web lets its clients go over to the new code."""
        for instance in self.instances(name):
            self.control("restart", instance)

    def stop_instance(self, service: Service) -> None:
        self.control("stop", service.instance)

    @abstractmethod
    def instances(self, name: str) -> list[str]:
        """What its manager calls this service's processes on this host."""

    @abstractmethod
    def control(self, action: str, instance: str) -> None:
        """start, stop or restart, and wait until it is done."""


class DistributionRedis:
    """The one that install-host set up on this host."""

    def start(self) -> None:
        require_root()
        shell.run(["systemctl", "start", "redis-server.service"])

    def stop(self) -> None:
        require_root()
        shell.run(["systemctl", "stop", "redis-server.service"])

    def check(self, file: Path) -> None:
        shell.run(["redis-check-rdb", str(file)])

    def keep_users(self, redis: Redis) -> None:
        redis.call("ACL", "SAVE")

    def enter(self) -> list[str]:
        return _as_user("redis")


def reload_web(pid: int, reload: Callable[[], object]) -> None:
    """Wait until the processes that answered before are gone; `pid` is that of their parent."""
    before = children(pid)
    reload()
    wait_until(lambda: not before & children(pid), seconds=120, what="the web's old processes left")


def children(pid: int) -> set[int]:
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return set()


def _as_user(name: str) -> list[str]:
    return ["setpriv", "--reuid", name, "--regid", name, "--init-groups", "--"]


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def require_root() -> None:
    if os.geteuid() != 0:
        raise OpsError("this changes the host's services: use sudo")


class Systemd(Host):
    way = "systemd"

    def instances(self, name: str) -> list[str]:
        """Those that start with the host or run now."""
        if name != "worker":
            return [f"marketplace-{name}.service"] if self._is_known(name) else []
        wants = Path("/etc/systemd/system/marketplace.target.wants").glob(f"{WORKERS}*.service")
        listed = shell.run(
            ["systemctl", "list-units", "--all", "--plain", "--no-legend", f"{WORKERS}*"]
        )
        loaded = {
            words[0]
            for line in listed.splitlines()
            if (words := line.split()) and words[2] in ("active", "activating", "failed")
        }
        return sorted({unit.name for unit in wants} | loaded)

    def _is_known(self, name: str) -> bool:
        unit = f"marketplace-{name}.service"
        return Path("/etc/systemd/system/marketplace.target.wants", unit).exists()

    def services(self) -> list[Service]:
        return [
            self._service(name, instance) for name in PROGRAMS for instance in self.instances(name)
        ]

    def _service(self, name: str, unit: str) -> Service:
        properties = (
            "ActiveState",
            "SubState",
            "MemoryCurrent",
            "MemoryMax",
            "MainPID",
            "ExecMainStartTimestamp",
        )
        shown = shell.run(
            ["systemctl", "show", unit, "--timestamp=unix", "--property", ",".join(properties)]
        )
        facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        state = {
            "active": State.RUNNING,
            "activating": State.FAILED if facts["SubState"] == "auto-restart" else State.STARTING,
            "reloading": State.RUNNING,
            "deactivating": State.RUNNING,
            "failed": State.FAILED,
        }.get(facts["ActiveState"], State.STOPPED)
        started = re.fullmatch(r"@(\d+)", facts.get("ExecMainStartTimestamp", ""))
        running = state not in (State.STOPPED, State.FAILED)
        return Service(
            name,
            unit,
            state,
            release_of(int(facts.get("MainPID") or 0)),
            datetime.fromtimestamp(int(started[1]), UTC) if started and running else None,
            _number(facts.get("MemoryCurrent")) if running else None,
            _number(facts.get("MemoryMax")),
            socket.gethostname(),
            int(facts.get("MainPID") or 0),
        )

    def log_command(
        self, service: Service, *, lines: int | None, follow: bool, since: datetime | None = None
    ) -> list[str]:
        more = ["--follow"] if follow else []
        more += [f"--lines={'all' if lines is None else lines}"]
        more += [f"--since=@{since.timestamp():.0f}"] if since else []
        return ["journalctl", "--no-pager", "--output=cat", *more, "--unit", service.instance]

    def control(self, action: str, instance: str) -> None:
        require_root()
        if action == "restart" and "-web." in instance and (pid := self._pid(instance)):
            reload_web(pid, lambda: shell.run(["systemctl", "reload", instance]))
            return
        # A web whose socket is open would be started by the next who connects.
        socket = ["marketplace-web.socket"] if action == "stop" and "-web." in instance else []
        shell.run(["systemctl", action, *socket, instance])

    def _pid(self, unit: str) -> int:
        """0 when it does not run."""
        return int(shell.run(["systemctl", "show", "--value", "--property", "MainPID", unit]))

    def scale_workers(self, count: int) -> None:
        require_root()
        present = self.instances("worker")
        if not present:
            raise OpsError(
                "no worker is enabled here to take the queues from: scripts/install-host"
            )
        first = re.sub(r"(\.\d+)?\.service$", "", present[0])
        wanted = [
            f"{first}.service",
            *(f"{first}.{number}.service" for number in range(2, count + 1)),
        ]
        for unit in wanted[:count]:
            shell.run(["systemctl", "enable", "--now", unit])
        for unit in present:
            if unit not in wanted[:count]:
                shell.run(["systemctl", "disable", "--now", unit])


class Supervisor(Host):
    way = "supervisor"
    SOCKET = RUN / "supervisor.sock"
    #: A file for each worker but the first, which supervisor includes.
    WORKERS = ETC / "workers"

    def call(self, method: str, *arguments: Any) -> Any:
        try:
            return call(self.SOCKET, method, *arguments)
        except PermissionError:
            raise OpsError("supervisor speaks to root alone: use sudo") from None
        except OSError as error:
            raise OpsError(f"supervisor does not answer at {self.SOCKET}: {error}") from error

    def instances(self, name: str) -> list[str]:
        names = [facts["name"] for facts in self.call("getAllProcessInfo")]
        return sorted(found for found in names if re.fullmatch(rf"{name}(-\d+)?", found))

    def services(self) -> list[Service]:
        found = [
            service_of(facts)
            for facts in self.call("getAllProcessInfo")
            if base_name(facts["name"]) in PROGRAMS
        ]
        return sorted(found, key=lambda item: (PROGRAMS.index(item.name), item.instance))

    def log_command(
        self, service: Service, *, lines: int | None, follow: bool, since: datetime | None = None
    ) -> list[str]:
        return tail(LOGS / f"{service.instance}.log", lines=lines, follow=follow)

    def control(self, action: str, instance: str) -> None:
        require_root()
        if action == "restart" and instance == "web":
            facts = self.call("getProcessInfo", instance)
            reload_web(facts["pid"], lambda: self.call("signalProcess", instance, "HUP"))
            return
        if action in ("stop", "restart"):
            supervised(self.call, "stopProcess", instance)
        if action in ("start", "restart"):
            supervised(self.call, "startProcess", instance)

    def scale_workers(self, count: int) -> None:
        require_root()
        supervisor_scale(self.call, CURRENT / "deploy" / "supervisor", self.WORKERS, count)


# --- supervisor, on a host and embedded ----------------------------------------------------------
def service_of(facts: dict[str, Any]) -> Service:
    """Of supervisor's facts about a program."""
    state = {
        "RUNNING": State.RUNNING,
        "STARTING": State.STARTING,
        "STOPPING": State.RUNNING,
        "BACKOFF": State.FAILED,
        "FATAL": State.FAILED,
        "EXITED": State.FAILED,
    }.get(facts["statename"], State.STOPPED)
    running = state in (State.RUNNING, State.STARTING)
    return Service(
        base_name(facts["name"]),
        facts["name"],
        state,
        release_of(facts["pid"]) if running else "",
        datetime.fromtimestamp(facts["start"], UTC) if running else None,
        memory_of(facts["pid"]) if running else None,
        host=socket.gethostname(),
        pid=facts["pid"],
    )


def tail(log: Path, *, lines: int | None, follow: bool) -> list[str]:
    """Of a log that supervisor rotates; all lines: of the files before it, too."""
    numbered = {path: path.name.removeprefix(f"{log.name}.") for path in log.parent.glob("*.log.*")}
    older = sorted(
        (path for path, number in numbered.items() if number.isdecimal()),
        key=lambda path: -int(numbered[path]),
    )
    files = [*older, log] if lines is None else [log]
    start = "+1" if lines is None else str(lines)
    more = ["-F"] if follow else []
    return ["tail", "--quiet", "-n", start, *more, *map(str, files)]


def supervised(call: Any, method: str, program: str) -> None:
    """startProcess or stopProcess, until it is done; a worker that stops may take its minutes."""
    try:
        call(method, program, method == "startProcess")
    except xmlrpc.client.Fault as fault:
        # 60 ALREADY_STARTED, 70 NOT_RUNNING: it is as it should be.
        if fault.faultCode not in (60, 70):
            raise OpsError(f"{program}: supervisor says {fault.faultString}") from fault
    while call("getProcessInfo", program)["statename"] == "STOPPING":
        time.sleep(0.2)


def supervisor_scale(call: Any, folder: Path, workers: Path, count: int) -> None:
    """The first worker is the one of `programs/`; each further one has a file of its own."""
    if count == 0:
        raise OpsError("the first worker of supervisor's stays: scripts/drain worker stops it")
    text = (folder / "programs" / "worker.conf").read_text(encoding="utf-8")
    wanted = {f"worker-{number}" for number in range(2, count + 1)}
    workers.mkdir(parents=True, exist_ok=True)
    for file in workers.glob("worker-*.conf"):
        if file.stem not in wanted:
            file.unlink()
    for name in sorted(wanted):
        own = text.replace("[program:worker]", f"[program:{name}]")
        own = own.replace("/worker.log", f"/{name}.log")
        (workers / f"{name}.conf").write_text(own, encoding="utf-8")
        # For supervisor, which runs as another user than root; whatever root's umask is.
        (workers / f"{name}.conf").chmod(0o644)
    workers.chmod(0o755)
    ((added, changed, removed),) = call("reloadConfig")
    further = re.compile(r"worker-\d+")
    for name in filter(further.fullmatch, [*removed, *changed]):
        supervised(call, "stopProcess", name)
        call("removeProcessGroup", name)
    for name in filter(further.fullmatch, [*added, *changed]):
        call("addProcessGroup", name)
    for name in ["worker", *sorted(wanted)]:
        supervised(call, "startProcess", name)


# --- /proc ---------------------------------------------------------------------------------------
def release_of(pid: int) -> str:
    """The release from whose folder this process was started."""
    try:
        folder = Path(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return ""
    return folder.name if folder.parent == HOME / "releases" else ""


def started_at(pid: int) -> datetime | None:
    """None when there is no such process."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(time.time() - age, UTC)


def memory_of(pid: int) -> int | None:
    """Bytes of this process and its children; shared pages count once for each."""
    total, seen, pids = 0, set(), [pid]
    while pids:
        current = pids.pop()
        if current in seen:
            continue
        seen.add(current)
        try:
            status = Path(f"/proc/{current}/status").read_text()
            for task in Path(f"/proc/{current}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
        except (OSError, ValueError):
            continue
        if found := re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE):
            total += int(found[1]) * 1024
    return total or None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None
