"""The environment file of a deployment: one NAME=value a line, as `.env.example` explains them."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from deploy.ops.errors import OpsError

_LINE = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class SettingsFile:
    path: Path

    def read(self) -> dict[str, str]:
        """Each value without its quotes, the way Compose reads them."""
        return {name: _unquoted(value) for name, value in _LINE.findall(self._text())}

    def secret(self, name: str) -> str:
        """The value, or what the file at NAME_FILE holds."""
        values = self.read()
        if path := values.get(f"{name}_FILE"):
            return (self.path.parent / path).read_text(encoding="utf-8").rstrip("\r\n")
        return values.get(name, "")

    def write(self, **values: str) -> None:
        """Set these, each in its own line; the rest, owner and mode stay. Whole or not at all."""
        text = self._text()
        for name, value in values.items():
            line = f"{name}={_quoted(value)}"
            pattern = re.compile(rf"^{name}=.*$", re.MULTILINE)
            if pattern.search(text):
                text = pattern.sub(lambda _, line=line: line, text)  # type: ignore[misc]
            else:
                text = f"{text.rstrip()}\n{line}\n".lstrip()
        unfinished = self.path.with_name(f"{self.path.name}.unfinished")
        unfinished.unlink(missing_ok=True)
        try:
            status = self.path.stat()
            unfinished.touch(mode=0o600)
            unfinished.write_text(text, encoding="utf-8")
            if os.geteuid() == 0:
                os.chown(unfinished, status.st_uid, status.st_gid)
            unfinished.chmod(stat.S_IMODE(status.st_mode))
            unfinished.replace(self.path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise OpsError(f"{self.path} cannot be written: {error.strerror}") from error

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except PermissionError:
            raise OpsError(f"{self.path} may not be read by this user: use sudo") from None
        except OSError as error:
            raise OpsError(f"{self.path} cannot be read: {error.strerror}") from error


def _quoted(value: str) -> str:
    return f"'{value}'" if re.search(r"[\s#$'\"]", value) and "'" not in value else value


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value
