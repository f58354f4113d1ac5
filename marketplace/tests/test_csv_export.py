"""A listing as CSV: whole, in its order, in pieces, whatever the cells hold."""

import csv
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from marketplace import csv_export
from marketplace.csv_export import csv_lines
from telemetry.models import TelemetryRecordEntry

pytestmark = pytest.mark.django_db

START = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
ORDER = ("date", "timestamp", "record_id")


def make(number: int, **fields: Any) -> TelemetryRecordEntry:
    # Several have the same time, and the later number is not the later time.
    at = START + timedelta(hours=-(number // 3))
    return TelemetryRecordEntry(
        record_id=number, timestamp=at, date=at.date(), hour=at.hour, revision=1, **fields
    )


def exported(*columns: str) -> list[list[str]]:
    text = "".join(csv_lines(TelemetryRecordEntry.objects.all(), columns, ORDER))
    return [*csv.reader(StringIO(text, newline=""))]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 57])
def test_every_row_comes_once_and_in_order(monkeypatch, count):
    monkeypatch.setattr(csv_export, "PIECE", 10)
    TelemetryRecordEntry.objects.bulk_create(make(number) for number in range(count))
    expected = TelemetryRecordEntry.objects.order_by(*ORDER).values_list("pk", flat=True)
    assert exported("record_id") == [["record_id"], *([str(number)] for number in expected)]


def test_a_piece_reads_no_more_than_it_shows(monkeypatch):
    monkeypatch.setattr(csv_export, "PIECE", 10)
    TelemetryRecordEntry.objects.bulk_create(make(number) for number in range(30))
    lines = csv_lines(TelemetryRecordEntry.objects.all(), ["record_id"], ORDER)
    with CaptureQueriesContext(connection) as queries:
        next(lines)
    assert len(queries) == 1
    assert "LIMIT 10" in queries[0]["sql"]


def test_what_comes_while_it_is_read_disturbs_nothing(monkeypatch):
    monkeypatch.setattr(csv_export, "PIECE", 10)
    TelemetryRecordEntry.objects.bulk_create(make(number) for number in range(10, 40))
    lines = csv_lines(TelemetryRecordEntry.objects.all(), ["record_id"], ORDER)
    first = next(lines)
    TelemetryRecordEntry.objects.filter(pk__in=[10, 11]).delete()
    make(1000).save()  # before the first
    rows = [*csv.reader(StringIO(first + "".join(lines), newline=""))][1:]
    assert {int(number) for (number,) in rows} == {*range(12, 40)}


@pytest.mark.parametrize(
    ("field", "value", "cell"),
    [
        ("data_name", 'a "b", c', 'a "b", c'),
        ("data_name", "line\r\nbreak\n", "line\r\nbreak\n"),
        ("data_name", "Ñandú 🙂", "Ñandú 🙂"),
        ("data_name", "", ""),
        ("manual", True, "true"),
        ("manual", False, "false"),
        ("manual", None, ""),
        ("data_price", "1.50", "1.500000"),
        ("extra", {"a": [1, None, "ñ"]}, '{"a":[1,null,"ñ"]}'),
        ("created", START + timedelta(microseconds=5), "2026-11-20T10:00:00.000005Z"),
        ("created", START, "2026-11-20T10:00:00Z"),
    ],
)
def test_a_cell_is_what_its_value_says(field, value, cell):
    make(1, **{field: value}).save()
    assert exported("record_id", field) == [["record_id", field], ["1", cell]]
