"""What waits in the broker, read without taking it: the queues' lists and the held messages."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import current_app

from marketplace.broker import FULL
from task_manager.entries import PUBLISHED_AT

#: Messages read at once.
PAGE = 1000


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
