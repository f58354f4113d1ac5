"""The base class of tasks that are tried again and, when that did not help, kept."""

import time
from typing import Any

from marketplace.task import Task
from task_manager import entries
from task_manager.clients.stream import writer


class RetryingTask(Task):
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

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Tell of the letter at once: the worker's main process may be killed before it does."""
        super().on_failure(exc, task_id, args, kwargs, einfo)
        request = self.request
        if not self.dead_letter or request.id != task_id or request.is_eager:
            return
        now = time.time()
        entry = entries.of_message(vars(request), args, kwargs)
        entry |= entries.error(exc, einfo and einfo.traceback)
        entry |= {"finished_at": now, "letter": {"args": args, "kwargs": kwargs}}
        data = entries.transition(entry, "FAILURE", now)
        writer().add(lambda: data)
        writer().flush()
