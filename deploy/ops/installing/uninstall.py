"""Taking an installation away again, its data when that is wanted."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.ops import shell
from deploy.ops.host import DATA, ETC, HOME, LOGS, MANAGER, USER
from deploy.ops.installing.programs import UNITS, WRAPPER
from deploy.ops.installing.servers import (
    INCLUDE,
    REDIS_CONF,
    REDIS_OURS,
    REDIS_USERS,
    Cluster,
    LocalPostgres,
    as_operator,
)
from deploy.ops.installing.settings import PATH, Server, Settings
from deploy.ops.installing.steps import File, Step
from deploy.ops.installing.steps import User as UserMade
from deploy.ops.settings_file import SettingsFile

PATTERN = "marketplace[.-]*"


class Stopped(Step):
    """No unit of ours runs or starts with the host; workers finish their tasks."""

    def _files(self) -> list[Path]:
        return sorted(UNITS.glob(PATTERN))

    def describe(self) -> str:
        return "stop the programs, whose running tasks finish, and remove their units"

    def is_done(self) -> bool:
        return not self._files()

    def do(self) -> None:
        shell.run(["systemctl", "stop", PATTERN])
        enabled = {path.name for path in UNITS.glob(f"*.wants/{PATTERN}")}
        if enabled:
            shell.run(["systemctl", "disable", "--quiet", *sorted(enabled)])
        for path in self._files():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shell.run(["systemctl", "daemon-reload"])
        shell.try_run(["systemctl", "reset-failed", PATTERN])


@dataclass(frozen=True)
class Gone(Step):
    path: Path

    def describe(self) -> str:
        return f"remove {self.path}"

    def is_done(self) -> bool:
        return not self.path.exists()

    def do(self) -> None:
        shutil.rmtree(self.path) if self.path.is_dir() else self.path.unlink()


@dataclass(frozen=True)
class DatabaseDropped(Step):
    """On this host's own PostgreSQL; elsewhere it stays."""

    server: Server

    def describe(self) -> str:
        return f"drop the database {self.server.database} and the role {self.server.user}"

    def _sql(self, statement: str) -> str:
        return LocalPostgres(self.server).as_superuser("postgres", statement)

    def is_done(self) -> bool:
        if not self.server.is_local or Cluster.on(self.server.port) is None:
            return True
        owned = (
            "SELECT 1 FROM pg_database JOIN pg_roles ON pg_roles.oid = datdba "
            f"WHERE datname = '{self.server.database}' AND rolname = '{self.server.user}'"
        )
        return not self._sql(owned).strip()

    def do(self) -> None:
        self._sql(f'DROP DATABASE "{self.server.database}" WITH (FORCE)')
        self._sql(f'DROP ROLE "{self.server.user}"')
        cluster = Cluster.on(self.server.port)
        assert cluster is not None  # noqa: S101  is_done
        (cluster.folder / "conf.d" / "flash-promos.conf").unlink(missing_ok=True)
        entries = cluster.folder / "pg_hba.conf"
        kept = [
            line for line in entries.read_text().splitlines(True) if "Flash Promos'" not in line
        ]
        File(entries, "".join(kept), 0o640, "postgres", "postgres").do()
        shell.run(["systemctl", "restart", cluster.unit])


@dataclass(frozen=True)
class RedisReset(Step):
    """This host's own Redis is the distribution's again, and empty."""

    server: Server

    def describe(self) -> str:
        return "empty Redis on this host and take our users and settings away"

    def is_done(self) -> bool:
        return not REDIS_OURS.exists()

    def do(self) -> None:
        as_operator(self.server, "FLUSHALL")
        text = REDIS_CONF.read_text(encoding="utf-8").replace(INCLUDE, "")
        File(REDIS_CONF, text, 0o640, "redis", "redis").do()
        for path in (REDIS_OURS, REDIS_USERS):
            path.unlink(missing_ok=True)
        shell.run(["systemctl", "restart", "redis-server.service"])


class UserGone(Step):
    def describe(self) -> str:
        return f"remove the user {USER}"

    def is_done(self) -> bool:
        return not UserMade().is_done()

    def do(self) -> None:
        shell.run(["userdel", USER])


def steps(*, delete_data: bool) -> list[Step]:
    found: list[Step] = [Stopped(), Gone(WRAPPER), Gone(MANAGER), Gone(HOME)]
    if delete_data:
        if PATH.exists():
            settings = Settings(SettingsFile(PATH))
            found += [DatabaseDropped(settings.postgres), RedisReset(settings.redis)]
        found += [Gone(DATA), Gone(LOGS), UserGone(), Gone(ETC)]
    return found
