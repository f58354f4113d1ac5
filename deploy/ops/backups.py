"""What a backup is: a folder named after its moment, with a manifest that says what is in it."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from deploy.ops import cli, shell
from deploy.ops.deployment import PROJECT, Deployment
from deploy.ops.errors import OpsError
from deploy.ops.postgres import Postgres
from deploy.ops.secret_values import SecretValues

MANIFEST, DATABASE, REDIS, MEDIA = "manifest.json", "database.dump", "redis.rdb", "media.tar"
ENVIRONMENT = "environment"
FORMAT = 1
NAME = re.compile(r"\d{8}T\d{6}Z")
#: Before the name of one that is being made; what an interrupted run left is removed by the next.
UNFINISHED = ".unfinished-"
SECRET = re.compile(r"_PASSWORD|_SECRET$|_SECRET_(ACCESS_)?KEY|_TOKEN$|_AUTH$")


@dataclass(frozen=True)
class Backup:
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def manifest(self) -> dict[str, Any]:
        file = self.path / MANIFEST
        try:
            read: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise OpsError(f"{self.path} is no backup: {MANIFEST}: {error.strerror}") from error
        except ValueError:
            raise OpsError(f"{file} is damaged: it is no JSON") from None
        if read.get("format") != FORMAT:
            raise OpsError(f"{file}: format {read.get('format')} is not known to this release")
        return read

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(facts["bytes"] for facts in self.manifest["files"].values())

    @property
    def created_at(self) -> datetime:
        return datetime.strptime(self.name, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    def file(self, name: str) -> Path | None:
        """The path of this part, None when the backup is without it."""
        return self.path / name if name in self.manifest["files"] else None

    def check_sums(self) -> None:
        """Raise an OpsError that names the first file that is not what it was."""
        for name, facts in self.manifest["files"].items():
            file = self.path / name
            try:
                size, found = file.stat().st_size, sha256(file)
            except OSError as error:
                raise OpsError(f"{file} cannot be read: {error.strerror}") from error
            if (size, found) != (facts["bytes"], facts["sha256"]):
                raise OpsError(
                    f"{file} is damaged: its SHA-256 is not the one in {MANIFEST}; use another "
                    "backup (scripts/backup list)"
                )

    def check_formats(self, deployment: Deployment) -> None:
        """The dump, the snapshot and the archive are whole, by the tools that restore them."""
        if file := self.file(DATABASE):
            Postgres(deployment).check(file)
        redis = deployment.redis()
        if (file := self.file(REDIS)) and redis:
            redis.check(file)
        if file := self.file(MEDIA):
            media_files(file)


def sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def media_files(archive: Path) -> int:
    """How many files it holds, all of them read."""
    try:
        with tarfile.open(archive) as opened:
            return sum(member.isfile() for member in opened)
    except tarfile.TarError as error:
        raise OpsError(f"{archive} is no whole archive: {error}") from error


# --- The folder of backups -----------------------------------------------------------------------
def default_folder(deployment: Deployment) -> Path:
    return deployment.data / "backups"


def complete(folder: Path) -> list[Backup]:
    """Oldest first."""
    try:
        names = sorted(path.name for path in folder.iterdir() if NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    return [Backup(folder / name) for name in names if (folder / name / MANIFEST).exists()]


@contextmanager
def locked(deployment: Deployment) -> Iterator[None]:
    """One at a time: a backup, a restore, a rotation."""
    deployment.data.mkdir(parents=True, exist_ok=True)
    file = deployment.data / "backup.lock"
    try:
        descriptor = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise OpsError(f"{file} cannot be written: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OpsError(
                "another backup, restore or rotation is at work: wait until it ends"
            ) from None
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path)


def retain(folder: Path, keep: int) -> list[str]:
    """Remove all but the newest; return the names of those that went."""
    old = complete(folder)[:-keep]
    for backup in old:
        # Under a name that nobody takes for a backup, were this interrupted.
        gone = backup.path.rename(folder / f"{UNFINISHED}{backup.name}")
        shutil.rmtree(gone)
    return [backup.name for backup in old]


# --- Making one ----------------------------------------------------------------------------------
def take(deployment: Deployment, folder: Path, *, with_secrets: bool = False) -> Backup:
    """Make one while everything runs; it is there whole or not at all. Called with the lock."""
    try:
        return _take(deployment, folder, with_secrets=with_secrets)
    except OSError as error:
        raise OpsError(f"no backup was made in {folder}: {error}") from error


def _take(deployment: Deployment, folder: Path, *, with_secrets: bool) -> Backup:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_leftovers(folder)
    _check_space(deployment, folder)
    while (folder / (name := f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}")).exists():
        time.sleep(0.1)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{name}-", dir=folder))
    try:
        backup = Backup(unfinished)
        manifest = _parts(deployment, unfinished, with_secrets=with_secrets)
        with cli.step("Checking what was written"):
            _write_manifest(unfinished, {"name": name, **manifest})
            backup.check_formats(deployment)
            _sync(unfinished)
        unfinished.rename(folder / name)
        _sync_path(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return Backup(folder / name)


def _check_space(deployment: Deployment, folder: Path) -> None:
    """As much as the last one and half of that, or the database's own size before the first."""
    before = complete(folder)
    needed = before[-1].size * 3 // 2 if before else Postgres(deployment).size()
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OpsError(
            f"{folder} has {cli.size(free)} free, and the backup may need {cli.size(needed)}: "
            "make room, keep fewer (--keep), or write elsewhere (--to DIR)"
        )


def _parts(deployment: Deployment, folder: Path, *, with_secrets: bool) -> dict[str, Any]:
    """Redis first: a message whose task has run by the database's moment runs again, which does
    no harm; the other way round it would be missing."""
    created_at = datetime.now(UTC).isoformat(timespec="seconds")
    redis = _save_redis(deployment, folder / REDIS)
    postgres = _save_database(deployment, folder / DATABASE)
    with cli.step("Media"):
        media = _save_media(deployment, folder / MEDIA)
    _save_environment(deployment, folder / ENVIRONMENT, with_secrets=with_secrets)
    return {
        "created_at": created_at,
        "way": deployment.way,
        "release": _release(deployment),
        "postgres": postgres,
        "redis": redis,
        "media": media,
        "with_secrets": with_secrets,
    }


def _save_redis(deployment: Deployment, file: Path) -> dict[str, Any] | None:
    redis = deployment.redis()
    if redis is None:
        cli.warn(
            "no operator's way into Redis from here, so the backup is without it: Redis holds what "
            "may be replayed, and the database what must not be lost"
        )
        return None
    with cli.step("Redis"), file.open("w+b") as output:
        redis.save(output)
    return {"version": redis.version()}


def _save_database(deployment: Deployment, file: Path) -> dict[str, Any]:
    postgres = Postgres(deployment)
    with cli.step(f"PostgreSQL, {cli.size(postgres.size())}"), postgres.snapshot() as snapshot:
        facts = {
            "version": postgres.version,
            "database": postgres.name,
            "migrations": snapshot.migrations(),
            "counts": snapshot.counts(),
        }
        postgres.dump(snapshot, file)
    return facts


def _save_media(deployment: Deployment, file: Path) -> dict[str, Any]:
    command = deployment.application("python", "-m", "marketplace.media", "save")
    with file.open("wb") as output:
        shell.stream(command, stdout=output, env=deployment.environment())
    return {"files": media_files(file)}


def _save_environment(deployment: Deployment, file: Path, *, with_secrets: bool) -> None:
    """As an environment file, without what SECRET says unless it is wanted."""
    secrets = SecretValues(deployment)
    settings = deployment.settings_file
    lines = []
    for name, value in (settings.read() if settings.path.exists() else {}).items():
        if SECRET.search(name):
            value = secrets.read(name) if with_secrets else ""
        lines.append(f"{name}={value}\n")
    file.write_text("".join(lines), encoding="utf-8")


def _release(deployment: Deployment) -> str:
    """Of what runs here, or of this code where that is not known."""
    versions = (service.version for service in deployment.services() if service.name == "web")
    recorded = json.loads((PROJECT / "deploy" / "contract.json").read_text(encoding="utf-8"))
    return next((version for version in versions if version), str(recorded["version"]))


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
    }
    text = json.dumps({"format": FORMAT, **manifest, "files": files}, indent=2)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def _sync(folder: Path) -> None:
    """All of it is on the disk, readable for its owner alone."""
    for path in folder.iterdir():
        path.chmod(0o600)
        _sync_path(path)
    _sync_path(folder)


def _sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
