"""The Redis stream that carries transitions from publishers and workers to PostgreSQL.

A writer collects for a few milliseconds and sends many transitions as one entry, on a thread of
its own, so that whoever publishes a task does not wait; what Redis did not take is sent again.
Readers form a consumer group: what one has read and not acknowledged another claims.
"""

import atexit
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from marketplace import sentinel
from task_manager.clients.processes import per_process

logger = logging.getLogger(__name__)

STREAM = "task_manager:transitions"
GROUP = "history"
FIELD = b"t"

#: An entry's id and its JSON.
Entry = tuple[bytes, bytes]

#: Transitions of an entry at most, and entries of a read.
BATCH = 20
READ = 200
#: Seconds after which a silent reader's entries are another's.
CLAIM_SECONDS = 15
#: Seconds for which acknowledged entries stay, for live clients that come back.
CATCH_UP_SECONDS = 120
#: Seconds after which a consumer that went away is forgotten.
FORGET_SECONDS = 3600

#: Seconds for which a process collects transitions before it sends them.
DELAY = 0.05
#: Seconds that the thread waits for Redis, and without another try after a failed one.
TIMEOUT = 5.0
BACK_OFF = 1.0
#: Transitions that a process keeps while Redis is away; older ones go.
KEPT = 10_000


class Writer:
    """Adds entries to the stream, a few milliseconds later and many at once, on a thread.

    Whoever adds pays for an append.
    """

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            **sentinel.options(),
        )
        self._sending = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._filled = threading.Event()
        self._waiting: deque[Callable[[], bytes]] = deque(maxlen=KEPT)
        self._failing = False
        self._process_id = os.getpid()
        atexit.register(self._end)

    def _end(self) -> None:
        if os.getpid() == self._process_id:
            self.flush()

    def add(self, entry: Callable[[], bytes]) -> None:
        """Send what `entry` gives, soon; it is called on the thread. Never raises."""
        self._waiting.append(entry)
        if not self._filled.is_set():
            self._filled.set()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="task-writer", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._filled.wait():
            time.sleep(DELAY)
            self._filled.clear()
            if not self.flush():
                time.sleep(BACK_OFF)
                self._filled.set()

    def flush(self) -> bool:
        """Send what waits, now; False when Redis does not answer, and then it waits on."""
        with self._sending:
            while self._waiting:
                batch: list[bytes] = []
                count = 0
                for entry in list(itertools.islice(self._waiting, BATCH * 50)):
                    count += 1
                    try:
                        batch.append(entry())
                    except Exception:
                        logger.exception("A transition could not be written")
                try:
                    self.send(batch)
                except redis.ResponseError as error:  # such as out of memory
                    logger.warning("Redis refused %d transitions: %s", count, error)
                except (redis.RedisError, OSError) as error:
                    if not self._failing:
                        logger.warning("Task tracking waits: Redis does not answer: %s", error)
                    self._failing = True
                    return False
                self._failing = False
                for _ in range(min(count, len(self._waiting))):
                    self._waiting.popleft()
        return True

    def send(self, entries: list[bytes]) -> None:
        """Write these now; raises what Redis or the network raised."""
        if not entries:
            return
        with self.client.pipeline(transaction=False) as pipe:
            for start in range(0, len(entries), BATCH):
                pipe.xadd(
                    STREAM,
                    {FIELD: b",".join(entries[start : start + BATCH])},
                    maxlen=settings.TASK_TRACKING_STREAM_LENGTH,
                    approximate=True,
                )
            pipe.execute()


writer = per_process(Writer)


class Reader:
    """One consumer of the group."""

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self.client = redis.Redis.from_url(
            settings.REDIS_URL,
            socket_timeout=10,
            socket_connect_timeout=TIMEOUT,
            **sentinel.options(),
        )

    def close(self) -> None:
        self.client.close()

    def new(self, *, block_ms: int | None) -> list[Entry]:
        """Entries that no reader has had, oldest first; waits for one up to `block_ms`."""
        return self._read(">", block_ms)

    def own(self) -> list[Entry]:
        """What this consumer had in an earlier life and did not acknowledge."""
        return self._read("0", None)

    def _read(self, start: str, block_ms: int | None) -> list[Entry]:
        answer = self._in_group(
            lambda: self.client.xreadgroup(
                GROUP, self.consumer, {STREAM: start}, count=READ, block=block_ms
            )
        )
        return _entries(answer[0][1]) if answer else []

    def _in_group(self, command: Callable[[], Any]) -> Any:
        """The command's answer; None where there was no group yet, which is made."""
        try:
            return command()
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._create_group()
            return None

    def _create_group(self) -> None:
        try:
            self.client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def claim(self, *, seconds: float = CLAIM_SECONDS) -> list[Entry]:
        """Entries that another reader has had for too long: it died, or cannot write."""
        answer = self._in_group(
            lambda: self.client.xautoclaim(
                STREAM, GROUP, self.consumer, min_idle_time=int(seconds * 1000), count=READ
            )
        )
        return _entries(answer[1]) if answer else []

    def acknowledge(self, entries: list[Entry]) -> None:
        if entries:
            self.client.xack(STREAM, GROUP, *(entry_id for entry_id, _ in entries))

    def tidy(self) -> None:
        """Cut what every reader has acknowledged and is older than the time of catching up.

        Forget consumers that went away, too.
        """
        if not self.client.exists(STREAM):
            return
        group: Any = next(
            group for group in self.client.xinfo_groups(STREAM) if group["name"] == GROUP.encode()
        )
        pending: Any = self.client.xpending(STREAM, GROUP)
        oldest = pending["min"] if pending["pending"] else group["last-delivered-id"]
        remembered = f"{int((time.time() - CATCH_UP_SECONDS) * 1000)}-0".encode()
        self.client.xtrim(STREAM, minid=min(oldest, remembered, key=position), approximate=True)
        for consumer in self.client.xinfo_consumers(STREAM, GROUP):
            if not consumer["pending"] and consumer["idle"] > FORGET_SECONDS * 1000:
                self.client.xgroup_delconsumer(STREAM, GROUP, consumer["name"])


def _entries(answer: list[Any]) -> list[Entry]:
    return [(entry_id, fields[FIELD]) for entry_id, fields in answer if fields]


def position(entry_id: bytes) -> tuple[int, int]:
    """A stream id in its order: `b"1795330560713-0"` as (1795330560713, 0)."""
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)


@dataclass(frozen=True)
class Backlog:
    """What the readers still have before them."""

    length: int  # entries that no reader has had
    pending: int  # entries read and not acknowledged
    seconds: float  # age of the oldest of either
    overflowed: bool  # entries were cut before a reader had them


def backlog(client: "redis.Redis") -> Backlog:
    with client.pipeline(transaction=True) as pipe:
        pipe.xinfo_stream(STREAM)
        pipe.xinfo_groups(STREAM)
        stream, groups = pipe.execute(raise_on_error=False)
    if isinstance(stream, redis.ResponseError):  # no such key: nothing was ever published
        return Backlog(0, 0, 0.0, overflowed=False)
    if isinstance(stream, Exception):
        raise stream
    group: Any = next((group for group in groups if group["name"] == GROUP.encode()), None)
    first, last = stream["first-entry"], stream["last-generated-id"]
    delivered = group["last-delivered-id"] if group else b"0-0"
    pending: Any = client.xpending(STREAM, GROUP) if group and group["pending"] else None
    unread = 0
    oldest = pending["min"] if pending else None
    if position(last) > position(delivered) and first:
        after: Any = client.xrange(STREAM, min=b"(" + delivered, count=1)
        oldest = oldest or (after[0][0] if after else None)
        unread = group["lag"] if group and group["lag"] is not None else stream["length"]
    age = max(0.0, time.time() - position(oldest)[0] / 1000) if oldest else 0.0
    overflowed = bool(
        first
        and delivered != b"0-0"
        and position(first[0]) > position(delivered)
        and stream["length"] >= settings.TASK_TRACKING_STREAM_LENGTH
    )
    return Backlog(unread, pending["pending"] if pending else 0, age, overflowed)
