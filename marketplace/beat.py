"""The scheduler: RedBeat, which keeps the schedule in Redis and lets one beat of many tick.

RedBeat itself ends when Redis is away, waits for the lock before it shows any sign of life, and
knows nothing of a Redis that came back empty.
"""

import logging
from typing import Any

import redis
from celery.beat import Scheduler as CeleryScheduler
from celery.beat import SchedulingError
from redbeat import RedBeatScheduler
from redbeat.schedulers import get_redis

from marketplace import liveness
from marketplace.broker import PERIODIC, StillWaiting

logger = logging.getLogger(__name__)


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """Ticks at most `beat_max_loop_interval` apart, whether it leads, stands by or waits.

    Of each entry one message waits: while no worker takes it, another would only pile up.
    """

    lock: Any
    lock_key: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # RedBeat shall neither wait for it nor fail for want of it: see `_leads`.
        self._key, self.lock_key = self.lock_key, None
        self._waits_for = ""

    def setup_schedule(self) -> None:
        """Done by the one that leads, once it does."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        liveness.touch()
        delay: float = self.max_interval
        try:
            if self._leads():
                self._say("")
                delay = super().tick(*args, **kwargs)
        except redis.exceptions.LockError:
            # It ran out while nobody could renew it, or went with the data of Redis.
            self.lock = None
            delay = 0.0
        except (redis.RedisError, OSError) as error:
            self._say(f"Redis does not answer: {error}")
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

    def _leads(self) -> bool:
        """Whether this is the beat that ticks: it holds the lock, or has it from now on."""
        if self.lock:
            self.lock.extend(self.lock_timeout, replace_ttl=True)
            return True
        lock = get_redis(self.app).lock(self._key, timeout=self.lock_timeout)
        if not lock.acquire(blocking=False):
            self._say("another one has the lock")
            return False
        super().setup_schedule()
        self.lock = lock
        logger.info("beat: Acquired lock")
        return True

    def _say(self, waits_for: str) -> None:
        """Once, why it waits."""
        if waits_for and waits_for != self._waits_for:
            logger.warning("beat: Waiting: %s", waits_for)
        self._waits_for = waits_for

    def close(self) -> None:
        try:
            super().close()
        except (redis.RedisError, OSError) as error:
            logger.warning("beat: The lock runs out by itself: %s", error)
            self.lock = None
            CeleryScheduler.close(self)
