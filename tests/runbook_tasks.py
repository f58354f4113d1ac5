"""Tasks that last or fail, for the tests of the runbook's commands."""

import time
from pathlib import Path

from celery import shared_task

from task_manager.retrying import RetryingTask


@shared_task
def last(path: str) -> str:
    """Until this file is gone."""
    while Path(path).exists():
        time.sleep(0.05)
    return "lasted"


@shared_task(base=RetryingTask, dont_autoretry_for=(ValueError,))
def refuse() -> None:
    raise ValueError("no such box")
