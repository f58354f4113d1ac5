"""Real processes of the application, on the test's own database and broker."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import connection


def wait_until(condition: Callable[[], object], *, seconds: float = 30, what: str = "") -> None:
    """Return as soon as the condition holds; fail when it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.05)


@contextmanager
def celery(*arguments: str, log: Path, **environ: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`celery -A marketplace ARGUMENTS`, warmly stopped at the end."""
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "POSTGRES_DB": str(connection.settings_dict["NAME"]),
        # Tests run as whoever; the superuser's warning is no news here.
        "PYTHONWARNINGS": "ignore",
        **environ,
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "marketplace", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


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
