"""What is made before the programs start: tables, static files, the demo, the administrator.

Django runs in this very process, set up once; its output goes to the log `setup`.
"""

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

from deploy.embedded import source
from deploy.embedded.environment import Environment
from deploy.embedded.errors import ProgramError, QuickstartError
from deploy.embedded.folder import PROJECT, Folder
from deploy.embedded.screen import Step
from deploy.embedded.supervisor import Supervisor

SERVER_SECONDS = 60


def setup_django(environment: Environment) -> None:
    os.environ.clear()
    os.environ.update(environment.of_programs())
    import django
    from django.core.exceptions import ImproperlyConfigured

    try:
        django.setup()
    except ImproperlyConfigured as error:
        raise QuickstartError(f"{environment.folder.env_file}: {error}") from error


@contextmanager
def logged(folder: Folder, what: str) -> Iterator[None]:
    """Send all output to the log `setup`; a failure ends there with its traceback."""
    with folder.log("setup").open("a", encoding="utf-8") as log:
        print(f"--- {time.strftime('%F %T')} {what}", file=log, flush=True)
        try:
            with redirect_stdout(log), redirect_stderr(log):
                yield
        except Exception as error:
            traceback.print_exc(file=log)
            raise ProgramError("setup", f"{what} failed: {error}") from error


class StaticFiles:
    """`collectstatic`, when anything changed, beside the other steps: it needs no server."""

    def __init__(self, folder: Folder, environment: Environment) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        manifest = folder.static / "staticfiles.json"
        installed = Path(sys.prefix) / ".requirements"
        sources = [path for path in (installed,) if path.exists()]
        changed = max(source.changed_at(), source.newest(sources))
        if manifest.exists() and manifest.stat().st_mtime > changed:
            return
        with folder.log("setup").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "collectstatic", "--no-input", "--verbosity=0"],
                cwd=PROJECT,
                env=environment.of_programs(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self) -> None:
        if self.process and self.process.wait():
            raise ProgramError("setup", "collecting the static files failed")

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_for_servers(folder: Folder, supervisor: Supervisor, step: Step) -> None:
    """Wait until PostgreSQL, Valkey and the SNS/SQS server do what they are for."""
    from marketplace import health

    checks: dict[str, Callable[[], object]] = {
        "PostgreSQL": health.check_database,
        "Valkey": health.check_redis,
        "SNS/SQS": partial(os.stat, folder.aws_ready),
    }
    text, deadline = step.text, time.monotonic() + SERVER_SECONDS
    while waiting := [name for name, check in checks.items() if not _succeeds(check)]:
        supervisor.check()
        if time.monotonic() > deadline:
            program = {"PostgreSQL": "postgres", "Valkey": "redis"}.get(waiting[0], "aws")
            raise ProgramError(program, f"{waiting[0]} is not up after {SERVER_SECONDS} s")
        step.update(f"{text}: waiting for {' and '.join(waiting)}")
        time.sleep(0.1)


def _succeeds(check: Callable[[], object]) -> bool:
    try:
        check()
    except Exception:  # any failure means not yet
        return False
    return True


def migrate(folder: Folder) -> None:
    from django.core.management import call_command

    from marketplace import health

    if _succeeds(health.check_migrations):
        return
    with logged(folder, "migrate"):
        call_command("migrate", interactive=False)


def seed_demo(folder: Folder) -> None:
    from django.core.management import call_command

    with logged(folder, "seed_demo"):
        call_command("seed_demo")


def ensure_admin(folder: Folder, password: str) -> bool:
    """Make the user `admin` when there is none; return whether this is its password."""
    from django.contrib.auth.models import User

    with logged(folder, "making the user admin"):
        user = User.objects.filter(username="admin").first()
        if user is None:
            user = User.objects.create_superuser("admin", password=password)
        return user.check_password(password)
