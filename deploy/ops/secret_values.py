"""Where a deployment keeps its secrets: in its environment file, or each in a file of its own."""

import os
import stat
from pathlib import Path

from deploy.ops.compose import Compose
from deploy.ops.deployment import PROJECT, Deployment
from deploy.ops.errors import OpsError


class SecretValues:
    def __init__(self, deployment: Deployment) -> None:
        self.settings = deployment.settings_file
        #: Of `scripts/init-env --files`.
        self.folder = (
            PROJECT / "secrets"
            if isinstance(deployment, Compose) and "compose/secrets.yml" in deployment.files
            else None
        )

    def read(self, name: str) -> str:
        """Empty when it is not set."""
        if (file := self.file(name)) is None:
            return self.settings.read().get(name, "")
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise OpsError(f"{file} cannot be read: {error.strerror}") from error

    def write(self, **values: str) -> None:
        """Each by itself whole or not at all."""
        in_settings = {}
        for name, value in values.items():
            if file := self.file(name):
                # Those of `init-env --files` are read by the containers' users.
                mode = 0o644 if self.folder else 0o600
                replace(file, f"{value}\n" if value else "", mode=mode)
            else:
                in_settings[name] = value
        if in_settings:
            self.settings.write(**in_settings)

    def file(self, name: str) -> Path | None:
        """The file that holds this secret alone, where it has one."""
        if self.folder:
            return self.folder / name
        path = self.settings.read().get(f"{name}_FILE")
        return self.settings.path.parent / path if path else None


def replace(file: Path, text: str, *, mode: int = 0o600) -> None:
    """The file's owner and mode stay; the mode is that of a new one."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.chmod(mode)
        if file.exists():
            status = file.stat()
            if os.geteuid() == 0:
                os.chown(unfinished, status.st_uid, status.st_gid)
            unfinished.chmod(stat.S_IMODE(status.st_mode))
        with unfinished.open() as written:
            os.fsync(written.fileno())
        unfinished.replace(file)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OpsError(f"{file} cannot be written: {error.strerror}") from error
