"""Tasks that fail in each of the ways that end in a dead letter, or do not."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from celery import shared_task
from celery.exceptions import SoftTimeLimitExceeded

from task_manager.retrying import RetryingTask


class Soon(RetryingTask):
    """Retried at once, or after a second."""

    retry_backoff = 1
    retry_backoff_max = 1


def tried(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("tried\n")


@shared_task(base=Soon)
def deliver(path: str, *, open_after: int = 0, password: str = "") -> str:
    """Fails until it was tried more than `open_after` times."""
    tried(path)
    if len(Path(path).read_text().splitlines()) <= open_after:
        raise ConnectionError("no route to the shop")
    return "delivered"


@shared_task(base=Soon, dont_autoretry_for=(ValueError,))
def refuse(path: str) -> None:
    tried(path)
    raise ValueError("no such box")


# Celery looks at the hard limit once the soft one is over.
@shared_task(base=Soon, soft_time_limit=1, time_limit=2)
def hang(path: str) -> None:
    tried(path)
    while True:
        with suppress(SoftTimeLimitExceeded):
            time.sleep(600)


@shared_task(base=Soon)
def die(path: str) -> None:
    tried(path)
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(base=Soon, dead_letter=False)
def forget(path: str) -> None:
    tried(path)
    raise ConnectionError("no route to the shop")


@shared_task
def plain(path: str) -> None:
    tried(path)
    raise ConnectionError("no route to the shop")
