"""The base of every task."""

from typing import Any

from celery.contrib.django.task import DjangoTask
from celery.exceptions import Reject


class Task(DjangoTask):  # type: ignore[type-arg]
    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's; but when the retry cannot be published, the message goes back.

        Celery drops it then, and with it a task whose message is acknowledged late.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as reject:
            raise Reject(reject.reason, requeue=True) from reject  # type: ignore[attr-defined]
