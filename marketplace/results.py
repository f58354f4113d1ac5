"""Celery's results on Redis, for tasks that must not fail because Redis is away.

A task reports that it starts, and how it ended, to the result backend. When that cannot be reached
Celery counts the task as failed: before it began, or although it is done.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import redis
from celery import current_task, states
from celery.backends.redis import RedisBackend

from marketplace import sentinel

logger = logging.getLogger(__name__)

#: Seconds for which a task that is done waits to have its result stored.
PATIENCE = 120.0
PAUSE = 0.5


class Backend(RedisBackend):
    #: Once over a new connection; `store_result` has more patience where it may.
    retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

    def _get_pool(self, **params: Any) -> Any:
        return super()._get_pool(**params, **sentinel.options())  # type: ignore[misc]

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """Store it, or say in the log that it could not be: the task has the same outcome."""
        store = super().store_result
        # Only the task itself may wait: a worker's main process has others to look after.
        patience = PATIENCE if state in states.READY_STATES and current_task else 0
        what = f"{state} of {task_id} was not stored"
        _patiently(lambda: store(task_id, result, state, *args, **kwargs), patience, what)
        return self.encode_result(result, state)

    def on_chord_part_return(
        self, request: Any, state: str, result: Any, propagate: bool | None = None, **kwargs: Any
    ) -> None:
        """Count it, once however often it is said."""
        count = super().on_chord_part_return
        patience = PATIENCE if current_task else 0
        what = f"{state} of {request.id} was not counted in its chord"
        _patiently(lambda: count(request, state, result, propagate, **kwargs), patience, what)


def _patiently(call: Callable[[], object], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            call()
        except (redis.RedisError, OSError) as error:
            if time.monotonic() > deadline:
                logger.error("%s: %s", otherwise, error)
                return
        else:
            return
        time.sleep(PAUSE)
