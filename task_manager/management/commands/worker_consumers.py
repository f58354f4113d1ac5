"""`manage.py worker_consumers tasks|cancel|add NODE`, for scripts/drain."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from task_manager.services.workers import worker_consume, worker_stop_consuming, worker_tasks


class Command(BaseCommand):
    help = "Let a running worker take no more tasks, or take them again; show what it has."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        tasks = actions.add_parser("tasks", help="what it runs and has taken, as JSON")
        cancel = actions.add_parser("cancel", help="take no more; prints the queues as JSON")
        add = actions.add_parser("add", help="take tasks from these queues")
        for action in (tasks, cancel, add):
            action.add_argument("node", metavar="NODE", help="its name, such as celery@host")
        add.add_argument("queues", metavar="QUEUE", nargs="+")

    def handle(self, *, action: str, node: str, **options: Any) -> None:
        if action == "add":
            worker_consume(node, options["queues"])
            return
        told = worker_tasks(node) if action == "tasks" else worker_stop_consuming(node)
        if told is None:
            raise CommandError(f"the worker {node} does not answer")
        self.stdout.write(json.dumps(told))
