"""`manage.py run_task NAME --args '[1]' --kwargs '{"key": "value"}'`."""

import json
import math
from difflib import get_close_matches
from typing import Any

from celery import current_app
from celery.exceptions import TimeoutError as NoResultYet
from django.core.management.base import BaseCommand, CommandError, CommandParser
from kombu.exceptions import OperationalError as BrokerError

from task_manager import entries
from task_manager.exceptions import UnknownTask
from task_manager.management.commands._celery import UsageError
from task_manager.services.registry import task_named

KINDS: dict[type, str] = {
    list: "a list such as '[1, \"two\"]'",
    dict: 'an object such as \'{"name": "value"}\'',
}


class Command(BaseCommand):
    help = "Publish a task and print its id. With --wait also print its result."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", metavar="NAME", help="Celery's, or the one given by track_task")
        # Django takes `args` for itself.
        parser.add_argument(
            "--args", dest="positional", metavar="JSON", default="[]", help="a list"
        )
        parser.add_argument(
            "--kwargs", dest="named", metavar="JSON", default="{}", help="an object"
        )
        parser.add_argument(
            "--wait",
            metavar="SECONDS",
            type=float,
            nargs="?",
            const=math.inf,
            help="wait for the result, at most this long; without a number until it comes",
        )

    def handle(
        self, *, name: str, positional: str, named: str, wait: float | None, **options: Any
    ) -> None:
        task = self.task(name)
        args, kwargs = parsed("--args", positional, list), parsed("--kwargs", named, dict)
        try:
            task.__header__(*args, **kwargs)
        except TypeError as error:
            raise UsageError(f"{task.name} does not take these arguments: {error}") from error
        if wait is not None and not wait >= 0:
            raise UsageError(f"--wait {wait:g}: use a number of seconds from 0 on")
        if wait is not None and task.ignore_result:
            raise UsageError(f"--wait: {task.name} keeps no result")
        try:
            result = task.apply_async(args, kwargs)
        except BrokerError as error:
            raise CommandError(f"{task.name} was not published: {error}") from error
        self.stdout.write(result.id)
        if wait is not None:
            self.stdout.flush()
            self.wait(result, task.name, wait)

    def task(self, name: str) -> Any:
        try:
            return task_named(name)
        except UnknownTask as error:
            names = sorted(known_names())
            near = get_close_matches(name, names)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
            raise UsageError(f"no task is called {shown(name)}; {hint}") from error

    def wait(self, result: Any, name: str, seconds: float) -> None:
        try:
            value = result.get(timeout=None if seconds == math.inf else seconds)
        except NoResultYet as error:
            raise CommandError(f"{name} has no result after {seconds:g} s; it goes on") from error
        except Exception as error:  # the task's own
            raise CommandError(f"{name} failed: {type(error).__name__}: {error}") from error
        self.stdout.write(json.dumps(value, ensure_ascii=False, default=str))


def known_names() -> set[str]:
    """Of the project's tasks, both names of each."""
    ours = {name for name in current_app.tasks if not name.startswith("celery.")}
    return ours | {entries.describe(name).name for name in ours}


def parsed(option: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        message = f"{option} {shown(text)} is not JSON ({error}): use {KINDS[kind]}"
        raise UsageError(message) from error
    if not isinstance(value, kind):
        raise UsageError(f"{option} {shown(text)}: use {KINDS[kind]}")
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def shown(text: str) -> str:
    return repr(entries.shortened(text, 100))
