"""What the import commands share: the file, its progress, the bad rows, the summary."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from tqdm import tqdm

from promotions.services.imports import BadRow, ImportRefused, ImportResult, open_csv

#: A shorter file is done before a progress bar helps.
LONG_BYTES = 1_000_000


class Import(Protocol):
    """An import service, or one with its other options given."""

    def __call__(
        self, *, file: TextIO, skip_bad_rows: bool, progress: Callable[[], object]
    ) -> ImportResult: ...


class ReportingCommand(BaseCommand):
    """Says what an import did, and in one line each what was wrong."""

    @contextmanager
    def errors(self) -> Iterator[None]:
        """One line for whatever is wrong with the file or the database."""
        try:
            yield
        except ImportRefused as error:
            self.report(error.bad_rows)
            raise CommandError(str(error)) from error
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            raise CommandError(f"{name}{error.strerror or error}") from error
        except DatabaseError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(f"The database refused, nothing was imported: {reason}") from error

    def report(self, bad_rows: list[BadRow]) -> None:
        for line, reason in bad_rows:
            self.stderr.write(f"line {line}: {reason}")

    def summarise(self, result: ImportResult) -> None:
        for kind, counts in result.counts.items():
            self.stdout.write(
                f"{kind}: {counts.created} created, {counts.updated} updated, "
                f"{counts.unchanged} unchanged"
            )
        if result.kept:
            self.stdout.write(
                f"{result.kept} of the unchanged promos differ from the file "
                "but are no longer scheduled"
            )


class ImportCommand(ReportingCommand):
    """Imports one file."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE.csv")
        parser.add_argument(
            "--skip-bad-rows",
            action="store_true",
            help="import the other rows; without it one bad row stops the import",
        )

    def import_file(self, service: Import, *, path: Path, skip_bad_rows: bool) -> None:
        with self.errors(), open_csv(path) as file, progress_bar(file) as progress:
            result = service(file=file, skip_bad_rows=skip_bad_rows, progress=progress)
        self.report(result.bad_rows)
        self.summarise(result)
        self.stdout.write(f"bad rows: {len(result.bad_rows)}")


@contextmanager
def progress_bar(file: TextIO) -> Iterator[Callable[[], object]]:
    """A bar of the bytes read, for a long file on a terminal."""
    size = os.fstat(file.fileno()).st_size
    hidden = size < LONG_BYTES or not sys.stderr.isatty()
    with tqdm(total=size, unit="B", unit_scale=True, disable=hidden, file=sys.stderr) as bar:
        # A pipe has no position to tell.
        yield lambda: None if hidden else bar.update(file.buffer.tell() - bar.n)
