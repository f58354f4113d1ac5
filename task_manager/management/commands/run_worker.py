"""`manage.py run_worker --queues high_priority,default --concurrency 4`."""

from typing import Any

from celery import current_app
from django.core.management.base import CommandParser

from marketplace.env import parse_list
from task_manager.management.commands._celery import CeleryCommand, UsageError


class Command(CeleryCommand):
    help = "Run a Celery worker. Options of Celery's own follow after --."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--queues", help="separated by commas; all of them by default")
        parser.add_argument(
            "--concurrency",
            type=int,
            help="tasks run at once; CELERY_WORKER_CONCURRENCY by default, or one a processor",
        )

    def handle(
        self,
        *,
        queues: str | None,
        concurrency: int | None,
        loglevel: str,
        more: list[str],
        **options: Any,
    ) -> None:
        given = [f"--loglevel={loglevel}"]
        if queues is not None:
            given.append(f"--queues={','.join(self.known(queues))}")
        if concurrency is not None:
            if concurrency < 1:
                raise UsageError(f"--concurrency {concurrency}: a worker runs at least 1 task")
            given.append(f"--concurrency={concurrency}")
        self.become("worker", *given, *more)

    def known(self, queues: str) -> list[str]:
        names, known = parse_list(queues), sorted(current_app.amqp.queues)
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = f"no queue is called {', '.join(unknown)}" if unknown else "names no queue"
            raise UsageError(f"--queues {queues!r}: {wrong}; there are {', '.join(known)}")
        return names
