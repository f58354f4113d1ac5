"""`scripts/restore`: a backup in the place of what runs, or beside it."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from deploy.ops import backups, cli, shell
from deploy.ops.backups import DATABASE, MEDIA, REDIS, Backup
from deploy.ops.deployment import PROGRAMS, Deployment, State, find
from deploy.ops.errors import OpsError, UsageError
from deploy.ops.postgres import Counts, Postgres
from deploy.ops.remote import SCHEME, Remote
from deploy.ops.waiting import wait_until

DESCRIPTION = """\
Puts a backup back. First it reads all of it: sums, formats, PostgreSQL's version and the migrations
must fit what runs here. The dump goes into a new database beside the live one, and its rows are
counted; then web, worker, beat and Flower stop, a safety backup of the present state is made, the
databases change places in one transaction, Redis and media are replaced, and all starts again.
Until the databases change places, whatever fails leaves everything as it was.
"""

EPILOG = """\
examples:
  scripts/restore latest --into rehearsal --drop   try it: nothing of what runs is touched
  scripts/restore latest                           the newest backup of this deployment
  scripts/restore 20260131T020000Z --only postgres
  scripts/restore /mnt/disk/20260131T020000Z       of another folder, or another host
  scripts/restore s3://promos/backups/latest

A backup without secrets needs none: the secrets of the deployment that is here stay.
"""

PARTS = {"postgres": DATABASE, "redis": REDIS, "media": MEDIA}
#: After the live database's name, while the dump goes into it.
RESTORING = "_restoring"

MIGRATIONS_OF_CODE = """
import os, json, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
django.setup()
from django.db.migrations.loader import MigrationLoader
print(json.dumps([".".join(key) for key in MigrationLoader(None).disk_migrations]))
"""
READINESS = """
import os, json, django
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
django.setup()
from marketplace.health import readiness
print(json.dumps(readiness()))
"""


def parser() -> argparse.ArgumentParser:
    made = cli.parser("restore", DESCRIPTION, EPILOG)
    made.add_argument("backup", help="`latest`, a name of `scripts/backup list`, a path or s3://…")
    made.add_argument("--from", dest="folder", type=Path, metavar="DIR", help="where the names are")
    made.add_argument("--into", metavar="DATABASE", help="a rehearsal: into a new database alone")
    made.add_argument("--drop", action="store_true", help="with --into: remove it afterwards")
    made.add_argument(
        "--only", choices=PARTS, action="append", help="this part alone; may be given twice"
    )
    made.add_argument("--yes", action="store_true", help="don't ask")
    made.add_argument(
        "--no-safety-backup", action="store_true", help="don't keep the present state"
    )
    return made


def main() -> None:
    arguments = parser().parse_args()
    if arguments.drop and not arguments.into:
        raise UsageError("--drop belongs to --into")
    deployment = find(arguments.on)
    folder = (arguments.folder or backups.default_folder(deployment)).absolute()
    with (
        backups.locked(deployment),
        located(deployment, arguments.backup, folder) as backup,
    ):
        parts = list(arguments.only or PARTS)
        if arguments.into:
            check(deployment, backup, ["postgres"])
            rehearse(deployment, backup, arguments.into, drop=arguments.drop)
            return
        parts = check(deployment, backup, parts)
        cli.confirm(
            f"Replace {', '.join(parts)} of {deployment.describe()} by the backup {backup.name}?",
            yes=arguments.yes,
        )
        replace(deployment, backup, parts, safety=not arguments.no_safety_backup)


# --- Which one -----------------------------------------------------------------------------------
@contextmanager
def located(deployment: Deployment, wanted: str, folder: Path) -> Iterator[Backup]:
    """By name, path or address; what was downloaded for it is removed afterwards."""
    if not wanted.startswith(SCHEME):
        yield _local(wanted, folder)
        return
    url, _, name = wanted.rstrip("/").rpartition("/")
    remote = Remote(deployment, url)
    names = remote.names()
    name = names[-1] if name == "latest" and names else name
    if name not in names:
        raise OpsError(f"there is no backup {name} in {url}")
    place = Path(tempfile.mkdtemp(prefix="restore-", dir=deployment.data))
    try:
        with cli.step(f"Downloading {url}/{name}"):
            backup = remote.download(name, place)
        yield backup
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _local(wanted: str, folder: Path) -> Backup:
    if "/" in wanted:
        return Backup(Path(wanted).absolute())
    found = {backup.name: backup for backup in backups.complete(folder)}
    if wanted == "latest" and found:
        return found[max(found)]
    if wanted not in found:
        raise OpsError(f"there is no backup {wanted} in {folder} (scripts/backup list)")
    return found[wanted]


# --- Whether it fits -----------------------------------------------------------------------------
def check(deployment: Deployment, backup: Backup, parts: list[str]) -> list[str]:
    """Everything that can be known before anything is changed; the parts that there are."""
    manifest = backup.manifest
    missing = [part for part in parts if not backup.file(PARTS[part])]
    if missing == parts:
        raise OpsError(f"{backup.path} has no {' and no '.join(missing)}")
    for part in missing:
        cli.warn(f"the backup is without {part}, which stays as it is here")
    with cli.step(f"Checking {backup.path}, {cli.size(backup.size)}"):
        backup.check_sums()
        if "postgres" in parts:
            _check_postgres(deployment, manifest["postgres"]["version"])
            newer_code(deployment, backup)
        if "redis" in parts and manifest["redis"]:
            _check_redis(deployment, manifest["redis"]["version"])
        backup.check_formats(deployment)
    return [part for part in parts if part not in missing]


def _check_postgres(deployment: Deployment, version: str) -> None:
    here = Postgres(deployment).version
    if _major(version) > _major(here):
        raise OpsError(
            f"the backup is of PostgreSQL {version}, and here runs {here}, which is older: "
            "scripts/upgrade-postgres first"
        )


def _check_redis(deployment: Deployment, version: str) -> None:
    redis = deployment.redis()
    if redis is None:
        raise OpsError(
            "there is no operator's way into this Redis: leave it out with "
            "--only postgres --only media"
        )
    (kind, number), (kind_here, number_here) = version.split(), redis.version().split()
    if kind != kind_here or _major(number) > _major(number_here):
        raise OpsError(
            f"the snapshot is of {version}, which {kind_here} {number_here} does not read: leave "
            "it out with --only postgres --only media; Redis holds what may be replayed"
        )


def newer_code(deployment: Deployment, backup: Backup) -> bool:
    """Whether the code has migrations that the backup is without; an OpsError the other way."""
    printed = shell.run(
        deployment.application("python", "-c", MIGRATIONS_OF_CODE), env=deployment.environment()
    )
    code, data = set(json.loads(printed)), set(backup.manifest["postgres"]["migrations"])
    if unknown := sorted(data - code):
        release = backup.manifest["release"] or "a newer release"
        raise OpsError(
            f"the backup is of {release} and has migrations that the code here does not know: "
            f"{', '.join(unknown[:3])}; upgrade the code first (scripts/upgrade)"
        )
    return bool(code - data)


def _major(version: str) -> int:
    return int(version.split(".")[0])


# --- Beside the live one -------------------------------------------------------------------------
def rehearse(deployment: Deployment, backup: Backup, name: str, *, drop: bool) -> None:
    postgres = Postgres(deployment)
    if not postgres.is_admin:
        raise OpsError(
            "nobody may make databases from here: run it as root beside PostgreSQL, or on another "
            "deployment (docs/backups.md)"
        )
    if postgres.exists(name):
        raise OpsError(f"the database {name} exists: give --into the name of a new one")
    try:
        fill(postgres, backup, name)
    except BaseException:
        postgres.drop(name)
        raise
    cli.say(f"All {sum(backup.manifest['postgres']['counts'].values())} rows are there")
    if drop:
        postgres.drop(name)
    else:
        cli.say(f"It is the database {name} now")


def fill(postgres: Postgres, backup: Backup, database: str) -> None:
    """A new database with what the backup holds, every row counted."""
    with cli.step(f"Restoring into the new database {database}"):
        postgres.create(database)
        postgres.fill(database, backup.path / DATABASE)
    with cli.step("Counting the rows"):
        compare(backup.manifest["postgres"]["counts"], postgres.counts(database))


def compare(wanted: Counts, found: Counts) -> None:
    wrong = [
        f"{table}: {wanted.get(table, 0)} in the backup, {found.get(table, 0)} restored"
        for table in sorted(wanted.keys() | found.keys())
        if wanted.get(table) != found.get(table)
    ]
    if wrong:
        raise OpsError("the restored rows are not those of the backup:\n  " + "\n  ".join(wrong))


# --- In its place --------------------------------------------------------------------------------
def replace(deployment: Deployment, backup: Backup, parts: list[str], *, safety: bool) -> None:
    postgres = Postgres(deployment)
    live = postgres.name
    beside = f"{live}{RESTORING}" if "postgres" in parts and postgres.is_admin else ""
    former = f"{live}_before_{datetime.now(UTC):%Y%m%dT%H%M%SZ}".lower()
    saved: Backup | None = None
    try:
        if beside:
            postgres.drop(beside)  # of a run that was killed
            fill(postgres, backup, beside)
        with stopped(deployment):
            if safety:
                cli.say("A safety backup of the present state:")
                saved = backups.take(deployment, backups.default_folder(deployment))
            put_back(deployment, backup, parts, beside, former)
    except BaseException:
        if saved:
            cli.warn(f"the state before is the backup {saved.path}: scripts/restore {saved.name}")
        raise
    finally:
        if beside:
            postgres.drop(beside)
    if beside:
        postgres.drop(former)
    cli.say(f"Restored {', '.join(parts)} of {backup.name}")
    if saved:
        cli.say(f"The state before is the backup {saved.path}")


def put_back(
    deployment: Deployment, backup: Backup, parts: list[str], beside: str, former: str
) -> None:
    """The databases change names again when what comes after them fails."""
    postgres = Postgres(deployment)
    if "postgres" in parts:
        with cli.step("PostgreSQL"):
            if beside:
                postgres.swap(beside, former)
            else:
                postgres.overwrite(backup.path / DATABASE)
                compare(backup.manifest["postgres"]["counts"], postgres.counts(postgres.name))
    try:
        put_back_rest(deployment, backup, parts)
    except BaseException:
        if beside:
            postgres.swap(former, beside)
        raise


def put_back_rest(deployment: Deployment, backup: Backup, parts: list[str]) -> None:
    if "postgres" in parts and newer_code(deployment, backup):
        with cli.step("Migrating it to the code that is here"):
            deployment.manage("migrate", "--no-input", timeout=86_400)
    if "redis" in parts and (redis := deployment.redis()):
        with cli.step("Redis"):
            redis.replace(backup.path / REDIS)
    if "media" in parts:
        with cli.step("Media"), (backup.path / MEDIA).open("rb") as media:
            command = deployment.application("python", "-m", "marketplace.media", "load")
            shell.stream(command, stdin=media, env=deployment.environment())


@contextmanager
def stopped(deployment: Deployment) -> Iterator[None]:
    """Nothing of ours runs meanwhile; it starts again whatever happens."""
    try:
        for name in reversed(PROGRAMS):
            with cli.step(f"Stopping {name}"):
                deployment.stop(name)
        yield
    finally:
        for name in PROGRAMS:
            with cli.step(f"Starting {name}"):
                deployment.start(name)
    with cli.step("Waiting until all is well"):
        wait_until(lambda: is_well(deployment), seconds=120, what="web, worker and beat are well")


def is_well(deployment: Deployment) -> bool:
    states = {service.state for service in deployment.services() if service.name in PROGRAMS}
    if states != {State.RUNNING}:
        return False
    command = deployment.application("python", "-c", READINESS)
    done = shell.try_run(command, env=deployment.environment(), timeout=60)
    return done.returncode == 0 and set(json.loads(done.stdout).values()) == {"ok"}


if __name__ == "__main__":
    cli.run(main)
