"""Each view gets its channel's name: the same, in whatever batches and order it all came."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.exceptions import NotHeld
from telemetry.models import MergedTelemetricOTT, SyncState, TelemetryRecordEntry
from telemetry.services.holding import chain_hold
from telemetry.services.merge import _MERGE, batch_merge, ott_merge
from telemetry.services.windows import PLAN
from telemetry.tests.telling import HOLDER, at, name_told, stored, told

pytestmark = pytest.mark.django_db


def names() -> dict[int, str]:
    return dict(MergedTelemetricOTT.objects.values_list("record_id", "data_name"))


def merge_all() -> dict[str, Any]:
    return ott_merge(holder=HOLDER)


# --- What a name is for ---
@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([name_told(1, at(0), "Uno"), told(2, at(5))], "Uno"),
        ([name_told(1, at(0), "Uno"), name_told(3, at(4), "Dos"), told(2, at(5))], "Dos"),
        ([name_told(1, at(0), "Uno"), told(2, at(5)), name_told(3, at(6), "Dos")], "Uno"),
        ([told(2, at(5)), name_told(3, at(6), "Dos"), name_told(4, at(7), "Tres")], "Dos"),
        ([told(2, at(5)), name_told(3, at(5), "at the same time")], "at the same time"),
        ([name_told(1, at(5), "Uno"), told(2, at(5)), name_told(3, at(5), "Dos")], "Dos"),
        ([told(2, at(5)), name_told(3, at(6), "Uno"), name_told(4, at(6), "Dos")], "Uno"),
        ([name_told(1, at(0), "Uno"), name_told(3, at(4), ""), told(2, at(5))], "Uno"),
        ([name_told(1, at(0), "of another", dataId=9), told(2, at(5))], ""),
        ([told(1, at(0), actionId=6, dataName="of another action"), told(2, at(5))], ""),
        ([name_told(1, at(0), "of none", dataId=None), told(2, at(5), dataId=None)], ""),
        ([told(2, at(5))], ""),
        ([told(2, at(5), dataName="its own")], ""),
    ],
)
def test_a_view_gets_the_last_name_before_it_or_else_the_first_after_it(records, expected):
    stored(*records)
    assert merge_all() == {"merged": 1, "is_complete": True}
    assert names() == {2: expected}


def test_a_view_without_a_name_gets_it_when_it_is_told():
    stored(told(2, at(5)))
    merge_all()
    assert names() == {2: ""}
    stored(name_told(3, at(9), "Uno"))
    assert merge_all() == {"merged": 1, "is_complete": True}
    assert names() == {2: "Uno"}


def test_a_name_that_came_late_takes_the_views_after_it():
    stored(name_told(1, at(0), "Uno"), told(2, at(5)), told(3, at(9)), name_told(4, at(8), "Tres"))
    merge_all()
    assert names() == {2: "Uno", 3: "Tres"}
    stored(name_told(5, at(4), "Dos"))
    merge_all()
    assert names() == {2: "Dos", 3: "Tres"}


def test_only_views_are_merged():
    stored(told(1, actionId=1), told(2, actionId=None), name_told(3, at(0), "Uno"))
    assert merge_all() == {"merged": 0, "is_complete": True}
    assert names() == {}


def test_a_merged_record_has_what_its_record_has():
    stored(told(2, at(5), profileId=4, smartcardId="C-9"), name_told(1, at(0), "Uno"))
    merge_all()
    fields = [field.name for field in MergedTelemetricOTT._meta.concrete_fields]
    record = TelemetryRecordEntry.objects.filter(pk=2).values(*fields).get()
    assert MergedTelemetricOTT.objects.values(*fields).get() == {**record, "data_name": "Uno"}


def test_a_name_that_repeats_one_that_is_not_merged_yet_looks_for_its_views_itself():
    """For what comes between the two, the one before will not."""
    stored(name_told(1, at(0), "Uno"), told(2, at(5)))
    merge_all()
    stored(name_told(4, at(3), "Dos"))
    stored(name_told(3, at(1), "Dos"))
    batch_merge(holder=HOLDER, pages=1)
    stored(name_told(5, at(2), "Tres"))
    merge_all()
    assert names() == {2: "Dos"}


# --- Corrections ---
def test_a_name_that_was_corrected_is_corrected_in_its_views():
    stored(name_told(1, at(0), "Uon"), told(2, at(5)))
    merge_all()
    assert stored(name_told(1, at(0), "Uno")).updated == 1
    merge_all()
    assert names() == {2: "Uno"}


@pytest.mark.parametrize(
    "corrected",
    [
        name_told(3, at(4), "Dos", dataId=9),
        name_told(3, at(6), "Dos"),
        name_told(3, at(4), ""),
        told(3, at(4), actionId=1),
    ],
    ids=["of another channel", "later", "no name", "another action"],
)
def test_a_name_that_is_no_longer_a_view_s_is_taken_from_it(corrected):
    stored(name_told(1, at(0), "Uno"), name_told(3, at(4), "Dos"), told(2, at(5)))
    merge_all()
    assert names() == {2: "Dos"}
    stored(corrected)
    merge_all()
    assert names() == {2: "Uno"}


def test_a_record_that_is_no_view_any_more_is_not_merged():
    stored(told(2, at(5)), told(3, at(5)))
    merge_all()
    stored(told(2, at(5), actionId=6))
    merge_all()
    assert names() == {3: ""}


# --- Whatever the batches ---
Record = tuple[int, int, int, str]  # its second, action, channel and name

RECORDS = st.dictionaries(
    st.integers(1, 15),
    st.tuples(
        st.integers(0, 7),
        st.sampled_from([7, 7, 7, 8, 8, 6]),
        st.sampled_from([1, 1, 1, 2]),
        st.sampled_from(["Uno", "Dos", "Uno", "Dos", "Tres", ""]),
    ),
    max_size=8,
)
#: Pages in the order in which they come, and after each so many batches of so many pages, which may
#: leave some to a later merge. A record that comes again has been corrected.
STEPS = st.lists(
    st.tuples(RECORDS, st.integers(0, 3), st.sampled_from([1, 2, 50])), min_size=1, max_size=8
)


def entry(record_id: int, record: Record) -> dict[str, Any]:
    second, action, channel, name = record
    return told(record_id, at(second), actionId=action, dataId=channel, dataName=name)


def reference(records: Mapping[int, Record]) -> dict[int, str]:
    """In plain words: what the document asks for."""
    named: dict[int, str] = {}
    for view, (second, action, channel, _) in records.items():
        if action != 8:
            continue
        tellers = sorted(
            (at_second, record_id, name)
            for record_id, (at_second, told_by, of, name) in records.items()
            if told_by == 7 and of == channel and name
        )
        before = [name for at_second, _, name in tellers if at_second <= second]
        after = [name for at_second, _, name in tellers if at_second > second]
        named[view] = before[-1] if before else after[0] if after else ""
    return named


@settings(max_examples=300, deadline=None)
@given(steps=STEPS)
def test_the_result_is_a_function_of_the_records(steps: Iterable[tuple[Any, int, int]]):
    with transaction.atomic():
        chain_hold(HOLDER)
        records: dict[int, Record] = {}
        for page, batches, size in steps:
            if page:
                stored(*(entry(number, page[number]) for number in sorted(page)))
            records.update(page)
            for _ in range(batches):
                if batch_merge(holder=HOLDER, pages=size) is None:
                    assert names() == reference(records)
                    break
        merge_all()
        assert names() == reference(records)
        assert merge_all() == {"merged": 0, "is_complete": True}
        transaction.set_rollback(True)


# --- How ---
def test_a_run_goes_on_where_the_one_before_stopped(monkeypatch):
    for number in range(1, 4):
        stored(told(number))
    monkeypatch.setattr("telemetry.services.merge.BATCH", 1)
    assert batch_merge(holder=HOLDER, pages=1) == 1
    assert merge_all() == {"merged": 2, "is_complete": True}
    monkeypatch.setattr("telemetry.services.merge.SECONDS", 0)
    stored(told(9))
    assert merge_all() == {"merged": 0, "is_complete": False}
    state = SyncState.objects.get()
    assert (state.revision, state.merged_revision) == (4, 3)


def test_nothing_is_merged_without_the_chain():
    stored(told(1))
    SyncState.objects.update(holder="another")
    with pytest.raises(NotHeld):
        merge_all()
    with pytest.raises(NotHeld):
        batch_merge(holder=HOLDER)
    assert names() == {}


def pages_read(after: int, up_to: int) -> int:
    """Of 8 kB, by the statement of a batch, which is undone."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(PLAN)
        params = {"after": after, "up_to": up_to}
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {_MERGE}", params)
        plan = cursor.fetchone()[0][0]["Plan"]
        transaction.set_rollback(True)
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize("analysed", ["never", "when it was empty", "when it was full"])
def test_a_batch_reads_what_it_needs_whatever_the_statistics_say(analysed):
    """Those of a table that has just been filled are wrong."""
    table = TelemetryRecordEntry._meta.db_table

    def analyse(when: str) -> None:
        if analysed == when:
            with connection.cursor() as cursor:
                cursor.execute(f"ANALYZE {table}")

    analyse("when it was empty")
    for first in range(0, 6000, 1000):
        records = range(first, first + 1000)
        stored(*(told(n + 1, at(n % 3600), actionId=7 + n % 2, dataId=n % 20) for n in records))
    TelemetryRecordEntry.objects.filter(action_id=7).update(data_name="Uno")
    analyse("when it was full")
    # For each record its row, and ways through some indexes.
    assert pages_read(0, 6) < 6000 * 100
    while batch_merge(holder=HOLDER, pages=5) is not None:
        pass
    assert pages_read(5, 6) < 1000 * 100
