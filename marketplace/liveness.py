"""Signs of life, for who restarts what hangs: systemd, supervisor's listener, a health check.

A worker answers no cheap question and beat answers none at all, so each says that it lives, and
so does Flower: a worker at each heartbeat, every two seconds even when idle or busy, and while it
waits for its broker; beat (`marketplace.beat`) at each tick; Flower (`flowerconfig.py`) by its own
loop. gunicorn has the same in deploy/gunicorn.conf.py.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery.signals import heartbeat_sent
from django.conf import settings
from gunicorn.systemd import sd_notify

logger = logging.getLogger(__name__)


@heartbeat_sent.connect(dispatch_uid="marketplace.liveness")
def touch(**kwargs: Any) -> None:
    """Touch LIVENESS_FILE and tell systemd, each where there is one."""
    if settings.LIVENESS_FILE:
        Path(settings.LIVENESS_FILE).touch()
    sd_notify("READY=1\nWATCHDOG=1", logger)


@contextmanager
def shown() -> Iterator[None]:
    """Signs of life, now and every two seconds, while this thread does what has a time-out."""
    done = threading.Event()

    def show() -> None:
        while not done.wait(2):
            touch()

    touch()
    thread = threading.Thread(target=show, name="liveness", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
