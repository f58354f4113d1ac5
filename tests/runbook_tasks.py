"""Tasks that last or fail, for the tests of the runbook's commands."""

import time

from celery import shared_task

from task_manager.retrying import RetryingTask


@shared_task
def last(seconds: float) -> str:
    time.sleep(seconds)
    return "lasted"


@shared_task(base=RetryingTask, dont_autoretry_for=(ValueError,))
def refuse() -> None:
    raise ValueError("no such box")
