"""Any listing as CSV, streamed: as long as it is, in bounded memory and without a transaction.

It is read in pieces, each of which begins after the last row of the one before. A client that reads
slowly holds a thread of the web as long: so a process has no more at once than half of its threads.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from io import StringIO
from itertools import chain
from threading import BoundedSemaphore
from typing import Any

import orjson
from django.conf import settings
from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL
from django.http import StreamingHttpResponse
from django.utils.translation import gettext
from drf_spectacular.utils import OpenApiResponse
from rest_framework.decorators import action
from rest_framework.exceptions import Throttled
from rest_framework.negotiation import BaseContentNegotiation, DefaultContentNegotiation
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request

#: Rows a piece.
PIECE = 2000
#: Seconds after which somebody who was refused may try again.
RETRY_SECONDS = 10
TOO_MANY = OpenApiResponse(
    description="Too many exports are under way; `Retry-After` says when to try again."
)

_places = BoundedSemaphore(max(1, settings.WEB_THREADS // 2))


class TooManyExports(Throttled):
    def __init__(self) -> None:
        super().__init__(RETRY_SECONDS, gettext("Too many exports are under way."))


class WhateverAccepted(BaseContentNegotiation):
    """A file is what it is, and what keeps it from being sent is told in JSON."""

    def select_parser(self, request: Any, parsers: Any) -> Any:
        return DefaultContentNegotiation().select_parser(request, parsers)

    def select_renderer(
        self, request: Any, renderers: Any, format_suffix: str | None = None
    ) -> tuple[Any, str]:
        return JSONRenderer(), JSONRenderer.media_type


class CSVExport:
    """For a viewset with a listing: adds `export/`, by the listing's own filters and fields."""

    #: Columns that order the export and no two rows share; the table has an index of them.
    export_order: Sequence[str]

    @action(
        detail=False,
        methods=["get"],
        pagination_class=None,
        content_negotiation_class=WhateverAccepted,
    )
    def export(self, request: Request) -> StreamingHttpResponse:
        view: Any = self
        queryset = view.filter_queryset(view.get_queryset())
        columns = view.get_serializer_class().Meta.fields
        lines = _placed(csv_lines(queryset, columns, self.export_order))
        next(lines)
        name = queryset.model._meta.model_name
        return StreamingHttpResponse(
            lines,
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
        )


def _placed(lines: Iterator[str]) -> Iterator[str]:
    """The lines, on one of the places until all are read or it is closed; first an empty one."""
    if not _places.acquire(blocking=False):
        raise TooManyExports
    try:
        first = next(lines)
        yield ""  # what failed up to here is an answer, and no torn file
        yield first
        yield from lines
    finally:
        _places.release()


def csv_lines(
    queryset: "QuerySet[Any]", columns: Sequence[str], order: Sequence[str]
) -> Iterator[str]:
    """The names of the columns and the rows, some lines at a time."""
    rows = queryset.order_by(*order).values_list(*columns, *order)
    after: tuple[Any, ...] | None = None
    header: list[Sequence[str]] = [columns]
    while True:
        piece = [*_after(rows, order, after)[:PIECE]]
        values = ([*map(_cell, row[: len(columns)])] for row in piece)
        yield _text(chain(header, values))
        if len(piece) < PIECE:
            return
        header, after = [], piece[-1][len(columns) :]


def _after(rows: Any, order: Sequence[str], last: tuple[Any, ...] | None) -> Any:
    if last is None:
        return rows
    # Compared as rows, which an index of these columns serves; the names are of the code.
    places = ", ".join(["%s"] * len(order))
    return rows.filter(
        RawSQL(f"({', '.join(order)}) > ({places})", last, BooleanField())  # noqa: S611
    )


def _cell(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case bool():
            return "true" if value else "false"
        case dict() | list():
            return orjson.dumps(value).decode()
    return value


def _text(rows: Iterable[Sequence[Any]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue()
