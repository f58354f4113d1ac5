"""What an operator does with messages that wait: looks at them, purges, restores and moves them.

A purge hands each batch out before it takes it out of the queue, and Redis knows which messages it
took: so each of them is restored once, whatever was killed in between, and what a worker was
quicker to take is left to it. Messages that workers hold are never touched.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import Any

from task_manager import entries
from task_manager.clients.broker import Broker, Message, broker, parsed
from task_manager.models import TaskStatus
from task_manager.services.executions import executions_record, executions_reopen

#: Seconds that one call to Redis may take.
TIMEOUT = 10.0
#: Messages that are handed out, taken out or moved at once.
BATCH = 500
PURGED = "The task was purged from its queue; scripts/queues restore brings it back."


class UnknownQueue(LookupError):
    """The settings name no such queue, and nothing is left in one."""

    def __init__(self, queue: str, known: list[str]) -> None:
        super().__init__(f"no queue is called {queue!r}; there are {', '.join(known)}")


class NothingPurged(LookupError):
    """Redis does not know of any message that the purge took out and nobody put back."""


@dataclass(frozen=True)
class Kept:
    """A message as it stood in its queue."""

    queue: str
    priority: int
    raw: bytes

    @cached_property
    def message(self) -> Message | None:
        """None for what is no task of ours."""
        return parsed(self.raw, self.queue)


# --- Looking -------------------------------------------------------------------------------------
def messages_count(queue: str, *, task: str | None = None) -> int:
    """How many wait, of this task where one is named. Raises UnknownQueue."""
    with broker(seconds=TIMEOUT) as messages:
        _check_queue(messages, queue)
        if task is None:
            return messages.depth(queue)
        return sum(len(batch) for batch in _batches(messages, queue, task=task))


def messages_peek(queue: str, count: int) -> list[dict[str, Any]]:
    """The first in turn, their secrets masked; the age is in seconds. Raises UnknownQueue."""
    with broker(seconds=TIMEOUT) as messages:
        _check_queue(messages, queue)
        now = float(messages.client.time()[0])
        waiting = (kept for batch in _batches(messages, queue) for kept in batch)
        return [_shown(kept, now) for kept in islice(waiting, count)]


def _shown(kept: Kept, now: float) -> dict[str, Any]:
    message = kept.message
    if message is None:
        unreadable = entries.shortened(kept.raw.decode(errors="replace"), 100)
        return {"id": None, "task": None, "priority": kept.priority, "unreadable": unreadable}
    name = message.headers["task"]
    arguments = entries.describe(name).bind(message.args, message.kwargs)
    published = message.published_at
    return {
        "id": message.task_id,
        "task": name,
        "priority": kept.priority,
        "age_seconds": max(0.0, now - published) if published else None,
        "retries": message.headers.get("retries") or 0,
        "not_before": message.headers.get("eta"),
        "arguments": entries.bounded(arguments),
    }


# --- Purging and restoring -----------------------------------------------------------------------
def messages_purge(queue: str, name: str, *, task: str | None = None) -> Iterator[list[Kept]]:
    """Batches of what waits, each taken out of the queue once the next one is asked for.

    `name` is the purge's own. The history says REVOKED. Raises UnknownQueue.
    """
    with broker(seconds=TIMEOUT) as messages:
        _check_queue(messages, queue)
        for batch in _batches(messages, queue, task=task, taking=True):
            yield batch
            _purge(messages, batch, name)


def _purge(messages: Broker, batch: list[Kept], name: str) -> None:
    """The history first: what it knows to have ended is not published again as lost."""
    executions_record(_transitions(batch, TaskStatus.REVOKED))
    raws = [kept.raw for kept in batch]
    missing = messages.take_out(batch[0].queue, batch[0].priority, raws, name)
    executions_reopen(_task_ids(batch[number] for number in missing), error=PURGED)


def messages_restore(kept: Iterable[Kept], name: str, *, all_: bool = False) -> int:
    """Put in front of its queue what this purge took out, the last of `kept` first in turn.

    `all_`: also what Redis does not know as taken out, unless it waits or is held. How many.
    Raises UnknownQueue, NothingPurged, and QueueFull, after which the rest may follow.
    """
    with broker(seconds=TIMEOUT) as messages:
        if not all_ and not messages.is_out(name):
            raise NothingPurged
        there = _ids_there(messages) if all_ else set()
        restored = 0
        for (queue, priority), batch in _grouped(kept):
            _check_queue(messages, queue)
            if priority not in messages.priorities():
                raise UnknownQueue(f"{queue} of priority {priority}", messages.queues())
            wanted = [one.raw for one in batch if not there.intersection(_task_ids([one]))]
            restored += messages.put_back(queue, priority, wanted, name, all_=all_)
            executions_reopen(_task_ids(batch), error=PURGED)
        return restored


def _grouped(kept: Iterable[Kept]) -> Iterator[tuple[tuple[str, int], list[Kept]]]:
    for place, group in groupby(kept, key=lambda one: (one.queue, one.priority)):
        while batch := list(islice(group, BATCH)):
            yield place, batch


def _ids_there(messages: Broker) -> set[str]:
    waiting = {
        message.task_id for queue in messages.queues() for message in messages.waiting(queue)
    }
    return waiting | {message.task_id for message in messages.held()}


# --- Moving --------------------------------------------------------------------------------------
def messages_move(source: str, target: str, *, task: str | None = None) -> Iterator[int]:
    """Move what waits behind what waits in `target`, a batch at once; how many, of each.

    Raises UnknownQueue, and QueueFull, after which what was moved stays moved.
    """
    with broker(seconds=TIMEOUT) as messages:
        _check_queue(messages, source)
        if target not in messages.queues():
            raise UnknownQueue(target, messages.queues())
        for batch in _batches(messages, source, task=task, taking=True):
            pairs = [(kept.raw, _addressed(kept.raw, target)) for kept in batch]
            moved = messages.move(source, target, batch[0].priority, pairs)
            executions_record(_transitions(batch, TaskStatus.PENDING, queue=target))
            yield moved


def _addressed(raw: bytes, target: str) -> bytes:
    """So that the history and a retry know the queue that it came from."""
    try:
        message = json.loads(raw)
        message["properties"]["delivery_info"]["routing_key"] = target
        return json.dumps(message).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        return raw  # no message of ours


# --- What all of them need -----------------------------------------------------------------------
def _check_queue(messages: Broker, queue: str) -> None:
    """One of the settings', or one of which something is left."""
    if queue not in messages.queues() and not messages.depth(queue):
        raise UnknownQueue(queue, messages.queues())


def _batches(
    messages: Broker, queue: str, *, task: str | None = None, taking: bool = False
) -> Iterator[list[Kept]]:
    """What waits now, the first in turn first, each batch of one priority.

    `taking`: whoever gets a batch takes it out of the queue before the next.
    """
    for priority in messages.priorities():
        left, last = messages.length(queue, priority), b""
        while left > 0 and (page := messages.page(queue, priority, last, min(BATCH, left))):
            left -= len(page)
            kept = [Kept(queue, priority, raw) for raw in page]
            wanted = [one for one in kept if task is None or _is_of(one.message, task)]
            if wanted:
                yield wanted
            gone = {one.raw for one in wanted} if taking else set()
            last = next((raw for raw in reversed(page) if raw not in gone), last)


def _is_of(message: Message | None, task: str) -> bool:
    if message is None:
        return False
    name = message.headers["task"]
    return task in (name, entries.describe(name).name)


def _transitions(batch: list[Kept], status: TaskStatus, queue: str = "") -> list[bytes]:
    now = time.time()
    found = []
    for message in (kept.message for kept in batch):
        if message is None:
            continue
        entry = entries.of_message(message.headers, message.args, message.kwargs)
        entry["queue"] = queue or message.queue
        if status == TaskStatus.REVOKED:
            entry |= {"finished_at": now, "error": PURGED}
        found.append(entries.transition(entry, status, now, presumed=status == TaskStatus.REVOKED))
    return found


def _task_ids(batch: Iterable[Kept]) -> list[str]:
    return [message.task_id for kept in batch if (message := kept.message)]
