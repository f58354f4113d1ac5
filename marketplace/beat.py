"""The scheduler: RedBeat, which keeps the schedule in Redis and lets one beat of many tick."""

import logging
from typing import Any

from celery.beat import SchedulingError
from redbeat import RedBeatScheduler

from marketplace import liveness
from marketplace.broker import PERIODIC, StillWaiting

logger = logging.getLogger(__name__)


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """RedBeat that shows that it ticks, at most `beat_max_loop_interval` apart.

    Of each entry one message waits: while no worker takes it, another would only pile up.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        liveness.touch()
        delay: float = super().tick(*args, **kwargs)
        return delay

    def apply_async(self, entry: Any, **kwargs: Any) -> Any:
        entry.options.setdefault("headers", {})[PERIODIC] = entry.name
        try:
            return super().apply_async(entry, **kwargs)
        except SchedulingError as error:
            if not isinstance(error.__context__, StillWaiting):
                raise
            logger.warning("%s still waits for a worker", entry.name)
            return None
