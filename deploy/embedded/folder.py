"""The folder in which everything of one embedded system lies, `var/embedded` of the clone."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.embedded.errors import QuickstartError

PROJECT = Path(__file__).resolve().parents[2]
#: Files of deploy/ops about a deployment, which mean nothing after it.
OF_COMMANDS = ("backup.lock", "releases.json", "rotation.json")


@dataclass(frozen=True)
class Folder:
    path: Path

    @classmethod
    def from_environment(cls) -> "Folder":
        return cls(Path(os.environ.get("EMBEDDED_DIR") or PROJECT / "var" / "embedded").absolute())

    @property
    def env_file(self) -> Path:
        return self.path / "env"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def static(self) -> Path:
        return self.path / "static"

    @property
    def media(self) -> Path:
        return self.path / "media"

    @property
    def pid_file(self) -> Path:
        return self.path / "supervisord.pid"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    @property
    def redis(self) -> Path:
        return self.path / "redis"

    @property
    def workers(self) -> Path:
        """A file of supervisor's for each worker but the first; scripts/scale makes it."""
        return self.path / "workers"

    @property
    def aws_ready(self) -> Path:
        """There while the SNS/SQS server runs with topic and queues in place."""
        return self.path / "aws.ready"

    @property
    def run(self) -> Path:
        """A link to the folder of supervisord's socket, which needs a path under 108 bytes."""
        return self.path / "run"

    @property
    def socket(self) -> Path:
        return Path(os.path.realpath(self.run)) / "supervisor.sock"

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(0o700)
        self.logs.mkdir(exist_ok=True)

    def make_run(self) -> None:
        """Point `run` at a folder that is ours alone, a new one after a reboot emptied /tmp."""
        with suppress(OSError):
            status = self.run.stat()
            if status.st_uid == os.geteuid() and not status.st_mode & 0o077:
                return
        self.remove_run()
        self.run.symlink_to(tempfile.mkdtemp(prefix="flash-promos-", dir="/tmp"))

    def remove_run(self) -> None:
        if self.run.is_symlink():
            target = Path(os.readlink(self.run))
            if target.parent == Path("/tmp") and target.name.startswith("flash-promos-"):  # noqa: S108
                shutil.rmtree(target, ignore_errors=True)
            self.run.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against another run; a folder that stays without an env file goes."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise QuickstartError(f"{self.path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise QuickstartError(
                f"another scripts/quickstart is at work in {self.path}: wait until it ends"
            ) from None
        try:
            yield
        finally:
            if not self.env_file.exists():
                self._remove_empty()
            os.close(descriptor)

    def remove(self) -> None:
        """Remove what the embedded system made, and nothing else: backups and purged messages are
        there to be put back."""
        self.remove_run()
        for entry in (self.postgres, self.redis, self.static, self.media, self.logs, self.workers):
            shutil.rmtree(entry, ignore_errors=True)
        for unfinished in self.path.glob("postgres.*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        of_commands = (self.path / name for name in OF_COMMANDS)
        for file in (self.pid_file, self.aws_ready, self.env_file, *of_commands):
            file.unlink(missing_ok=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        (self.path / "lock").unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()
            (PROJECT / "var").rmdir()
