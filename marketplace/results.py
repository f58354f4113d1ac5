"""Celery's results on Redis, for tasks that must not fail because Redis is away.

A task reports that it starts, and how it ended, to the result backend. When that cannot be reached
Celery counts the task as failed: before it began, or although it is done.
"""

import logging
import time
from typing import Any

import redis
from celery import current_task, states
from celery.backends.redis import RedisBackend

logger = logging.getLogger(__name__)

#: Seconds for which a task that is done waits to have its result stored.
PATIENCE = 120.0
PAUSE = 0.5


class Backend(RedisBackend):
    #: Once over a new connection; `store_result` has more patience where it may.
    retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0, "interval_max": 0}

    def store_result(self, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        """Store it, or say in the log that it could not be: the task has the same outcome."""
        # Only the task itself may wait: a worker's main process has others to look after.
        patience = PATIENCE if state in states.READY_STATES and current_task else 0
        deadline = time.monotonic() + patience
        while True:
            try:
                return super().store_result(task_id, result, state, *args, **kwargs)
            except (redis.RedisError, OSError) as error:
                if time.monotonic() > deadline:
                    logger.error("%s of %s was not stored: %s", state, task_id, error)
                    return self.encode_result(result, state)
            time.sleep(PAUSE)
