"""`manage.py import_shoppers FILE.csv`."""

from pathlib import Path
from typing import Any

from promotions.management.commands._imports import ImportCommand
from promotions.services.imports import shoppers_import


class Command(ImportCommand):
    help = "Import shoppers, users with a segment and a place, from a CSV file."

    def handle(self, *, file: Path, skip_bad_rows: bool, **options: Any) -> None:
        self.import_file(shoppers_import, path=file, skip_bad_rows=skip_bad_rows)
