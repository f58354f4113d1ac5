"""The base class of tasks that are tried again and, when that did not help, kept."""

from celery import Task


class RetryingTask(Task):  # type: ignore[type-arg]
    """A task that is retried after any error, up to three times, then becomes a dead letter.

    `@shared_task(base=RetryingTask, bind=True)`. The wait before a retry is a random part of 60,
    then 120, then 240 seconds, so that tasks which failed together do not come back together.
    Each attribute can be given as an option of the task:
    `@shared_task(base=RetryingTask, autoretry_for=(OSError,), max_retries=5, retry_backoff=5)`.
    A fixed wait is `retry_backoff=False, retry_kwargs={"countdown": 60}`.
    """

    autoretry_for: tuple[type[Exception], ...] = (Exception,)
    #: Beside the first try.
    max_retries = 3
    #: Seconds, doubled at each further retry.
    retry_backoff: int | bool = 60
    retry_backoff_max = 600
    retry_jitter = True
    #: A run that ended in FAILURE is kept with its arguments, to be requeued or discarded.
    dead_letter = True
