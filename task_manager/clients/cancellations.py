"""The tasks that must not start: a sorted set in Redis, by the time of their cancellation.

A worker starts a task only with a copy of the set no older than `LEASE`; whoever cancels waits
until each living worker has answered, or that long. So a cancelled task never starts, whichever
worker takes it and whenever that comes up, and no task waits for Redis.
"""

import time
from collections.abc import Iterable, Sequence

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from marketplace import sentinel
from task_manager.clients.processes import per_process

KEY = "task_manager:cancelled"
WORKERS = "task_manager:workers"

#: Seconds for which a worker may trust its copy.
LEASE = 1.0
#: Seconds that a call may take.
TIMEOUT = 1.0

#: By Redis' own clock, so that the hosts' need not agree.
_ADD = """
local time = redis.call('TIME')
for _, id in ipairs(ARGV) do redis.call('ZADD', KEYS[1], time[1] + time[2] / 1e6, id) end
return tostring(time[1] + time[2] / 1e6)
"""
_CHANGES = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
if ARGV[1] ~= '' then redis.call('ZADD', KEYS[2], now, ARGV[1]) end
return {tostring(now), redis.call('ZRANGE', KEYS[1], ARGV[2], '+inf', 'BYSCORE')}
"""
_ALIVE = """
local time = redis.call('TIME')
return redis.call('ZRANGE', KEYS[1], time[1] + time[2] / 1e6 - ARGV[1], '+inf', 'BYSCORE')
"""
_SIGNS = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local found = redis.call('ZRANGE', KEYS[1], now - ARGV[1], '+inf', 'BYSCORE', 'WITHSCORES')
for i = 2, #found, 2 do found[i] = tostring(now - found[i]) end
return found
"""
_FORGET = """
local time = redis.call('TIME')
return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. time[1] - ARGV[1])
"""


class Cancellations:
    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 1),
            decode_responses=True,
            **sentinel.options(),
        )
        self._add = self.client.register_script(_ADD)
        self._changes = self.client.register_script(_CHANGES)
        self._alive = self.client.register_script(_ALIVE)
        self._signs = self.client.register_script(_SIGNS)
        self._forget = self.client.register_script(_FORGET)

    def add(self, task_ids: Sequence[str]) -> None:
        for start in range(0, len(task_ids), 1000):
            self._add(keys=[KEY], args=task_ids[start : start + 1000])

    def since(self, moment: float, *, worker: str = "") -> tuple[float, Iterable[str]]:
        """Redis' time, and the ids cancelled since `moment`; says that `worker` lives, too."""
        now, ids = self._changes(keys=[KEY, WORKERS], args=[worker, moment])
        return float(now), ids

    def workers(self, *, seconds: float) -> list[str]:
        """The names of the workers that said so within this time."""
        names: list[str] = self._alive(keys=[WORKERS], args=[seconds])
        return names

    def signs_of_life(self, *, seconds: float) -> dict[str, float]:
        """The same by name, with how many seconds ago they last did."""
        told = iter(self._signs(keys=[WORKERS], args=[seconds]))
        return {name: max(0.0, float(age)) for name, age in zip(told, told, strict=True)}

    def forget(self, *, seconds: float) -> None:
        """Drop ids and workers older than this."""
        for key in (KEY, WORKERS):
            self._forget(keys=[key], args=[seconds])


cancellations = per_process(Cancellations)


class Copy:
    """A worker's copy of the set."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self._moment = 0.0
        self._synced = float("-inf")

    def sync(self, worker: str = "") -> None:
        asked = time.monotonic()
        # With some overlap: a clock may be set back a little.
        now, ids = cancellations().since(self._moment - 10, worker=worker)
        self.ids.update(ids)
        self._moment, self._synced = now, asked

    def is_fresh(self) -> bool:
        return time.monotonic() - self._synced < LEASE

    def postpone(self) -> None:
        """Take the copy for fresh, although Redis does not answer: tasks must run."""
        self._synced = time.monotonic()
