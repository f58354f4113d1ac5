"""A database of a test's own, which the project's commands run on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.db import connection

from deploy.embedded.servers import Postgres


@dataclass(frozen=True)
class Scratch:
    name: str

    @property
    def environ(self) -> dict[str, str]:
        return {"DJANGO_SETTINGS_MODULE": "marketplace.settings", "POSTGRES_DB": self.name}

    def manage(self, *arguments: str, project: Path | None = None) -> str:
        """What `manage.py` of this project, or of a copy, prints."""
        return self._run(sys.executable, "manage.py", *arguments, cwd=project)

    def schema(self) -> str:
        server = ("--host", os.environ["POSTGRES_HOST"], "--port", os.environ["POSTGRES_PORT"])
        dump = self._run(
            *(Postgres.binary("pg_dump"), *server, "--username", os.environ["POSTGRES_USER"]),
            *("--schema-only", "--no-owner", self.name),
            PGPASSWORD=os.environ["POSTGRES_PASSWORD"],
        )
        # A word of each dump's own.
        return "\n".join(line for line in dump.splitlines() if "restrict" not in line)

    def _run(self, *command: str, cwd: Path | None = None, **environ: str) -> str:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=os.environ | self.environ | environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@contextmanager
def scratch_database() -> Iterator[Scratch]:
    name = f"{connection.settings_dict['NAME']}_scratch"
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
        try:
            yield Scratch(name)
        finally:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
