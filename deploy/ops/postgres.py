"""The deployment's database, by PostgreSQL's own client tools."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from deploy.ops import shell
from deploy.ops.deployment import Deployment
from deploy.ops.errors import OpsError

PSQL = ("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
#: Each table's name and its number of rows.
COUNTS = r"""
SELECT format('SELECT %L, count(*) FROM %I.%I', tablename, schemaname, tablename)
FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename \gexec
"""
MIGRATIONS = """
SELECT app || '.' || name FROM django_migrations ORDER BY id;
"""

Counts = dict[str, int]


class Postgres:
    """As its superuser where there is a way to be it, else as the application's role."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    @property
    def is_admin(self) -> bool:
        """Whether databases may be made and renamed."""
        return self.deployment.postgres_admin("psql") is not None

    def command(self, *command: str) -> tuple[list[str], dict[str, str] | None]:
        admin = self.deployment.postgres_admin(*command)
        if admin is not None:
            return admin
        return self.deployment.postgres(*command), self.deployment.postgres_environment()

    def query(self, sql: str, *, database: str = "") -> str:
        line, env = self.command(*PSQL, f"--dbname={database or self.name}")
        return shell.run(line, env=env, input=sql).strip()

    def stream(
        self, *command: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None
    ) -> None:
        line, env = self.command(*command)
        shell.stream(line, stdin=stdin, stdout=stdout, env=env)

    @cached_property
    def _facts(self) -> list[str]:
        line = self.deployment.postgres(*PSQL)
        sql = (
            "SELECT current_database(), pg_get_userbyid(datdba), current_setting('server_version')"
            " FROM pg_database WHERE datname = current_database()"
        )
        printed = shell.run(line, env=self.deployment.postgres_environment(), input=sql)
        return printed.strip().split("|")

    @property
    def name(self) -> str:
        """Of the live database."""
        return self._facts[0]

    @property
    def owner(self) -> str:
        return self._facts[1]

    @property
    def version(self) -> str:
        """`18.6`."""
        return self._facts[2].split()[0]

    def size(self) -> int:
        """Bytes of the live database on the server's disk."""
        return int(self.query("SELECT pg_database_size(current_database())"))

    def exists(self, database: str) -> bool:
        sql = f"SELECT 1 FROM pg_database WHERE datname = {literal(database)}"
        return bool(self.query(sql))

    def counts(self, database: str) -> Counts:
        return parse_counts(self.query(COUNTS, database=database))

    # --- Taking one ---

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """One state of the live database, which stays the same while the context lasts."""
        line, env = self.command(*PSQL, f"--dbname={self.name}")
        process = subprocess.Popen(
            line,
            env=env,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            session = Snapshot(process)
            session.ask(
                "SET idle_in_transaction_session_timeout = 0;"
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;"
            )
            session.id = session.ask("SELECT pg_export_snapshot();")
            yield session
        finally:
            process.kill()
            process.communicate()

    def dump(self, snapshot: "Snapshot", file: Path) -> None:
        """In the custom format, compressed."""
        with file.open("wb") as output:
            self.stream(
                "pg_dump",
                f"--dbname={self.name}",
                "--format=custom",
                f"--snapshot={snapshot.id}",
                "--lock-wait-timeout=60s",
                stdout=output,
            )

    def check(self, file: Path) -> None:
        """Read the whole dump, as a restore would."""
        with file.open("rb") as dump:
            self.stream("pg_restore", "--file=/dev/null", stdin=dump)

    # --- Putting one back ---

    def create(self, database: str) -> None:
        name, owner = identifier(database), identifier(self.owner)
        # psql sends each statement by itself, as CREATE DATABASE wants it.
        self.query(
            f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8';\n"
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;"
        )

    def fill(self, database: str, file: Path) -> None:
        with file.open("rb") as dump:
            self.stream(
                "pg_restore",
                f"--dbname={database}",
                "--no-owner",
                "--no-privileges",
                f"--role={self.owner}",
                "--exit-on-error",
                stdin=dump,
            )

    def drop(self, database: str) -> None:
        self.query(
            f"DROP DATABASE IF EXISTS {identifier(database)} WITH (FORCE)", database="postgres"
        )

    def swap(self, database: str, former: str) -> None:
        """The database takes the live one's place, which is called `former` from then on."""
        live = self.name
        self.query(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            f" WHERE datname IN ({literal(live)}, {literal(database)});\n"
            "BEGIN;\n"
            f"ALTER DATABASE {identifier(live)} RENAME TO {identifier(former)};\n"
            f"ALTER DATABASE {identifier(database)} RENAME TO {identifier(live)};\n"
            "COMMIT;",
            database="postgres",
        )

    def overwrite(self, file: Path) -> None:
        """Put the dump in the place of what the live database holds, in one transaction."""
        read, env = self.command("pg_restore", "--no-owner", "--no-privileges", "--file=-")
        write, write_env = self.command(
            *PSQL, f"--dbname={self.name}", "--single-transaction", "--file=-"
        )
        with (
            file.open("rb") as dump,
            subprocess.Popen(read, env=env, stdin=dump, stdout=subprocess.PIPE) as reader,
            subprocess.Popen(
                write,
                env=write_env,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            ) as writer,
        ):
            feed(reader, writer)
            error = writer.stderr.read().decode(errors="replace").strip() if writer.stderr else ""
        if reader.returncode or writer.returncode:
            raise OpsError(f"the database stays as it was: {error or 'the dump is not readable'}")


def feed(reader: Any, writer: Any) -> None:
    """All that one prints to the other; nothing is committed unless it was all."""
    try:
        writer.stdin.write(b"DROP SCHEMA public CASCADE; CREATE SCHEMA public;\n")
        while block := reader.stdout.read(2**20):
            writer.stdin.write(block)
        if reader.wait():
            writer.stdin.write(b"\nSELECT 1 / 0;\n")
        writer.stdin.close()
    except BrokenPipeError:
        reader.kill()


@dataclass
class Snapshot:
    #: A psql whose three streams are pipes.
    process: Any
    id: str = ""

    def ask(self, sql: str) -> str:
        try:
            self.process.stdin.write(f"{sql}\nSELECT 'end of answer';\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        lines: list[str] = []
        for line in self.process.stdout:
            if line == "end of answer\n":
                return "".join(lines).strip()
            lines.append(line)
        words = self.process.stderr.read().strip()
        raise OpsError(f"PostgreSQL does not answer: {words or 'it ended the connection'}")

    def counts(self) -> Counts:
        return parse_counts(self.ask(COUNTS))

    def migrations(self) -> list[str]:
        return self.ask(MIGRATIONS).splitlines()


def parse_counts(text: str) -> Counts:
    return {name: int(rows) for name, rows in (line.split("|") for line in text.splitlines())}


def identifier(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def literal(text: str) -> str:
    return "'{}'".format(text.replace("'", "''"))
