"""`manage.py system_state`."""

import json
from typing import Any

from django.core.management.base import BaseCommand

from marketplace.state import system_state


class Command(BaseCommand):
    help = (
        "Print what the system is at, as JSON: queues, workers, periodic tasks, outbox, dead "
        "letters, migrations. What does not answer stands under `errors`."
    )
    requires_system_checks = ()  # it tells what is wrong, even when much is

    def handle(self, **options: Any) -> None:
        self.stdout.write(json.dumps(system_state(), indent=2))
