"""A CSV file as rows that know their line, in bounded memory whatever the file holds."""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

LINE_LIMIT = 100_000
ROW_LINES = 100


def open_csv(path: Path) -> TextIO:
    """Open a UTF-8 file; a byte that is no UTF-8 becomes a surrogate, so that its row is known."""
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


class _Lines(Iterator[str]):
    """The physical lines of a file. `row` holds those read since it was last emptied."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._again: deque[str] = deque()
        self.row: list[str] = []

    def __next__(self) -> str:
        if len(self.row) == ROW_LINES:
            raise csv.Error(f"more than {ROW_LINES} lines")
        line = self._again.popleft() if self._again else self._read()
        if not line:
            raise StopIteration
        self.row.append(line)
        if len(line) > LINE_LIMIT:
            raise csv.Error(f"a line of more than {LINE_LIMIT} characters")
        return line

    def _read(self) -> str:
        line = rest = self._file.readline(LINE_LIMIT + 1)
        while len(rest) > LINE_LIMIT and rest[-1] not in "\r\n":
            rest = self._file.readline(LINE_LIMIT + 1)
        return line

    def read_again(self) -> None:
        """Go back to the second line of the row: only the first is known to belong to it."""
        self._again.extendleft(reversed(self.row[1:]))


def numbered_rows(file: TextIO) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Yield each row's first line number with its cells, or why it cannot be read.

    Empty lines are left out. A row that cannot be read costs its first line alone, so that a
    quote left open does not swallow the rows below.
    """
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True)
    number = 1
    while True:
        lines.row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            lines.read_again()
            yield number, error
            number += 1
        else:
            if cells:
                yield number, cells
            number += len(lines.row)
