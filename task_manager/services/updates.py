"""Live updates: what the stream says, told to the clients of this process whom it concerns.

Each web process follows the stream of transitions by itself, with one reader for all its clients,
while it has any. A channel layer would be a second copy of every transition, which somebody pays
for at each task; it drops messages of a full channel without a word; and it cannot give a client
that was away what it missed. The stream is written anyway, is bounded, and remembers.
"""

import asyncio
import json
import logging
import random
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import redis
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import Error

from task_manager.clients.updates import NOWHERE, Entry, Position, Stream, Window
from task_manager.models import TaskExecution, TaskStatus

logger = logging.getLogger(__name__)

#: Clients of one process, and of one user in it.
MAX_CLIENTS = 500
MAX_CLIENTS_OF_USER = 20
#: Updates that wait for one client, and their characters.
MAX_WAITING = 1000
MAX_WAITING_SIZE = 1_000_000
#: Entries that a client that comes back is given; who missed more begins anew.
MAX_MISSED = 2000
#: Seconds of the past that a new client is given: the rows may not show them yet.
RECENT = 2
#: Seconds of the past that the reader begins with, to know the tasks that are under way.
WARM_UP = 10
#: Tasks whose state is remembered, so that a late or repeated transition goes no further.
MAX_KNOWN = 20_000
#: Entries of one read.
READ = 100
#: Seconds after which the reader looks whether it should end, and between tries without Redis.
BLOCK = 1.0
LONGEST_PAUSE = 2.0
#: Seconds that a client waits for the reader to start.
START = 5.0

#: Why a connection is closed, as WebSocket's codes.
RESTART = 1012
TRY_AGAIN = 1013

#: Whether this process goes on; the web server's hook replaces it.
is_serving: Callable[[], bool] = lambda: True  # noqa: E731


class Unavailable(Exception):
    """There is no room for another client, or Redis does not answer."""


# --- Messages ------------------------------------------------------------------------------------
def _text(event: str, **fields: Any) -> str:
    return json.dumps({"event": event, **fields}, ensure_ascii=False, separators=(",", ":"))


class Update(NamedTuple):
    """A transition that says something new of a task."""

    position: Position
    user_id: int | None
    task_id: str
    state: str
    retries: int
    progress: int
    message: str
    result: Any

    @property
    def subject(self) -> tuple[str, str, int]:
        """What it tells of: of two updates, the later says all."""
        return self.task_id, self.state, self.retries

    @property
    def text(self) -> str:
        return _text(
            "task_update",
            task_id=self.task_id,
            state=self.state,
            progress=self.progress,
            message=self.message,
            result=self.result,
            id=str(self.position),
        )


# --- What is known of the tasks ------------------------------------------------------------------
@dataclass(slots=True)
class _Task:
    user_id: int | None = None
    retries: int = 0
    progress: int = 0
    message: str = ""
    #: Position and time of the last transition; at first before every one.
    order: tuple[int, float] = (-1, 0.0)
    #: What the row or another client's reader knows of it already: it counts once its
    #: transitions here have come as far.
    ahead: "_Task | None" = None


class Known:
    """The tasks seen lately, each as far as it has come. Follows the rules of the rows' upsert."""

    def __init__(self) -> None:
        self.tasks: OrderedDict[str, _Task] = OrderedDict()

    def news(self, entry: Entry, *, after: Position = NOWHERE) -> Iterator[Update]:
        """What an entry says that is new."""
        for part, transition in enumerate(entry.transitions):
            position = entry.position._replace(part=part)
            if position > after and (update := self._update(position, transition)):
                yield update

    def _update(self, position: Position, transition: dict[str, Any]) -> Update | None:
        task_id, status = transition["id"], transition["status"]
        task = self._task(task_id)
        task.user_id = transition.get("user_id") or task.user_id
        order = (transition["position"], transition["at"])
        if order <= task.order:
            return None
        retries, progress = transition.get("retries") or 0, transition.get("progress") or 0
        task.order = order
        if task.ahead and order[0] >= task.ahead.order[0]:
            task.retries, task.progress = task.ahead.retries, task.ahead.progress
            task.message = task.ahead.message
            task.ahead = None
        task.progress = progress if retries > task.retries else max(progress, task.progress)
        task.retries = max(retries, task.retries)
        task.message = transition.get("message") or task.message
        result, message = transition.get("result"), task.message
        if status != TaskStatus.SUCCESS and (error := transition.get("error")):
            result, message = {"message": error}, error
        return Update(
            position, task.user_id, task_id, status, retries, task.progress, message, result
        )

    def _task(self, task_id: str) -> _Task:
        task = self.tasks.get(task_id)
        if task is None:
            task = self.tasks[task_id] = _Task()
            if len(self.tasks) > MAX_KNOWN:
                self.tasks.popitem(last=False)
        else:
            self.tasks.move_to_end(task_id)
        return task

    async def learn(self, entries: list[Entry], others: "Known | None" = None) -> None:
        """Ask of the tasks that are under way already: few transitions name user and progress."""
        unknown: set[str] = set()
        for entry in entries:
            for transition in entry.transitions:
                task_id = transition["id"]
                if task_id in self.tasks or task_id in unknown:
                    continue
                if others and (known := others.tasks.get(task_id)):
                    self._begin(task_id, known)
                elif transition["status"] != TaskStatus.PENDING:
                    unknown.add(task_id)
        if not unknown:
            return
        try:
            rows = await database_sync_to_async(_rows)(unknown)
        except Error as error:
            logger.warning("PostgreSQL does not say whose tasks these are: %s", error)
            return
        for task_id, user_id, retries, progress, message, position in rows:
            self._begin(task_id, _Task(user_id, retries, progress, message, (position, 0.0)))

    def _begin(self, task_id: str, known: _Task) -> None:
        task = self._task(task_id)
        task.user_id = known.user_id
        task.ahead = known


def _rows(task_ids: Iterable[str]) -> list[Any]:
    rows = TaskExecution.objects.filter(task_id__in=list(task_ids))
    return list(
        rows.values_list("task_id", "user_id", "retries", "progress", "message", "position")
    )


# --- Clients -------------------------------------------------------------------------------------
class Client:
    """One connection. Has what waits for it in memory, or what it missed in the stream."""

    def __init__(self, hub: "Hub", user_id: int, *, sees_all: bool, position: Position | None):
        self.hub = hub
        #: Whose tasks it sees; None: everybody's, and nobody's too.
        self.sees = None if sees_all else user_id
        #: It was sent all up to here.
        self.position = position
        self._behind = True
        self._waiting: OrderedDict[tuple[str, str, int], tuple[Position, str]] = OrderedDict()
        self._size = 0
        self._filled = asyncio.Event()
        self._ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def offer(self, update: Update, text: str) -> None:
        """Give it to the client soon; a later progress takes the place of one that still waits."""
        if self._behind:
            return
        _, replaced = self._waiting.pop(update.subject, (None, ""))
        self._waiting[update.subject] = update.position, text
        self._size += len(text) - len(replaced)
        self._filled.set()
        count = len(self._waiting)
        if count > MAX_WAITING or (self._size > MAX_WAITING_SIZE and count > 1):
            self.fall_behind()

    def fall_behind(self) -> None:
        """Keep nothing more for a client that is slow: it is given the rest from the stream."""
        self._behind = True
        self._waiting.clear()
        self._size = 0
        self._filled.set()

    def end(self, code: int) -> None:
        if not self._ending.done():
            self._ending.set_result(code)

    async def ended(self) -> int:
        """Returns when the connection is to be closed: the code for it."""
        return await self._ending

    async def messages(self, beat: float) -> AsyncIterator[str]:
        """What to send, as fast as it is taken. Raises Unavailable without Redis."""
        while True:
            if self._behind:
                async for text in self._missed():
                    yield text
                yield self._alive()
            elif self._waiting:
                _, (position, text) = self._waiting.popitem(last=False)
                self._size -= len(text)
                if self.position is None or position > self.position:
                    self.position = position
                    yield text
            else:
                self._filled.clear()
                try:
                    async with asyncio.timeout(beat):
                        await self._filled.wait()
                except TimeoutError:
                    if not self._filled.is_set():
                        self.position = max(self.position or NOWHERE, self.hub.position)
                        yield self._alive()

    def _alive(self) -> str:
        return _text("alive", id=str(self.position))

    async def _missed(self) -> AsyncIterator[str]:
        """What the stream has after the client's position, up to where it is offered the rest."""
        window = await self.hub.window()
        recent = Position.before(window.now - RECENT * 1000)
        begins_anew = self.position is not None and not window.holds_all_after(self.position)
        if begins_anew or self.position is None:
            self.position = recent
        # Nothing is awaited between these: each update comes from one side or from the other.
        end = self.hub.position
        self._behind = False
        if begins_anew:
            yield _text("resync", id=str(self.position))
        known, left = Known(), MAX_MISSED
        while self.position < end:
            entries = await self.hub.between(self.position, end)
            await known.learn(entries, self.hub.known)
            for entry in entries:
                for update in known.news(entry, after=self.position):
                    if self.sees in (None, update.user_id):
                        self.position = update.position
                        yield update.text
                self.position = entry.position
            left -= len(entries)
            if len(entries) < READ:
                break
            if left <= 0 and self.position < recent:
                self.position = recent
                yield _text("resync", id=str(self.position))
        self.position = max(self.position, end)


class Hub:
    """The reader of this process and its clients."""

    def __init__(self) -> None:
        self.known = Known()
        #: All up to here was offered to the clients.
        self.position = NOWHERE
        self._stream = Stream(settings.REDIS_URL)
        self._seats: Counter[int] = Counter()
        self._clients: dict[int | None, set[Client]] = {}
        self._started = asyncio.Event()
        self._closed = False
        self._task = asyncio.create_task(self._run(), name="task-updates")

    # --- For the clients ---
    def seat(self, user_id: int) -> None:
        if self._seats.total() >= MAX_CLIENTS or self._seats[user_id] >= MAX_CLIENTS_OF_USER:
            raise Unavailable
        self._seats[user_id] += 1

    def add(self, client: Client) -> None:
        self._clients.setdefault(client.sees, set()).add(client)

    def remove(self, client: Client) -> None:
        self._clients[client.sees].remove(client)
        if not self._clients[client.sees]:
            del self._clients[client.sees]

    def leave(self, user_id: int) -> bool:
        """Give the seat back; whether it was the last."""
        self._seats[user_id] -= 1
        self._seats += Counter()  # without those that are zero
        return not self._seats

    def close(self) -> None:
        # Told, too: while it connects, redis-py may swallow a cancellation.
        self._closed = True
        self._task.cancel()

    async def window(self) -> Window:
        with _available():
            async with asyncio.timeout(START):
                await self._started.wait()
            return await self._stream.window()

    async def between(self, start: Position, end: Position) -> list[Entry]:
        with _available():
            return await self._stream.between(start, end, count=READ)

    # --- The reader ---
    async def _run(self) -> None:
        failures = 0
        try:
            while not self._closed:
                try:
                    await self._resume()
                    failures = 0
                    while not self._closed:
                        await self._read()
                except Exception as error:
                    expected = isinstance(error, redis.RedisError | OSError)
                    if not failures or not expected:
                        logger.warning("Live updates wait: %r", error, exc_info=not expected)
                    failures += 1
                    self._end_if_told()
                    pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(failures, 10))
                    await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311
        finally:
            await self._stream.close()

    async def _resume(self) -> None:
        window = await self._stream.window()
        if not self._started.is_set():
            self.position = Position.before(window.now - WARM_UP * 1000)
            self._started.set()
        elif not window.holds_all_after(self.position):
            self.position = Position.before(window.now - RECENT * 1000)
            for client in self._all():
                client.fall_behind()

    async def _read(self) -> None:
        entries = await self._stream.new(self.position, count=READ, block_ms=int(BLOCK * 1000))
        self._end_if_told()
        await self.known.learn(entries)
        for entry in entries:
            for update in self.known.news(entry):
                self._tell(update)
            self.position = entry.position
            await asyncio.sleep(0)  # the clients' turn

    def _tell(self, update: Update) -> None:
        text = ""
        for sees in {None, update.user_id}:
            for client in self._clients.get(sees, ()):
                text = text or update.text
                client.offer(update, text)

    def _end_if_told(self) -> None:
        if not is_serving():
            for client in self._all():
                client.end(RESTART)

    def _all(self) -> Iterator[Client]:
        return chain.from_iterable(self._clients.values())


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except (TimeoutError, redis.RedisError, OSError) as error:
        raise Unavailable from error


_hub: Hub | None = None


@contextmanager
def joined(user_id: int, *, sees_all: bool, last_id: str | None) -> Iterator[Client]:
    """A client among the others, for as long as this lasts. Raises Unavailable.

    It is given the updates of the user's tasks, or of all: those after `last_id`, as far as the
    stream still has them, and then as they come.
    """
    global _hub
    hub = _hub = _hub or Hub()
    hub.seat(user_id)
    position = None if last_id is None else Position.parse(last_id)
    client = Client(hub, user_id, sees_all=sees_all, position=position)
    hub.add(client)
    try:
        yield client
    finally:
        hub.remove(client)
        if hub.leave(user_id):
            hub.close()
            _hub = None
