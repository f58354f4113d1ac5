"""The task of `benchmarks.capacity` and `benchmarks.simulation`."""

import time

from celery import shared_task


@shared_task
def wait(seconds: float = 0.0) -> None:
    """What a task does that waits for another's answer."""
    if seconds:
        time.sleep(seconds)
