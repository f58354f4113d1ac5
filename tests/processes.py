"""Real processes of the application, on the test's own database and broker."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from django.db import connection

from deploy.embedded.servers import Redis, listens

Running = AbstractContextManager["subprocess.Popen[bytes]"]


def wait_until(condition: Callable[[], object], *, seconds: float = 30, what: str = "") -> None:
    """Return as soon as the condition holds; fail when it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.05)


def celery(
    *arguments: str, log: Path, project: Path | str | None = None, **environ: str
) -> Running:
    """`celery -A marketplace ARGUMENTS`, warmly stopped at the end."""
    command = ("-m", "celery", "-A", "marketplace", *arguments)
    return running(*command, log=log, project=project, **environ)


@contextmanager
def running(
    *arguments: str, log: Path, project: Path | str | None = None, **environ: str
) -> Iterator["subprocess.Popen[bytes]"]:
    """`python ARGUMENTS` on the test's own database and broker, stopped at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=project,
            env=environment(**environ),
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def environment(**environ: str) -> dict[str, str]:
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "POSTGRES_DB": str(connection.settings_dict["NAME"]),
        # Tests run as whoever; the superuser's warning is no news here.
        "PYTHONWARNINGS": "ignore",
        **environ,
    }


def control(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`celery -A marketplace ARGUMENTS` for a command that answers and ends."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "marketplace", *arguments],
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "marketplace.settings"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@contextmanager
def serving(server: Redis) -> Iterator[None]:
    """A Redis of the test's own; killed at the end, its data stays."""
    server.prepare()
    log = server.data / "log"
    with log.open("ab") as output, subprocess.Popen(server.command(), stdout=output) as process:
        try:
            wait_until(lambda: listens(server.port), what="Redis listens")
            yield
        finally:
            process.kill()
