"""PostgreSQL and Redis: that they can be used, and, on this host, set up for the application."""

import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.ops import shell
from deploy.ops.deployment import PROJECT
from deploy.ops.errors import NotRunning, OpsError
from deploy.ops.host import REDIS_OPERATOR
from deploy.ops.installing.settings import PATH, Server
from deploy.ops.installing.steps import File, Step
from deploy.ops.redis import Connection

OLDEST_POSTGRES = 14
#: Seconds that a server has to start.
START_SECONDS = 60


# --- PostgreSQL ----------------------------------------------------------------------------------
def postgres_fault(server: Server) -> str:
    """Why the application cannot work with it; empty when it can."""
    query = (
        "SELECT current_setting('server_version_num')::int / 10000, pg_is_in_recovery(),"
        " has_schema_privilege('public', 'CREATE')"
    )
    command = ["psql", "--no-psqlrc", "--no-password", "--tuples-only", "--no-align", "-c", query]
    done = shell.try_run(command, env=os.environ | _libpq(server), timeout=15)
    if done.returncode:
        words = (done.stderr.strip() or "no answer").splitlines()[0]
        words = words.removeprefix("psql: error: ")
        return f"PostgreSQL at {server.place}: {words} (POSTGRES_USER, POSTGRES_PASSWORD)"
    version, is_standby, may_create = done.stdout.strip().split("|")
    if int(version) < OLDEST_POSTGRES:
        return f"PostgreSQL at {server.place} is {version}; {OLDEST_POSTGRES} or newer is needed"
    if is_standby == "t":
        return f"PostgreSQL at {server.place} is a standby, which takes no writes: name the primary"
    if may_create != "t":
        return (
            f"PostgreSQL at {server.place}: {server.user} may make no tables in {server.database}; "
            "it should own that database (POSTGRES_USER, POSTGRES_DB)"
        )
    return ""


def _libpq(server: Server) -> dict[str, str]:
    return {
        "PGHOST": server.host,
        "PGPORT": str(server.port),
        "PGUSER": server.user,
        "PGPASSWORD": server.password,
        "PGDATABASE": server.database,
        "PGCONNECT_TIMEOUT": "5",
    }


@dataclass(frozen=True)
class Cluster:
    """One of the distribution's servers, as pg_lsclusters lists it."""

    version: str
    name: str

    @classmethod
    def on(cls, port: int) -> "Cluster | None":
        if not Path("/usr/bin/pg_lsclusters").exists():
            return None
        for line in shell.run(["pg_lsclusters", "--no-header"]).splitlines():
            version, name, its_port, *_ = line.split()
            if int(its_port) == port:
                return cls(version, name)
        return None

    @property
    def unit(self) -> str:
        return f"postgresql@{self.version}-{self.name}.service"

    @property
    def folder(self) -> Path:
        return Path("/etc/postgresql", self.version, self.name)


@dataclass(frozen=True)
class LocalPostgres(Step):
    """The application's role and database on this host's server, as roles.sql and database.sql
    of compose/postgres have them."""

    server: Server

    def describe(self) -> str:
        return (
            f"set up PostgreSQL on this host: the role {self.server.user} and its database "
            f"{self.server.database}"
        )

    def is_done(self) -> bool:
        return Path("/usr/bin/psql").exists() and not postgres_fault(self.server)

    def check(self) -> None:
        for name, value in (("USER", self.server.user), ("DB", self.server.database)):
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
                raise OpsError(
                    f"POSTGRES_{name}={value} in {PATH}: letters, digits and _ . - make a name"
                )
        if Path("/usr/bin/pg_lsclusters").exists() and Cluster.on(self.server.port) is None:
            raise OpsError(
                f"no PostgreSQL of the distribution's is on port {self.server.port} "
                f"(pg_lsclusters shows which are; POSTGRES_PORT in {PATH})"
            )
        if self.server.user == "postgres":
            raise OpsError(
                f"POSTGRES_USER=postgres in {PATH}: that is the superuser; the application needs a "
                "role of its own"
            )

    def do(self) -> None:
        self.check()  # the package may have come since
        cluster = Cluster.on(self.server.port)
        if cluster is None:
            raise OpsError("PostgreSQL is not installed on this host")
        shell.run(["systemctl", "enable", "--now", cluster.unit])
        self._wait()
        sql = PROJECT / "compose" / "postgres"
        self.as_superuser("postgres", self._parameters() + (sql / "roles.sql").read_text())
        known = f"SELECT 1 FROM pg_database WHERE datname = '{self.server.database}'"
        if not self.as_superuser("postgres", known).strip():
            self._run(["createdb", "--encoding=UTF8", "--template=template0", self.server.database])
        self.as_superuser(
            self.server.database, self._parameters() + (sql / "database.sql").read_text()
        )
        if fault := postgres_fault(self.server):
            raise OpsError(fault)

    def _parameters(self) -> str:
        password = self.server.password.replace("'", "''")
        return (
            f"SET flash_promos.application = '{self.server.user}';\n"
            f"SET flash_promos.password = '{password}';\n"
        )

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while shell.try_run(self._as_postgres(["pg_isready", "--quiet"])).returncode:
            if time.monotonic() > end:
                raise OpsError(f"PostgreSQL does not answer on port {self.server.port}")
            time.sleep(0.2)

    def as_superuser(self, database: str, sql: str) -> str:
        """What these statements print; they come by standard input, with the password in them."""
        options = ["--no-psqlrc", "--quiet", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        return self._run(["psql", *options, f"--dbname={database}", "--file=-"], input=sql)

    def _run(self, command: list[str], input: str | None = None) -> str:
        return shell.run(self._as_postgres(command), input=input, cwd="/")

    def _as_postgres(self, command: list[str]) -> list[str]:
        return ["runuser", "-u", "postgres", "--", "env", f"PGPORT={self.server.port}", *command]


# --- Redis ---------------------------------------------------------------------------------------
REDIS_ETC = Path("/etc/redis")
REDIS_CONF = REDIS_ETC / "redis.conf"
REDIS_OURS = REDIS_ETC / "flash-promos.conf"
REDIS_USERS = REDIS_ETC / "flash-promos.acl"
INCLUDE = f"include {REDIS_OURS}\n"
#: Debian 12's Redis does not know these, and clients do without.
SINCE_7_2 = (" +client|setinfo",)


def redis_fault(server: Server) -> str:
    """Why the application cannot work with it; empty when it can."""
    probe = ["SET", "flash-promos:install-host", "1", "EX", "1"]
    address = (server.host, server.port)
    try:
        with Connection(address, server.password, server.user, wait=5) as connection:
            connection.call(*probe)
    except NotRunning as error:
        return f"{error} (REDIS_HOST, REDIS_PORT in {PATH})"
    except OSError as error:
        return f"Redis at {server.place} does not answer: {error}"
    except OpsError as error:
        return f"Redis at {server.place}, as {server.user} (REDIS_USER, REDIS_PASSWORD): {error}"
    return ""


def as_operator(server: Server, *command: str) -> None:
    """On this host's own Redis."""
    with Connection((server.host, server.port), REDIS_OPERATOR.read_text().strip()) as connection:
        connection.call(*command)


def redis_version() -> tuple[int, ...]:
    found = re.search(r"v=(\d+)\.(\d+)", shell.run(["redis-server", "--version"]))
    return tuple(map(int, found.groups())) if found else (0, 0)


def is_redis_shared() -> bool:
    """Whether an installation before let other hosts in."""
    return REDIS_OURS.exists() and "bind *" in REDIS_OURS.read_text(encoding="utf-8")


@dataclass(frozen=True)
class LocalRedis(Step):
    """The distribution's Redis as this application's broker: its users, an append-only file, no
    eviction. It is restarted when what it reads at its start changes."""

    server: Server
    maxmemory: str
    #: Whether other hosts come, too; once they do they may.
    is_shared: bool

    def describe(self) -> str:
        return f"set up Redis on this host: the user {self.server.user}, append-only, no eviction"

    def is_done(self) -> bool:
        if redis_fault(self.server):
            return False
        # Somebody else's, which lets us in, stays as it is.
        return not REDIS_OURS.exists() or (self._is_configured() and self._has_users())

    def check(self) -> None:
        if not REDIS_CONF.exists() or REDIS_OURS.exists():
            return
        try:
            with Connection((self.server.host, self.server.port), "") as connection:
                keys = int(connection.call("DBSIZE"))
        except NotRunning:
            return
        except OpsError as error:
            raise OpsError(
                f"Redis at {self.server.place} has users of its own ({error}): give the "
                f"application one and set REDIS_USER and REDIS_PASSWORD in {PATH}"
            ) from error
        if keys:
            raise OpsError(
                f"Redis at {self.server.place} holds {keys} keys of somebody else's; the "
                f"application needs one of its own (REDIS_HOST and REDIS_PORT in {PATH})"
            )

    def do(self) -> None:
        self._write_operator()
        is_configured = self._is_configured()
        self._write(REDIS_USERS, self._users())
        self._write(REDIS_OURS, self._configuration())
        text = REDIS_CONF.read_text(encoding="utf-8")
        if INCLUDE not in text:
            self._write(REDIS_CONF, f"{text.rstrip()}\n\n{INCLUDE}")
        if is_configured and self._load_users():
            return
        shell.run(["systemctl", "enable", "redis-server.service"])
        shell.run(["systemctl", "restart", "redis-server.service"])
        self._wait()

    def _write(self, path: Path, text: str) -> None:
        File(path, text, 0o640, "redis", "redis").do()

    def _is_configured(self) -> bool:
        try:
            ours, all_ = REDIS_OURS.read_text("utf-8"), REDIS_CONF.read_text("utf-8")
        except OSError:
            return False
        return ours == self._configuration() and INCLUDE in all_

    def _configuration(self) -> str:
        bind = "* -::*" if self.is_shared or is_redis_shared() else "127.0.0.1 -::1"
        return (
            "# Written by Flash Promos' scripts/install-host.\n"
            f"port {self.server.port}\n"
            f"bind {bind}\n"
            f"aclfile {REDIS_USERS}\n"
            "appendonly yes\n"
            "appendfsync everysec\n"
            f"maxmemory {self.maxmemory}\n"
            "# Eviction would lose messages and queue bindings.\n"
            "maxmemory-policy noeviction\n"
        )

    def _write_operator(self) -> None:
        if not REDIS_OPERATOR.exists():
            File(REDIS_OPERATOR, f"{secrets.token_urlsafe(48)}\n", 0o600).do()

    def _users(self) -> str:
        variables = {
            "PATH": os.environ["PATH"],
            "REDIS_USER": self.server.user,
            "REDIS_PASSWORD": self.server.password,
            "OPERATOR_PASSWORD_FILE": str(REDIS_OPERATOR),
        }
        text = shell.run([str(PROJECT / "compose" / "redis" / "users")], env=variables)
        if redis_version() < (7, 2):
            for rule in SINCE_7_2:
                text = text.replace(rule, "")
        return text

    def _has_users(self) -> bool:
        """What Redis itself writes there is in other words, and may say more."""
        try:
            written = REDIS_USERS.read_text(encoding="utf-8").splitlines()
            wanted = self._users().splitlines()
        except OSError:
            return False
        there = {line.split()[1]: set(line.split()) for line in written if line.strip()}
        # resetpass: what it does is done, and what Redis writes is without it.
        rules = {line.split()[1]: set(line.split()) - {"resetpass"} for line in wanted}
        return all(rules[user] <= there.get(user, set()) for user in rules)

    def _load_users(self) -> bool:
        """Whether a running Redis took the users' file without a restart."""
        try:
            as_operator(self.server, "ACL", "LOAD")
        except OpsError:
            return False
        return not redis_fault(self.server)

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while fault := redis_fault(self.server):
            if time.monotonic() > end:
                raise OpsError(f"{fault}; its log is in /var/log/redis")
            time.sleep(0.2)


# --- For other hosts -----------------------------------------------------------------------------
@dataclass(frozen=True)
class SharedPostgres(Step):
    """This host's PostgreSQL for the workers of other hosts, by password."""

    server: Server
    network: str

    def describe(self) -> str:
        return f"let the hosts of {self.network} enter PostgreSQL on this host, by password"

    @property
    def _entry(self) -> str:
        who = f"{self.server.database}  {self.server.user}  {self.network}"
        return f"host  {who}  scram-sha-256  # Flash Promos' scripts/install-host --share\n"

    def _files(self) -> tuple[Path, Path]:
        cluster = Cluster.on(self.server.port)
        if cluster is None:
            raise OpsError(
                f"--share {self.network}: PostgreSQL is not this host's (POSTGRES_HOST in {PATH})"
            )
        return cluster.folder / "conf.d" / "flash-promos.conf", cluster.folder / "pg_hba.conf"

    def is_done(self) -> bool:
        if Cluster.on(self.server.port) is None:
            return False
        listens, entries = self._files()
        return listens.exists() and self._entry in entries.read_text(encoding="utf-8")

    def do(self) -> None:
        listens, entries = self._files()
        File(listens, "listen_addresses = '*'\n", 0o644, "postgres", "postgres").do()
        text = entries.read_text(encoding="utf-8")
        if self._entry not in text:
            File(entries, f"{text.rstrip()}\n{self._entry}", 0o640, "postgres", "postgres").do()
        shell.run(["systemctl", "restart", Cluster.on(self.server.port).unit])  # type: ignore[union-attr]
        end = time.monotonic() + START_SECONDS
        while fault := postgres_fault(self.server):
            if time.monotonic() > end:
                raise OpsError(fault)
            time.sleep(0.2)
