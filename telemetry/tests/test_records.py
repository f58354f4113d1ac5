"""Each field of a record becomes what it means, or the reason why the record cannot be one."""

import csv
import json
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from io import StringIO
from typing import Any

import pytest
from django.db import transaction
from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry.models import TEXT_LENGTH, QuarantinedRecord, TelemetryRecordEntry
from telemetry.services.records import COLUMNS, EXTRA, parsed
from telemetry.tests.telling import stored, told

pytestmark = pytest.mark.django_db

BIGGEST = 2**63 - 1
LONGEST = "x" * TEXT_LENGTH
MORNING = "2026-11-20 10:30:00"


def fields_of(record_id: int) -> Any:
    return TelemetryRecordEntry.objects.filter(pk=record_id).values().get()


def reasons() -> list[str]:
    return [*QuarantinedRecord.objects.order_by("pk").values_list("reason", flat=True)]


# --- What a value means ---
@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("subscriberCode", "Ñandú, «S»\t€ 🎬", "Ñandú, «S»\t€ 🎬"),
        ("subscriberCode", "a \"b\", \\N\r\n\\.\n'c' \\u0000", "a \"b\", \\N\r\n\\.\n'c' \\u0000"),
        ("subscriberCode", " ", " "),
        ("subscriberCode", "", ""),
        ("subscriberCode", None, ""),
        ("subscriberCode", LONGEST, LONGEST),
        ("subscriberCode", "ñ" * TEXT_LENGTH, "ñ" * TEXT_LENGTH),
        ("deviceId", 50_123, "50123"),
        ("deviceId", 0, "0"),
        ("deviceId", BIGGEST, str(BIGGEST)),
        ("deviceId", 1.5, "1.5"),
        ("profileId", 4, 4),
        ("profileId", 0, 0),
        ("profileId", -4, -4),
        ("profileId", "4", 4),
        ("profileId", "-0004", -4),
        ("profileId", 4.0, 4),
        ("profileId", "", None),
        ("profileId", None, None),
        ("profileId", BIGGEST, BIGGEST),
        ("profileId", -BIGGEST, -BIGGEST),
        ("profileId", str(BIGGEST), BIGGEST),
        ("manual", True, True),
        ("manual", False, False),
        ("manual", 1, True),
        ("manual", 0, False),
        ("manual", "1", True),
        ("manual", "False", False),
        ("manual", "TRUE", True),
        ("manual", "", None),
        ("manual", None, None),
        ("dataPrice", 1.99, Decimal("1.99")),
        ("dataPrice", 0, Decimal(0)),
        ("dataPrice", -3, Decimal(-3)),
        ("dataPrice", "1.99", Decimal("1.99")),
        ("dataPrice", "", None),
        ("dataPrice", None, None),
        ("dataPrice", 0.0000005, Decimal("0.000001")),
        ("dataPrice", "0.0000005", Decimal("0.000001")),
        ("dataPrice", 5e-324, Decimal(0)),
        ("dataPrice", "1e-999999999999", Decimal(0)),
        ("dataPrice", "0e999999999999", Decimal(0)),
        ("dataPrice", 10**14 - 1, Decimal(10**14 - 1)),
        ("dataPrice", "99999999999999.999999", Decimal("99999999999999.999999")),
        ("created", "2026-02-28 23:59:59", datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)),
        ("created", "0000-00-00 00:00:00", None),
        ("created", "", None),
        ("created", None, None),
    ],
)
def test_a_value_is_stored_as_what_it_means(field, value, expected):
    """Alone, and in a column that is looked at value by value."""
    stored(told(1, **{field: value}), told(2))
    stored(told(11, **{field: value}), told(12, **{field: []}))
    column = COLUMNS[field][0]
    assert [fields_of(1)[column], fields_of(11)[column]] == [expected, expected]
    assert QuarantinedRecord.objects.get().record_id == 12


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("recordId", None, "null is not a number of a record"),
        ("recordId", "", '"" is not a number of a record'),
        ("recordId", 0, "0 is not a number of a record"),
        ("recordId", -1, "-1 is not a number of a record"),
        ("recordId", True, "true is not a whole number"),
        ("recordId", "R7", '"R7" is not a whole number'),
        ("recordId", " 7", '" 7" is not a whole number'),
        ("recordId", "\u0667", '"\\u0667" is not a whole number'),
        ("recordId", 7.5, "7.5 is not a whole number"),
        ("recordId", 2**63, "9223372036854775808 is not a whole number"),
        ("timestamp", None, "is missing"),
        ("timestamp", "", "is missing"),
        ("timestamp", "0000-00-00 00:00:00", "is missing"),
        ("timestamp", 1_763_634_600, "1763634600 is not a time, YYYY-MM-DD HH:MM:SS"),
        ("timestamp", "2026-02-30 10:00:00", '"2026-02-30 10:00:00" is not a time, *'),
        ("timestamp", "2026-11-20 24:00:00", '"2026-11-20 24:00:00" is not a time, *'),
        ("timestamp", "2026-11-20 23:59:60", '"2026-11-20 23:59:60" is not a time, *'),
        ("timestamp", "2026-11-20T10:30:00", '"2026-11-20T10:30:00" is not a time, *'),
        ("timestamp", "2026-11-20 10:30:00Z", '"2026-11-20 10:30:00Z" is not a time, *'),
        ("timestamp", "2026-11-20 10:30:00\n", '"2026-11-20 10:30:00\\n" is not a time, *'),
        ("timestamp", "2026-11-20", '"2026-11-20" is not a time, *'),
        ("timestamp", "0000-01-01 00:00:00", '"0000-01-01 00:00:00" is not a time, *'),
        ("timestamp", "0001-01-01 00:00:00", '"0001-01-01 00:00:00" is not a time, *'),
        ("timestamp", "9999-12-31 23:59:59", '"9999-12-31 23:59:59" is not a time, *'),
        ("created", "yesterday", '"yesterday" is not a time, YYYY-MM-DD HH:MM:SS'),
        ("subscriberCode", ["S"], '["S"] is not a text'),
        ("subscriberCode", {"code": "S"}, '{"code": "S"} is not a text'),
        ("subscriberCode", True, "true is not a text"),
        ("subscriberCode", "S\0", '"S\\u0000" is not a text that can be stored'),
        ("subscriberCode", "S\ud83d", '"S\\ud83d" is not a text that can be stored'),
        ("subscriberCode", f"{LONGEST}y", f'"{"x" * 59}… is not a text of at most 500 characters'),
        ("deviceId", 2.0**64, "1.8446744073709552e+19 is not a text"),
        ("deviceId", float("nan"), "NaN is not a text"),
        ("profileId", "1e3", '"1e3" is not a whole number'),
        ("profileId", 2**63, "9223372036854775808 is not a whole number"),
        ("profileId", -(2**63), "-9223372036854775808 is not a whole number"),
        ("profileId", 2.0**63, "9.223372036854776e+18 is not a whole number"),
        ("profileId", float("inf"), "Infinity is not a whole number"),
        ("profileId", float("nan"), "NaN is not a whole number"),
        ("profileId", False, "false is not a whole number"),
        ("profileId", [], "[] is not a whole number"),
        ("manual", 2, "2 is not true or false"),
        ("manual", 1.0, "1.0 is not true or false"),
        ("manual", "yes", '"yes" is not true or false'),
        ("manual", [], "[] is not true or false"),
        ("dataPrice", "free", '"free" is not an amount'),
        ("dataPrice", "NaN", '"NaN" is not an amount'),
        ("dataPrice", float("nan"), "NaN is not an amount"),
        ("dataPrice", float("-inf"), "-Infinity is not an amount"),
        ("dataPrice", True, "true is not an amount"),
        ("dataPrice", 10**14, "100000000000000 is not an amount"),
        ("dataPrice", "99999999999999.9999995", '"99999999999999.9999995" is not an amount'),
    ],
)
def test_a_value_that_means_nothing_is_the_reason(field, value, reason):
    reason = reason.replace("*", "YYYY-MM-DD HH:MM:SS")
    stored(told(1), told(2, MORNING) | {field: value}, told(3))
    assert reasons() == [f"{field}: {reason}"]
    assert [*TelemetryRecordEntry.objects.order_by("pk").values_list("pk", flat=True)] == [1, 3]


@pytest.mark.parametrize("entry", [None, "not an object", 7, 1.5, True, [], [told(1)], "\0\ud800"])
def test_what_is_no_object_is_kept_as_it_came(entry):
    assert stored(entry, told(2)).quarantined == 1
    bad = QuarantinedRecord.objects.get()
    assert (bad.record_id, bad.reason) == (None, "is not an object")
    assert json.loads(bad.payload) == entry
    assert TelemetryRecordEntry.objects.get().pk == 2


def test_a_record_is_kept_whole_with_all_of_its_reasons():
    entry = told(5, "soon", manual="yes", deviceId="\0\ud800", extra="kept, too")
    stored(entry)
    bad = QuarantinedRecord.objects.get()
    assert (bad.record_id, json.loads(bad.payload)) == (5, entry)
    assert [reason.partition(":")[0] for reason in bad.reason.split("; ")] == [
        "timestamp",
        "created",
        "deviceId",
        "manual",
    ]


@pytest.mark.parametrize("field", [*COLUMNS, "date", "unknown"])
def test_what_is_nested_too_deeply_stops_nothing(field):
    nested: Any = []
    for _ in range(1020):  # more than Python's own JSON takes, and less than orjson's
        nested = [nested]
    stored(told(1), told(2) | {field: nested}, told(3))
    bad = QuarantinedRecord.objects.get()
    assert field in bad.reason
    assert json.loads(bad.payload)["ip"] == ("nested too deeply" if field == "ip" else "192.0.2.7")
    assert TelemetryRecordEntry.objects.count() == 2


# --- What else is in it ---
@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({}, None),
        ({"appVersion": "4.2"}, {"appVersion": "4.2"}),
        ({"signal": {"level": None}, "tags": []}, {"signal": {"level": None}, "tags": []}),
        ({"": "", "\\u0000": "\\u0000"}, {"": "", "\\u0000": "\\u0000"}),
        ({"date": "2026-11-19"}, {"date": "2026-11-19"}),
        ({"date": 20_261_120, "x": 1}, {"date": 20_261_120, "x": 1}),
        ({"date": ""}, None),
        ({"date": None}, None),
    ],
)
def test_what_has_no_column_of_its_own_goes_to_extra(extra, expected):
    stored(told(1, MORNING, **extra))
    row = fields_of(1)
    assert row[EXTRA] == expected
    assert (row["date"], row["hour"]) == (date(2026, 11, 20), 10)


@pytest.mark.parametrize(
    "extra",
    [{"x": "\0"}, {"x": ["\ud800"]}, {"x": {"\0": 1}}, {"\0": 1}, {"\ud800": 1}, {"x": 2**64}],
    ids=ascii,
)
def test_a_record_with_an_extra_that_cannot_be_stored_is_kept_apart(extra):
    stored(told(1, **extra), told(2))
    bad = QuarantinedRecord.objects.get()
    assert bad.record_id == 1
    assert bad.reason == f"{json.dumps(next(iter(extra)))[1:-1]}: cannot be stored"
    assert json.loads(bad.payload) == told(1, **extra)


def test_of_records_with_the_same_id_the_last_counts():
    counts = stored(told(1, ip="first"), told(2), told(1, ip="last"))
    assert (counts.inserted, counts.updated) == (2, 0)
    assert fields_of(1)["ip"] == "last"
    assert parsed([told(1), told(2), told("1")]).ids == [1, 2, 1]


def test_an_empty_page_is_nothing():
    page = parsed([])
    assert (page.csv, page.lowest_id, page.bad, page.ids) == ("", None, [], [])


# --- Whatever comes ---
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=4
)
#: What is hard to tell, by the fields for which it is.
ODD: dict[str, list[Any]] = {
    "recordId": ["007", 8.0, 0, 2**63],
    "timestamp": ["0001-01-01 00:00:00", "9999-12-31 23:59:59", "0000-00-00 00:00:00"],
    "created": ["0001-01-01 00:00:00", "9999-12-31 23:59:59", "2026-02-29 00:00:00"],
    "subscriberCode": [LONGEST, f"{LONGEST}y", "\0", "\ud800", "\\.", '"', "\n", 1e16],
    "profileId": [str(2**63), 2**63, -(2**63), -BIGGEST, 1e18, 2.0**63, "\u0663"],
    "manual": [2, 1.0, "TRUE", "no"],
    "dataPrice": [1e14, "99999999999999.9999999", "1e-999999999", "0e999999999", 1e-7, "-1_0"],
    "date": ["2026-11-19", "\0", 0],
    "\0": [1],
}
CHANGES = st.dictionaries(st.sampled_from([*COLUMNS, "date"]) | TEXTS, VALUES, max_size=3)
ODDITIES = st.sampled_from([{name: value} for name, values in ODD.items() for value in values])
#: Records with none or some of their fields as they should not be, and what is no record.
ENTRIES = st.lists(st.just({}) | CHANGES | ODDITIES | SCALARS, max_size=5)


def entries_of(drawn: list[Any]) -> list[Any]:
    return [
        told(number) | entry if isinstance(entry, dict) else entry
        for number, entry in enumerate(drawn, 1)
    ]


def rows(entries: list[Any]) -> dict[str, list[Any]]:
    """By id, as they are for COPY."""
    names = [*COLUMNS, EXTRA]
    found = {}
    for row in csv.reader(StringIO(parsed(entries).csv, newline="")):
        cells: dict[str, Any] = dict(zip(names, row, strict=True))
        price = cells["dataPrice"]
        cells["dataPrice"] = price and Decimal(price).quantize(Decimal("1e-6"), ROUND_HALF_UP)
        found[row[0]] = [*cells.values()]
    return found


@settings(max_examples=300, deadline=None)
@given(drawn=ENTRIES)
def test_a_page_is_what_its_records_are_one_by_one(drawn):
    entries = entries_of(drawn)
    page, alone = parsed(entries), [parsed([entry]) for entry in entries]
    expected: dict[str, list[Any]] = {}
    for entry in entries:
        expected |= rows([entry])
    assert rows(entries) == expected
    assert page.ids == [number for one in alone for number in one.ids]
    good = {one.lowest_id for one in alone} - {None}
    bad = [record for one in alone for record in one.bad if record.record_id not in good]
    assert sorted(page.bad, key=repr) == sorted(bad, key=repr)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Niue"])
@settings(max_examples=100, deadline=None)
@given(drawn=ENTRIES)
@example(drawn=[{"timestamp": "0001-01-02 00:00:00"}, {"timestamp": "9999-12-30 23:59:59"}])
def test_each_record_is_stored_or_kept_apart_and_can_be_read(zone, drawn):
    entries = entries_of(drawn)
    alone = [parsed([entry]) for entry in entries]
    with transaction.atomic(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.conf.settings.PANACCESS_TIME_ZONE", zone)
        stored(*entries)
        good = {page.lowest_id for page in alone} - {None}
        assert {row.pk for row in TelemetryRecordEntry.objects.all()} == good
        bad = {one.digest for page in alone for one in page.bad if one.record_id not in good}
        assert {bytes(row.digest) for row in QuarantinedRecord.objects.all()} == bad
        again = stored(*entries)
        assert (again.inserted, again.updated) == (0, 0)
        transaction.set_rollback(True)
