"""The scheduler: RedBeat, which keeps the schedule in Redis and lets one beat of many tick."""

import logging
import time
from typing import Any

import redis
from celery.beat import SchedulingError
from celery.signals import beat_init
from redbeat import RedBeatScheduler
from redbeat.schedulers import (
    LUA_EXTEND_TO_SCRIPT,
    acquire_distributed_beat_lock,
    get_redis,
)

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


# RedBeat's own wait shows no sign of life, and gives up when Redis is away for a moment: a standby
# would look dead, or be it.
beat_init.disconnect(acquire_distributed_beat_lock)


@beat_init.connect(dispatch_uid="marketplace.beat")
def wait_for_the_lock(sender: Any, **_: Any) -> None:
    """Stand by until no other beat ticks."""
    scheduler = sender.scheduler
    client = get_redis(scheduler.app)
    lock = client.lock(scheduler.lock_key, timeout=scheduler.lock_timeout)
    # RedBeat extends to a time, redis-py by one.
    lock.lua_extend = client.register_script(LUA_EXTEND_TO_SCRIPT)
    logger.info("beat: Acquiring lock...")
    while not _acquired(lock):
        liveness.touch()
        time.sleep(1)
    logger.info("beat: Acquired lock")
    scheduler.lock = lock


def _acquired(lock: Any) -> bool:
    try:
        acquired: bool = lock.acquire(blocking=False)
    except (redis.RedisError, OSError) as error:
        logger.warning("beat: Redis does not answer: %s", error)
        return False
    return acquired
