"""The task of `benchmarks.tracking`."""

from celery import shared_task


@shared_task
def noop() -> None:
    pass
