"""Waiting for what takes its time."""

import time
from collections.abc import Callable

from deploy.ops.errors import OpsError


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """An OpsError when it is not so within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise OpsError(f"not within {seconds:g} s: {what}")
        time.sleep(0.1)
