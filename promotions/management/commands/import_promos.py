"""`manage.py import_promos FILE.csv`."""

from functools import partial
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from promotions.management.commands._imports import ImportCommand
from promotions.services.imports import promos_import


class Command(ImportCommand):
    help = "Import stores, products and flash promos from a CSV file."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--owner", metavar="USERNAME", help="who owns the stores that the import creates"
        )

    def handle(self, *, file: Path, skip_bad_rows: bool, owner: str | None, **options: Any) -> None:
        service = partial(promos_import, owner=owner)
        self.import_file(service, path=file, skip_bad_rows=skip_bad_rows)
