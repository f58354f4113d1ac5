"""The way of every import: validate row by row, COPY to a temporary table, merge by sets."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, TextIO

from django.db import connection

from promotions.services.imports.errors import BadRow, ImportRefused, shown
from promotions.services.imports.reading import numbered_rows

BATCH = 2000

# The planner takes a match on several columns for far rarer than it is: it would go through a
# table once for each row, or join by a start time that all promos share. So: joins in the order
# written, each by a hash of all its columns.
_PLAN = """
    SET LOCAL join_collapse_limit = 1;
    SET LOCAL enable_nestloop = off;
    SET LOCAL enable_mergejoin = off;
"""

#: Called after each batch; the file's position tells how far the import is.
Progress = Callable[[], object]


class Counts(NamedTuple):
    created: int
    updated: int
    unchanged: int


@dataclass
class ImportResult:
    """What became of the rows: counts by kind, such as `products`, and the rows left out."""

    counts: dict[str, Counts]
    bad_rows: list[BadRow]
    #: Promos counted as unchanged whose row differs: they are no longer scheduled.
    kept: int = 0


@dataclass(frozen=True)
class Sheet:
    """A kind of file: its staging table, the parser of each column, the rules between cells."""

    table: str
    columns: dict[str, tuple[str, Callable[[str], Any]]]  # name: (SQL type, parser)
    #: Takes the row's values, None for a cell that is wrong; yields reasons.
    rules: Callable[[Sequence[Any]], Iterable[str]] = field(default=lambda row: ())


class Staging:
    """The temporary table of one import, `line` first, and the rows that are not in it."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self._bad: dict[int, list[str]] = defaultdict(list)

    @property
    def bad_rows(self) -> list[BadRow]:
        return [BadRow(line, "; ".join(self._bad[line])) for line in sorted(self._bad)]

    def fill(self, file: TextIO, progress: Progress) -> None:
        """COPY the rows that are right by themselves."""
        table = self.sheet.table
        types = ", ".join(
            f"{name} {sql_type}" for name, (sql_type, _) in self.sheet.columns.items()
        )
        rows = self._rows(file)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_try_advisory_xact_lock(hashtextextended('promotions.imports', 0))"
            )
            if cursor.fetchone() != (True,):
                raise ImportRefused("Another import is running: try again when it has ended.")
            cursor.execute(_PLAN)
            # One transaction may import twice: the demonstration does, and a test.
            cursor.execute(f"DROP TABLE IF EXISTS pg_temp.{table}")
            cursor.execute(f"CREATE TEMP TABLE {table} (line bigint, {types}) ON COMMIT DROP")
            while batch := list(islice(rows, BATCH)):
                text = StringIO()
                csv.writer(text, quoting=csv.QUOTE_ALL).writerows(batch)  # quoted is never NULL
                text.seek(0)
                with connection.wrap_database_errors:
                    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT csv)", text)
                progress()
            cursor.execute(f"ANALYZE {table}")

    def _rows(self, file: TextIO) -> Iterator[list[Any]]:
        rows = numbered_rows(file)
        pick = self._order(next(rows, (1, []))[1])
        for line, cells in rows:
            if isinstance(cells, csv.Error):
                self._bad[line].append(f"cannot be read ({cells}): is a quote missing?")
            elif len(cells) != len(self.sheet.columns):
                self._bad[line].append(f"has {len(cells)} cells, not {len(self.sheet.columns)}")
            else:
                row, reasons = self._parse(pick(cells))
                if reasons:
                    self._bad[line] = reasons
                else:
                    yield [line, *row]

    def _parse(self, cells: Sequence[str]) -> tuple[list[Any], list[str]]:
        """The row's values and what is wrong with it."""
        row: list[Any] = []
        reasons = []
        for (name, (_, parse)), cell in zip(self.sheet.columns.items(), cells, strict=True):
            text = cell.strip()
            try:
                row.append(parse(text))
            except ValueError as error:
                row.append(None)
                reasons.append(f"{name} {shown(text)} {error}" if text else f"{name} is empty")
        return row, [*reasons, *self.sheet.rules(row)]

    def _order(self, header: list[str] | csv.Error) -> Callable[[list[str]], Sequence[str]]:
        """The header must name each column once, in any order."""
        names = [name.strip() for name in header] if isinstance(header, list) else []
        columns = list(self.sheet.columns)
        if sorted(names) != sorted(columns):
            raise ImportRefused(
                f"The first line must name the columns {','.join(columns)}; "
                f"it is {shown(','.join(names))}."
            )
        return itemgetter(*map(names.index, columns))

    def take_out(self, conflicts: str) -> None:
        """Take out the rows that this query finds; it selects `line` and the reason."""
        with connection.cursor() as cursor:
            cursor.execute(conflicts)
            found = cursor.fetchall()
            for line, reason in found:
                self._bad[line].append(reason)
            if found:
                lines = sorted({line for line, _ in found})
                cursor.execute(f"DELETE FROM {self.sheet.table} WHERE line = ANY(%s)", [lines])

    def decide(self, *, skip_bad_rows: bool) -> None:
        """Go on only without bad rows, or when they are to be left out."""
        if self._bad and not skip_bad_rows:
            bad_rows = self.bad_rows
            count = "1 bad row" if len(bad_rows) == 1 else f"{len(bad_rows)} bad rows"
            raise ImportRefused(f"{count}: nothing was imported.", bad_rows)


def upsert(statement: str, *, total: str, params: dict[str, Any] | None = None) -> Counts:
    """Run an `INSERT … ON CONFLICT DO UPDATE` and count; `total` counts all that is wanted."""
    with connection.cursor() as cursor:
        # A row version that this statement inserted has no xmax, one that it updated has.
        cursor.execute(
            f"WITH changed AS ({statement} RETURNING xmax = 0 AS created) "
            f"SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created), "
            f"({total}) FROM changed",
            params,
        )
        created, updated, wanted = cursor.fetchone()
    return Counts(created, updated, wanted - created - updated)
