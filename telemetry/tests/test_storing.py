"""A page is stored once and whole, together with how far the sync has come by it."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from telemetry.exceptions import NotHeld
from telemetry.models import (
    MergedTelemetricOTT,
    QuarantinedRecord,
    SyncState,
    TelemetryRecordEntry,
)
from telemetry.services.holding import chain_hold
from telemetry.services.merge import ott_merge
from telemetry.services.records import parsed
from telemetry.services.storing import Stored, page_store
from telemetry.tests.telling import HOLDER, at, pages, stored, told

pytestmark = pytest.mark.django_db


def row(record_id: int) -> Any:
    return TelemetryRecordEntry.objects.filter(pk=record_id).values().get()


def ids() -> list[int]:
    return [*TelemetryRecordEntry.objects.order_by("pk").values_list("pk", flat=True)]


def state() -> Any:
    return SyncState.objects.values("highest_id", "next_offset", "revision").get()


# --- What is stored ---
def test_each_field_is_in_its_column():
    stored(
        told(
            7,
            "2026-11-20 10:30:05",
            smartcardId="C-9",
            manual=True,
            reasonKey="TIMER",
            dataNetId=1,
            dataTsId=2,
            dataName="Uno",
            dataPrice=1.99,
            profileId=4,
            created="2026-11-20 10:30:07",
            appVersion="4.2",
        )
    )
    assert row(7) == {
        "record_id": 7,
        "subscriber_code": "S-0001",
        "device_id": "D-0001",
        "smartcard_id": "C-9",
        "anonymized": False,
        "action_id": 8,
        "action_key": "watched",
        "timestamp": datetime(2026, 11, 20, 10, 30, 5, tzinfo=UTC),
        "date": date(2026, 11, 20),
        "hour": 10,
        "manual": True,
        "reason_id": 1,
        "reason_key": "TIMER",
        "data_net_id": 1,
        "data_ts_id": 2,
        "data_service_id": 11,
        "data_id": 1,
        "data_name": "Uno",
        "data_price": Decimal("1.99"),
        "data_duration": 60,
        "whois_country": "MX",
        "whois_isp": "Red Ñandú",
        "ip_id": 5,
        "ip": "192.0.2.7",
        "profile_id": 4,
        "created": datetime(2026, 11, 20, 10, 30, 7, tzinfo=UTC),
        "extra": {"appVersion": "4.2"},
        "revision": 1,
    }


@pytest.mark.parametrize(
    ("zone", "timestamp", "moment"),
    [
        ("UTC", "2026-11-20 23:59:59", "2026-11-20 23:59:59"),
        ("America/Mexico_City", "2026-11-20 23:59:59", "2026-11-21 05:59:59"),
        ("America/Mexico_City", "2026-07-01 00:00:00", "2026-07-01 06:00:00"),
        ("America/Mexico_City", "2022-07-01 00:00:00", "2022-07-01 05:00:00"),  # the last summer
        ("Europe/Madrid", "2026-01-15 00:30:00", "2026-01-14 23:30:00"),
        ("Europe/Madrid", "2026-07-15 00:30:00", "2026-07-14 22:30:00"),
        # The hour that the clocks leave out, and the one that comes twice.
        ("Europe/Madrid", "2026-03-29 01:59:59", "2026-03-29 00:59:59"),
        ("Europe/Madrid", "2026-03-29 02:30:00", "2026-03-29 01:30:00"),
        ("Europe/Madrid", "2026-03-29 03:00:00", "2026-03-29 01:00:00"),
        ("Europe/Madrid", "2026-10-25 01:59:59", "2026-10-24 23:59:59"),
        ("Europe/Madrid", "2026-10-25 02:30:00", "2026-10-25 01:30:00"),
        ("Europe/Madrid", "2026-10-25 03:00:00", "2026-10-25 02:00:00"),
        ("Asia/Kolkata", "2024-02-29 00:00:00", "2024-02-28 18:30:00"),
    ],
)
def test_times_are_told_in_the_source_s_zone(settings, zone, timestamp, moment):
    """The moment is what it is anywhere; date and hour are those of the source's clock."""
    settings.PANACCESS_TIME_ZONE = zone
    stored(told(1, timestamp))
    found = row(1)
    assert found["timestamp"] == datetime.fromisoformat(f"{moment}+00:00")
    assert found["created"] == found["timestamp"]
    assert (str(found["date"]), found["hour"]) == (timestamp[:10], int(timestamp[11:13]))


# --- Again ---
PAGE = [
    told(1),
    told(2, "bad"),
    told(3, dataPrice="1.23456789", appVersion="4", timestamp="2026-10-25 02:30:00"),
    "not an object",
    told(4, dataPrice=0.1 + 0.2, dataName='"\\', smartcardId=None, profileId="5", manual=""),
    told(4, dataPrice=2.5e-7),
]


def test_the_same_page_twice_changes_nothing():
    assert stored(*PAGE) == Stored(inserted=3, updated=0, quarantined=2, highest_id=4)
    before = [row(number) for number in ids()]
    assert stored(*PAGE) == Stored(inserted=0, updated=0, quarantined=0, highest_id=4)
    assert [row(number) for number in ids()] == before
    assert QuarantinedRecord.objects.count() == 2


@pytest.mark.parametrize(
    "changed",
    [{"ip": "192.0.2.8"}, {"profileId": 7}, {"manual": True}, {"extra": 1}, {"dataPrice": 0.5}],
)
def test_a_correction_is_stored_and_counted(changed):
    stored(told(1), told(2), told(3))
    assert stored(told(2, **changed), told(3)) == Stored(updated=1, highest_id=3)
    (column, value) = next(iter(changed.items()))
    stored(told(9, **{column: value}))
    unlike = {"record_id", "revision"}
    assert {k: v for k, v in row(2).items() if k not in unlike} == {
        k: v for k, v in row(9).items() if k not in unlike
    }
    assert [row(number)["revision"] for number in (1, 2, 3)] == [1, 2, 1]


def test_a_correction_another_and_what_is_new_come_in_one_page():
    stored(told(1), told(3), told(5))
    counts = stored(told(1, ip="x"), told(2), told(3), told(4, "bad"), told(5, ip="y"), told(6))
    assert counts == Stored(inserted=2, updated=2, quarantined=1, highest_id=6)
    assert ids() == [1, 2, 3, 5, 6]


# --- Quarantine ---
def test_a_record_that_comes_well_formed_later_leaves_quarantine():
    stored(told(1), told(2, "bad"), told(3, "bad"), told("R4"))
    assert stored(told(2)).inserted == 1
    assert ids() == [1, 2]
    kept = QuarantinedRecord.objects.values_list("record_id", flat=True)
    assert [*kept.order_by("pk")] == [3, None]


def test_a_record_that_is_malformed_in_another_way_is_kept_in_both():
    stored(told(1, "bad"))
    assert stored(told(1, "worse")).quarantined == 1
    assert QuarantinedRecord.objects.count() == 2
    stored(told(1))
    assert not QuarantinedRecord.objects.exists()


@pytest.mark.parametrize("bad_first", [True, False])
def test_a_record_that_came_both_ways_in_one_page_is_well_formed(bad_first):
    page = [told(1, "bad"), told(1)] if bad_first else [told(1), told(1, "bad")]
    assert stored(*page) == Stored(inserted=1, highest_id=1)
    assert stored(*page) == Stored(highest_id=1)
    assert (ids(), QuarantinedRecord.objects.count()) == ([1], 0)


# --- How far ---
def test_the_highest_record_counts_whether_stored_or_in_quarantine():
    assert stored(told(1), told(9, "bad"), told(5)).highest_id == 9
    assert stored(told(3), "not an object").highest_id == 9
    assert stored().highest_id == 9


def test_the_state_is_what_the_last_page_made_it():
    stored(told(1), told(2), next_offset=2)
    assert state() == {"highest_id": 2, "next_offset": 2, "revision": 1}
    stored(told(3, "bad"), next_offset=3)  # brings the merge nothing
    assert state() == {"highest_id": 3, "next_offset": 3, "revision": 1}
    stored(told(4), next_offset=1)
    assert state() == {"highest_id": 4, "next_offset": 1, "revision": 2}


# --- Both or neither ---
def refuse_to_save(*_: Any, **__: Any) -> None:
    raise DatabaseError("the connection is gone")


def test_rows_are_not_stored_without_the_state(monkeypatch):
    stored(told(1), next_offset=1)
    before = state()
    with monkeypatch.context() as patch:
        patch.setattr(SyncState, "save", refuse_to_save)
        with pytest.raises(DatabaseError):
            stored(told(1, ip="x"), told(2), told(3, "bad"), next_offset=3)
    assert (ids(), row(1)["ip"], state()) == ([1], "192.0.2.7", before)
    assert not QuarantinedRecord.objects.exists()
    assert stored(told(1, ip="x"), told(2)) == Stored(inserted=1, updated=1, highest_id=2)


def test_the_state_is_not_stored_without_the_rows(settings):
    stored(told(1), next_offset=1)
    before = state()
    settings.PANACCESS_TIME_ZONE = "Mars/Olympus"
    with pytest.raises(DatabaseError, match="Mars"), transaction.atomic():
        stored(told(2), told(3, "bad"), next_offset=3)
    assert (ids(), QuarantinedRecord.objects.count(), state()) == ([1], 0, before)


def test_nothing_is_stored_while_another_has_the_chain():
    stored(told(1))
    chain_hold(HOLDER)
    SyncState.objects.update(holder="another")
    before = state()
    with pytest.raises(NotHeld):
        page_store(parsed([told(2), told(3, "bad")]), holder=HOLDER, next_offset=3)
    assert (ids(), QuarantinedRecord.objects.count(), state()) == ([1], 0, before)


def test_each_page_holds_the_chain_for_longer():
    stored(told(1))
    SyncState.objects.update(held_until=timezone.now())
    page_store(parsed([told(2)]), holder=HOLDER, next_offset=2)
    with pytest.raises(NotHeld):
        chain_hold("another")


def tuples_read() -> int:
    """By this transaction, of our tables."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_xact_user_tables "
            "WHERE relname LIKE 'telemetry_%'"
        )
        return int(cursor.fetchone()[0])


def test_corrections_read_what_they_need_whatever_the_statistics_say():
    """Nobody has analysed these tables."""
    records = [
        told(n, at(n // 2), actionId=7 + n % 2, dataName=f"Canal {n}", dataId=n // 2 % 20)
        for n in range(1, 5001)
    ]
    for page in pages(records, 1000):
        stored(*page, *(f"no record {n}" for n in range(100)))
    ott_merge(holder=HOLDER)
    corrected = [record | {"dataName": "another"} for record in records[:50]]
    before = tuples_read()
    assert stored(*corrected).updated == 50
    assert tuples_read() - before < 5000
    ott_merge(holder=HOLDER)
    names = MergedTelemetricOTT.objects.filter(record_id__lt=50).values_list("data_name", flat=True)
    assert {*names} == {"another"}
