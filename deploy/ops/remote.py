"""Backups in S3, reached by the application, which has the credentials."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from deploy.ops import shell
from deploy.ops.backups import MANIFEST, NAME, Backup
from deploy.ops.deployment import Deployment
from deploy.ops.errors import OpsError, UsageError

SCHEME = "s3://"


@dataclass(frozen=True)
class Remote:
    """The backups below `s3://BUCKET/PREFIX`; one counts once its manifest is there, the last."""

    deployment: Deployment
    url: str

    def __post_init__(self) -> None:
        if not self.url.startswith(SCHEME) or not self.url.removeprefix(SCHEME).strip("/"):
            raise UsageError(f"{self.url}: expected s3://BUCKET or s3://BUCKET/PREFIX")

    def names(self) -> list[str]:
        """Oldest first."""
        listed = shell.run(
            self._command("list", f"{self.url.rstrip('/')}/"), env=self.deployment.environment()
        )
        found = set()
        for key in listed.split():
            *_, name, file = f"/{key}".split("/")
            if file == MANIFEST and NAME.fullmatch(name):
                found.add(name)
        return sorted(found)

    def upload(self, backup: Backup) -> None:
        for name in (*backup.manifest["files"], MANIFEST):
            with (backup.path / name).open("rb") as file:
                shell.stream(
                    self._command("put", self._object(backup.name, name)),
                    stdin=file,
                    env=self.deployment.environment(),
                )

    def download(self, name: str, folder: Path) -> Backup:
        """Into the folder, which is made."""
        backup = Backup(folder / name)
        try:
            backup.path.mkdir(parents=True, mode=0o700)
            self._get(backup, MANIFEST)
            free = shutil.disk_usage(folder).free
            if free < backup.size:
                raise OpsError(f"{folder} has no room for {self.url}/{name}")
            for file in backup.manifest["files"]:
                self._get(backup, file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return backup

    def retain(self, keep: int) -> list[str]:
        old = self.names()[:-keep]
        for name in old:
            # Without its manifest it is none any more, were this interrupted.
            for rest in (f"{name}/{MANIFEST}", f"{name}/"):
                command = self._command("delete", f"{self.url.rstrip('/')}/{rest}")
                shell.run(command, env=self.deployment.environment())
        return old

    def _get(self, backup: Backup, file: str) -> None:
        with (backup.path / file).open("wb") as output:
            shell.stream(
                self._command("get", self._object(backup.name, file)),
                stdout=output,
                env=self.deployment.environment(),
            )

    def _object(self, name: str, file: str) -> str:
        return f"{self.url.rstrip('/')}/{name}/{file}"

    def _command(self, *arguments: str) -> list[str]:
        return self.deployment.application("python", "-m", "marketplace.object_store", *arguments)
