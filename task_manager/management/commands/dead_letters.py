"""`manage.py dead_letters list|requeue|discard`."""

import json
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db.models import Q, QuerySet

from task_manager.entries import shortened
from task_manager.exceptions import TaskManagerError
from task_manager.management.commands._celery import UsageError
from task_manager.models import DeadLetter, DeadLetterStatus
from task_manager.services.dead_letters import dead_letter_discard, dead_letter_parameters
from task_manager.services.requeue import dead_letter_requeue


class Command(BaseCommand):
    help = "List the tasks that failed for good, run them again, or give them up."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listing = actions.add_parser("list", help="show them, the oldest first")
        listing.add_argument(
            "--status", type=str.upper, choices=[*DeadLetterStatus, "ANY"], default="WAITING"
        )
        listing.add_argument("--json", action="store_true", help="as a JSON list, with everything")
        requeue = actions.add_parser("requeue", help="run their tasks again")
        discard = actions.add_parser("discard", help="give them up")
        discard.add_argument("--yes", action="store_true", help="do not ask")
        for action in (requeue, discard):
            action.add_argument(
                "ids", nargs="*", metavar="ID", help="a dead letter's number, or its task's id"
            )
            action.add_argument("--all", action="store_true", help="all that wait")
        for action in (listing, requeue, discard):
            action.add_argument("--task", metavar="NAME", help="all of this task")

    def handle(self, *, action: str, **options: Any) -> None:
        if action == "list":
            self.show(letters_of(options["task"]), options["status"], as_json=options["json"])
            return
        chosen = self.chosen(options["ids"], everything=options["all"], task=options["task"])
        if action == "requeue":
            self.each(chosen, dead_letter_requeue, "requeued")
        elif options["yes"] or self.confirmed(len(chosen)):
            self.each(chosen, dead_letter_discard, "discarded")
        else:
            raise CommandError("nothing was discarded")

    def show(self, letters: QuerySet[DeadLetter], status: str, *, as_json: bool) -> None:
        if status != "ANY":
            letters = letters.filter(status=status)
        rows = letters.order_by("id").iterator()
        if as_json:
            shown = [as_object(letter) for letter in rows]
            self.stdout.write(json.dumps(shown, cls=DjangoJSONEncoder, ensure_ascii=False))
            return
        for letter in rows:
            error = " ".join(shortened(letter.error, 100).split())
            self.stdout.write(
                f"{letter.pk}  {letter.created_at:%Y-%m-%d %H:%M:%S}  {letter.status}  "
                f"{letter.task_name}[{letter.task_id}]  retries: {letter.retries}  {error}"
            )

    def chosen(self, ids: list[str], *, everything: bool, task: str | None) -> list[str]:
        if bool(ids) == (everything or task is not None):
            raise UsageError("name dead letters by their ids, or all by --all or --task NAME")
        if ids:
            return list(dict.fromkeys(ids))
        waiting = letters_of(task).filter(status=DeadLetterStatus.WAITING).order_by("id")
        return [str(pk) for pk in waiting.values_list("pk", flat=True)]

    def each(self, ids: list[str], service: Callable[[int], str | None], done: str) -> None:
        failed = 0
        for text in ids:
            try:
                new_id = service(number_of(text))
            except DeadLetter.DoesNotExist:
                failed += 1
                self.stderr.write(f"{text}: there is no such dead letter")
            except TaskManagerError as error:
                failed += 1
                self.stderr.write(f"{text}: {error}")
            else:
                self.stdout.write(f"{text} {done}" + (f" as {new_id}" if new_id else ""))
        if failed:
            raise CommandError(f"{failed} of {len(ids)} were not {done}")

    def confirmed(self, count: int) -> bool:
        try:
            return input(f"Discard {count} dead letters? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            return False


def letters_of(task: str | None) -> QuerySet[DeadLetter]:
    letters = DeadLetter.objects.all()
    return letters if task is None else letters.filter(Q(task_name=task) | Q(celery_name=task))


def number_of(text: str) -> int:
    """By a number, else by the task's id."""
    letters = DeadLetter.objects.only("pk")
    if text.isascii() and text.isdigit() and letters.filter(pk=text).exists():
        return int(text)
    return letters.get(task_id=text).pk


def as_object(letter: DeadLetter) -> dict[str, Any]:
    """All of it but the arguments as they are, which may hold secrets."""
    fields = [field.name for field in DeadLetter._meta.fields]
    shown = {name: getattr(letter, name) for name in fields if name not in ("args", "kwargs")}
    return shown | {"parameters": dead_letter_parameters(letter)}
