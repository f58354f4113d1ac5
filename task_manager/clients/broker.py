"""What waits in the broker: the queues' lists and the held messages, read without taking them; and
what an operator takes out of a queue, puts back or moves.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import current_app

from marketplace.broker import BELL, FULL, RING, QueueFull
from task_manager.entries import PUBLISHED_AT

#: Messages read at once.
PAGE = 1000
#: The SHA-1 of each message that a purge of this name took out and nobody put back.
PURGED = "task_manager:purged:"
#: Seconds for which that is known.
PURGED_SECONDS = 30 * 86_400

# A list's end is what is next in turn. ARGV[1] is the last that was seen and stays: when workers
# have taken it meanwhile, they have taken all before it.
_PAGE = """
local stop = redis.call('LLEN', KEYS[1]) - 1
if ARGV[1] ~= '' then
    local at = redis.call('LPOS', KEYS[1], ARGV[1], 'RANK', -1)
    if at then stop = at - 1 end
end
if stop < 0 then return {} end
return redis.call('LRANGE', KEYS[1], math.max(0, stop - ARGV[2] + 1), stop)
"""
# Frees memory: works when there is none left.
_TAKE_OUT = """#!lua flags=allow-oom
local missing = {}
for i = 2, #ARGV do
    if redis.call('LREM', KEYS[1], -1, ARGV[i]) == 1 then
        redis.call('SADD', KEYS[2], redis.sha1hex(ARGV[i]))
        redis.call('EXPIRE', KEYS[2], ARGV[1])
    else missing[#missing + 1] = i - 2 end
end
return missing
"""
_ROOM = """
local function room(limit, first)
    if limit == 0 then return 1e15 end
    for i = first, #KEYS do limit = limit - redis.call('LLEN', KEYS[i]) end
    return limit
end
"""
_PUT_BACK = (
    _ROOM
    + """
local wanted = {}
for i = 3, #ARGV do
    if ARGV[2] == '1' or redis.call('SISMEMBER', KEYS[3], redis.sha1hex(ARGV[i])) == 1 then
        wanted[#wanted + 1] = ARGV[i]
    end
end
if room(tonumber(ARGV[1]), 4) < #wanted then return -1 end
for _, message in ipairs(wanted) do
    redis.call('SREM', KEYS[3], redis.sha1hex(message))
    redis.call('RPUSH', KEYS[2], message)
end
"""
    + RING.format(1)
    + "return #wanted"
)
_MOVE = (
    _ROOM
    + """
if room(tonumber(ARGV[1]), 4) < (#ARGV - 1) / 2 then return -1 end
local moved = 0
for i = 2, #ARGV, 2 do
    if redis.call('LREM', KEYS[2], -1, ARGV[i]) == 1 then
        redis.call('LPUSH', KEYS[3], ARGV[i + 1])
        moved = moved + 1
    end
end
"""
    + RING.format(1)
    + "return moved"
)


@dataclass(frozen=True)
class Message:
    """A task's message: its headers, and its arguments as they were given."""

    headers: dict[str, Any]
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str

    @property
    def task_id(self) -> str:
        return str(self.headers["id"])

    @property
    def published_at(self) -> float | None:
        value = self.headers.get(PUBLISHED_AT)
        return float(value) if isinstance(value, int | float) else None


class Broker:
    """The Redis broker of the current app, through kombu's own names of its keys."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.client = channel.client

    def queues(self) -> list[str]:
        return sorted(current_app.amqp.queues)

    def depth(self, queue: str) -> int:
        with self.client.pipeline(transaction=False) as pipe:
            for key in self._keys(queue):
                pipe.llen(key)
            return sum(pipe.execute())

    def limits(self) -> dict[str, int]:
        """How many messages may wait in each queue that has a bound."""
        return {queue: limit for queue, limit in self.channel.queue_limits.items() if limit > 0}

    def refused(self) -> dict[str, int]:
        """How many publications each queue refused because it was full, ever."""
        counts = self.client.hgetall(FULL)
        return {queue.decode(): int(count) for queue, count in counts.items()}

    def oldest(self, queue: str) -> float | None:
        """When the message that is next in turn was published (epoch seconds)."""
        with self.client.pipeline(transaction=False) as pipe:
            for key in self._keys(queue):
                pipe.lindex(key, -1)
            heads = [parsed(raw, queue) for raw in pipe.execute() if raw]
        times = [head.published_at for head in heads if head and head.published_at]
        return min(times, default=None)

    def priorities(self) -> list[int]:
        """The steps for which each queue has a list, the first in turn first."""
        return list(self.channel.priority_steps)

    def length(self, queue: str, priority: int) -> int:
        return int(self.client.llen(self.channel._q_for_pri(queue, priority)))

    def page(self, queue: str, priority: int, after: bytes, count: int = PAGE) -> list[bytes]:
        """The messages behind `after`, the first in turn first; from the start with b""."""
        key = self.channel._q_for_pri(queue, priority)
        found: list[bytes] = self.client.register_script(_PAGE)(keys=[key], args=[after, count])
        return found[::-1]

    def take_out(self, queue: str, priority: int, messages: list[bytes], purge: str) -> list[int]:
        """Remove them for this purge, at once; the numbers of those that are there no more."""
        missing: list[int] = self.client.register_script(_TAKE_OUT)(
            keys=[self.channel._q_for_pri(queue, priority), PURGED + purge],
            args=[PURGED_SECONDS, *messages],
        )
        return missing

    def is_out(self, purge: str) -> bool:
        """Whether anything that this purge took out was not put back."""
        return bool(self.client.exists(PURGED + purge))

    def put_back(
        self, queue: str, priority: int, messages: list[bytes], purge: str, *, all_: bool = False
    ) -> int:
        """Put in front what this purge took out, the last of `messages` first in turn; how many.

        `all_`: whatever the purge did. Raises QueueFull, and nothing was put back.
        """
        count: int = self.client.register_script(_PUT_BACK)(
            keys=[
                BELL,
                self.channel._q_for_pri(queue, priority),
                PURGED + purge,
                *self._keys(queue),
            ],
            args=[self.limits().get(queue, 0), int(all_), *messages],
        )
        return self._unless_full(queue, count)

    def move(
        self, source: str, target: str, priority: int, messages: list[tuple[bytes, bytes]]
    ) -> int:
        """Move each message, changed to its second form, behind those of `target`, at once.

        How many were still there. Raises QueueFull, and nothing was moved.
        """
        count: int = self.client.register_script(_MOVE)(
            keys=[
                BELL,
                self.channel._q_for_pri(source, priority),
                self.channel._q_for_pri(target, priority),
                *self._keys(target),
            ],
            args=[self.limits().get(target, 0), *(form for pair in messages for form in pair)],
        )
        return self._unless_full(target, count)

    def _unless_full(self, queue: str, count: int) -> int:
        if count < 0:
            raise QueueFull(queue, self.depth(queue), self.limits()[queue])
        return count

    def waiting(self, queue: str) -> Iterator[Message]:
        """Each message in the queue; those that come or go meanwhile may be missing."""
        for key in self._keys(queue):
            for start in range(0, int(self.client.llen(key)), PAGE):
                for raw in self.client.lrange(key, start, start + PAGE - 1):
                    if message := parsed(raw, queue):
                        yield message

    def held(self) -> Iterator[Message]:
        """Each message that a worker has and did not acknowledge."""
        for _tag, raw in self.client.hscan_iter(self.channel.unacked_key, count=PAGE):
            try:
                message, _exchange, queue = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if parsed_message := _task_message(message, queue):
                yield parsed_message

    def _keys(self, queue: str) -> list[str]:
        """A list for each priority."""
        separator = self.channel.sep
        return [
            f"{queue}{separator}{step}" if step else queue for step in self.channel.priority_steps
        ]


def parsed(raw: bytes, queue: str) -> Message | None:
    """None for what is no task of ours: another program's message, or no message at all."""
    try:
        return _task_message(json.loads(raw), queue)
    except (ValueError, RecursionError):
        return None


def _task_message(message: Any, queue: str) -> Message | None:
    headers = message.get("headers") if isinstance(message, dict) else None
    if not isinstance(headers, dict) or not _are_texts(headers.get("id"), headers.get("task")):
        return None
    try:
        args, kwargs, _embed = json.loads(base64.b64decode(message["body"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        args, kwargs = [], {}
    if not (isinstance(args, list) and isinstance(kwargs, dict)):
        args, kwargs = [], {}
    return Message(headers, args, kwargs, queue)


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


@contextmanager
def broker(*, seconds: float | None = None) -> Iterator[Broker]:
    """Each call to it may take `seconds`; the settings' own time-outs otherwise."""
    timeouts = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "max_retries": 1}
    options: Any = {"transport_options": timeouts} if seconds is not None else {}
    with current_app.connection_for_read(**options) as connection:
        yield Broker(connection.default_channel)
