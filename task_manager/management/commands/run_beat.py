"""`manage.py run_beat`."""

from typing import Any

from task_manager.management.commands._celery import CeleryCommand


class Command(CeleryCommand):
    help = "Run Celery's scheduler. Options of Celery's own follow after --."

    def handle(self, *, loglevel: str, more: list[str], **options: Any) -> None:
        self.become("beat", f"--loglevel={loglevel}", *more)
