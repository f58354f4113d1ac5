"""`manage.py queues peek|purge|restore|move`, which `scripts/queues` calls."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseError
from kombu.exceptions import OperationalError as BrokerError
from redis import RedisError

from marketplace.broker import QueueFull
from task_manager.management.commands._celery import UsageError
from task_manager.services import messages
from task_manager.services.messages import Kept

PURGE = """\
Say how many messages there are; after an answer print them, a JSON object a line, up to an empty
line, and take them out of the queue once that is answered by a line; and so on. So whoever reads
has them before they are gone. scripts/queues keeps them in a file.
"""


class Command(BaseCommand):
    help = "What scripts/queues asks of the broker: look at what waits, purge, restore, move."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        peek = actions.add_parser("peek", help="the first messages, as a JSON list")
        peek.add_argument("-n", type=int, default=10, dest="count", metavar="N", help="how many")
        purge = actions.add_parser("purge", help="print and take out", description=PURGE)
        restore = actions.add_parser("restore", help="put back what standard input holds")
        restore.add_argument("--all", action="store_true", help="whatever Redis knows of the purge")
        for action in (purge, restore):
            action.add_argument("--name", required=True, help="of the purge")
        move = actions.add_parser("move", help="move messages behind those of another queue")
        for action in (peek, purge, move):
            action.add_argument("queue", metavar="QUEUE")
        move.add_argument("target", metavar="TARGET")
        for action in (purge, move):
            action.add_argument("--task", metavar="NAME", help="those of this task alone")

    def handle(self, *, action: str, **options: Any) -> None:
        with clear_errors():
            getattr(self, action)(**options)

    def peek(self, *, queue: str, count: int, **options: Any) -> None:
        if count < 1:
            raise UsageError(f"-n {count}: use a number from 1 on")
        self.say(json.dumps(messages.messages_peek(queue, count), default=str))

    def purge(self, *, queue: str, name: str, task: str | None, **options: Any) -> None:
        self.say(json.dumps({"messages": messages.messages_count(queue, task=task)}))
        if not sys.stdin.readline():
            return
        for batch in messages.messages_purge(queue, name, task=task):
            self.say("".join(as_line(kept) for kept in batch))
            if not sys.stdin.readline():
                raise CommandError("nobody keeps the messages: the rest stays in the queue")

    def restore(self, *, name: str, **options: Any) -> None:
        try:
            count = messages.messages_restore(kept_in(sys.stdin), name, all_=options["all"])
        except messages.NothingPurged as error:
            raise CommandError(
                f"nothing of {name} is out of its queue: it was put back, or purged more than "
                "30 days ago, or by another Redis; --all puts back what waits nowhere"
            ) from error
        self.say(json.dumps({"restored": count}))

    def move(self, *, queue: str, target: str, task: str | None, **options: Any) -> None:
        if queue == target:
            raise UsageError(f"{queue!r} is both queues: name another one")
        moved = 0
        try:
            for count in messages.messages_move(queue, target, task=task):
                moved += count
        except QueueFull as error:
            raise CommandError(f"{moved} messages were moved, then: {error}") from error
        self.say(json.dumps({"moved": moved}))

    def say(self, text: str) -> None:
        self.stdout.write(f"{text}\n")
        self.stdout.flush()


@contextmanager
def clear_errors() -> Iterator[None]:
    try:
        yield
    except messages.UnknownQueue as error:
        raise UsageError(str(error)) from error
    except QueueFull as error:
        raise CommandError(str(error)) from error
    except (BrokerError, RedisError) as error:
        raise CommandError(f"the broker does not do it: {error}") from error
    except DatabaseError as error:
        raise CommandError(f"the history cannot be written: {error}") from error


def as_line(kept: Kept) -> str:
    message = kept.message
    return (
        json.dumps(
            {
                "queue": kept.queue,
                "priority": kept.priority,
                "id": message.task_id if message else None,
                "task": message.headers["task"] if message else None,
                "message": kept.raw.decode("utf-8", "surrogateescape"),
            }
        )
        + "\n"
    )


def kept_in(lines: Iterable[str]) -> Iterator[Kept]:
    for line in lines:
        try:
            fields = json.loads(line)
            raw = fields["message"].encode("utf-8", "surrogateescape")
            yield Kept(str(fields["queue"]), int(fields["priority"]), raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CommandError(f"this is no line of a purge: {line.rstrip()[:100]!r}") from error
