"""Why a file, or a row of it, is not imported."""

from collections.abc import Sequence
from typing import NamedTuple


class BadRow(NamedTuple):
    """`line` counts physical lines from 1, as an editor does; of several, a row's first."""

    line: int
    reason: str


class ImportRefused(Exception):
    """Nothing was imported; `bad_rows`, by line, are the reason if there are any."""

    def __init__(self, message: str, bad_rows: Sequence[BadRow] = ()) -> None:
        super().__init__(message)
        self.bad_rows = list(bad_rows)


def shown(text: str) -> str:
    """The text as a message may quote it: on one line, printable, short."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
