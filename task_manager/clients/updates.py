"""The stream of transitions as live clients follow it: read beside the group, taking nothing."""

import json
import logging
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from marketplace import sentinel
from task_manager.clients.stream import FIELD, STREAM

logger = logging.getLogger(__name__)

#: What each transition says.
NEEDED = {"id", "status", "position", "at"}

#: Seconds that Redis may take for an answer, and connections that one process opens at most.
TIMEOUT = 5.0
CONNECTIONS = 8


class Position(NamedTuple):
    """A place in the stream: an entry, and a transition in it."""

    milliseconds: int
    number: int
    part: int

    def __str__(self) -> str:
        return "-".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> "Position":
        """`1795330560713-0-3`, as clients give it back; nowhere for anything else."""
        match = re.fullmatch(r"([0-9]{1,15})-([0-9]{1,15})-([0-9]{1,4})", text)
        return cls(*map(int, match.groups())) if match else NOWHERE

    @classmethod
    def before(cls, milliseconds: int) -> "Position":
        """Before all that was written at this time of Redis' clock, or later."""
        return cls(milliseconds - 1, MAX_NUMBER, END)

    @property
    def entry(self) -> str:
        return f"{self.milliseconds}-{self.number}"


#: Behind every transition of an entry, and behind every entry of a millisecond.
END = 9999
MAX_NUMBER = 10**15 - 1
#: Before everything, and never a place that the stream still holds.
NOWHERE = Position(-1, 0, 0)


class Entry(NamedTuple):
    """A batch of transitions, as one writer sent it; each stands at its index."""

    position: Position
    transitions: list[dict[str, Any]]


@dataclass(frozen=True)
class Window:
    """What the stream holds right now."""

    now: int
    """Redis' clock, in milliseconds."""
    first: Position | None
    last: Position

    def holds_all_after(self, position: Position) -> bool:
        """Whether nothing that came after this was cut, or lost with Redis."""
        if position.entry == self.last.entry:
            return True
        if position > self.last:
            return position.milliseconds <= self.now
        return self.first is not None and self.first <= position


class Stream:
    def __init__(self, url: str) -> None:
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 1),  # a connection of the pool may have died unseen
            **sentinel.async_options(),
        )
        self.client = redis.asyncio.Redis.from_pool(pool)

    async def close(self) -> None:
        await self.client.aclose()

    async def window(self) -> Window:
        async with self.client.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.xinfo_stream(STREAM)
            (seconds, microseconds), stream = await pipe.execute(raise_on_error=False)
        now = seconds * 1000 + microseconds // 1000
        if isinstance(stream, redis.ResponseError):  # no such key: nothing was ever written
            return Window(now, None, Position(0, 0, END))
        first = stream["first-entry"]
        return Window(
            now,
            _position(first[0], 0) if first else None,
            _position(stream["last-generated-id"], END),
        )

    async def new(self, after: Position, *, count: int, block_ms: int) -> list[Entry]:
        """Entries behind the one of this position; waits for some up to `block_ms`."""
        answer: Any = await self.client.xread({STREAM: after.entry}, count=count, block=block_ms)
        return [*map(_entry, answer[0][1])] if answer else []

    async def between(self, start: Position, end: Position, *, count: int) -> list[Entry]:
        """The entries of these two positions and what lies between, at most so many."""
        answer: Any = await self.client.xrange(STREAM, min=start.entry, max=end.entry, count=count)
        return [*map(_entry, answer)]


def _position(entry_id: bytes, part: int) -> Position:
    milliseconds, _, number = entry_id.partition(b"-")
    return Position(int(milliseconds), int(number), part)


def _entry(answer: tuple[bytes, dict[bytes, bytes]]) -> Entry:
    entry_id, fields = answer
    try:
        transitions = json.loads(b"[" + fields[FIELD] + b"]")
        if not all(transition.keys() >= NEEDED for transition in transitions):
            raise ValueError
    except (AttributeError, KeyError, ValueError):
        logger.warning("Entry %r of the stream is none of ours", entry_id)
        transitions = []
    return Entry(_position(entry_id, END), transitions)
