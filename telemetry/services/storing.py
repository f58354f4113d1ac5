"""A page of PanAccess' list into the tables: COPY to a staging table, one upsert."""

from dataclasses import dataclass
from io import StringIO
from typing import Any
from zlib import crc32

from django.conf import settings
from django.db import connection, transaction

from telemetry.models import QuarantinedRecord
from telemetry.services.holding import state_locked
from telemetry.services.records import COLUMNS, EXTRA, TEXT, BadRecord, Page
from telemetry.services.windows import PLAN, RECORDS, views_named_by

_MERGED = "telemetry_mergedtelemetricott"

_STAGED = [name for name, _ in COLUMNS.values()]
_TYPES = ", ".join(f"{name} {kind.sql_type}" for name, kind in COLUMNS.values())
_TEXTS = [name for name, kind in COLUMNS.values() if kind is TEXT]

# It outlives the transaction, since making it costs more than filling it; behind PgBouncer it
# outlives a release, too, whose columns may be others.
_STAGING = f"pg_temp.telemetry_page_{crc32(_TYPES.encode()):08x}"
_STAGE = f"""
    CREATE TEMP TABLE IF NOT EXISTS {_STAGING.removeprefix("pg_temp.")} ({_TYPES}, {EXTRA} jsonb)
    ON COMMIT DELETE ROWS;
    DELETE FROM {_STAGING};
"""
_COPY = f"""
    COPY {_STAGING} ({", ".join([*_STAGED, EXTRA])}) FROM STDIN
    (FORMAT csv, FORCE_NOT_NULL ({", ".join(_TEXTS)}))
"""

#: Of our columns, those that are not what the page has under that name.
_DERIVED = {
    "timestamp": "page.timestamp AT TIME ZONE %(zone)s",
    "created": "page.created AT TIME ZONE %(zone)s",
    "date": "page.timestamp::date",
    "hour": "date_part('hour', page.timestamp)",
}
_COLUMNS = [*_STAGED, EXTRA, "date", "hour"]
_VALUES = ", ".join(f"{_DERIVED.get(name, f'page.{name}')} AS {name}" for name in _COLUMNS)


def _row(table: str) -> str:
    return f"({', '.join(f'{table}.{name}' for name in _COLUMNS)})"


_UPSERT = f"""
    INSERT INTO {RECORDS} AS old ({", ".join(_COLUMNS)}, revision)
    SELECT {_VALUES}, %(revision)s FROM {_STAGING} page
    ON CONFLICT (record_id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in [*_COLUMNS[1:], "revision"])}
    WHERE {_row("old")} IS DISTINCT FROM {_row("excluded")}
"""

# Stored before, and otherwise than the page has them now. OFFSET 0 and the arrays below keep the
# planner from joining otherwise than row by row, by the keys.
_CORRECTED = f"""
    SELECT {{columns}}
    FROM (SELECT {_VALUES} FROM {_STAGING} page
          WHERE page.record_id <= %(highest)s OFFSET 0) new
    CROSS JOIN LATERAL (
        SELECT * FROM {RECORDS} WHERE record_id = new.record_id OFFSET 0) old
    WHERE {_row("old")} IS DISTINCT FROM {_row("new")}
"""
_NAMED_OTHERWISE = views_named_by(
    _CORRECTED.format(columns="old.*"), revision="%(revision)s", merged="-1"
)
# A corrected name may no longer be that of the views that have it: the merge takes them up anew.
_TAKE_UP_VIEWS = f"""
    UPDATE {RECORDS} SET revision = %(revision)s
    WHERE record_id = ANY (ARRAY(SELECT record_id FROM ({_NAMED_OTHERWISE}) view))
"""
_FORGET_VIEWS = f"""
    DELETE FROM {_MERGED} WHERE record_id = ANY (ARRAY(
        {_CORRECTED.format(columns="old.record_id")}
          AND old.action_id = 8 AND new.action_id IS DISTINCT FROM 8))
"""
_RELEASE = f"""
    DELETE FROM telemetry_quarantinedrecord WHERE record_id = ANY (ARRAY(
        SELECT record_id FROM {_STAGING} WHERE record_id <= %(highest)s))
"""


@dataclass
class Stored:
    """Counts of records; `highest_id` is of all that were ever stored or put in quarantine."""

    inserted: int = 0
    updated: int = 0
    quarantined: int = 0
    highest_id: int = 0


def page_store(page: Page, *, holder: str, next_offset: int) -> Stored:
    """Store a page and how far the sync has come by it, both or neither; raises NotHeld."""
    with transaction.atomic(), connection.cursor() as cursor:
        state = state_locked(holder)
        stored = Stored(quarantined=_quarantine(page.bad))
        if page.lowest_id is not None:
            state.revision += 1
            cursor.execute(f"{PLAN} {_STAGE}")
            with connection.wrap_database_errors:
                cursor.copy_expert(_COPY, StringIO(page.csv))
            params: dict[str, Any] = {
                "zone": settings.PANACCESS_TIME_ZONE,
                "highest": state.highest_id,
                "revision": state.revision,
            }
            if page.lowest_id <= state.highest_id:
                stored.updated = _correct(cursor, params)
            cursor.execute(_UPSERT, params)
            stored.inserted = cursor.rowcount - stored.updated
        state.highest_id = stored.highest_id = max([state.highest_id, *page.ids])
        state.next_offset = next_offset
        state.save()
    return stored


def _correct(cursor: Any, params: dict[str, Any]) -> int:
    """Prepare for the stored records that the page has otherwise; how many they are."""
    cursor.execute(_RELEASE, params)
    cursor.execute(_CORRECTED.format(columns="count(*)"), params)
    (count,) = cursor.fetchone()
    if count:
        cursor.execute(_TAKE_UP_VIEWS, params)
        cursor.execute(_FORGET_VIEWS, params)
    return int(count)


def _quarantine(records: list[BadRecord]) -> int:
    """How many were not there yet."""
    bad = {record.digest: record for record in records}
    known = QuarantinedRecord.objects.filter(digest__in=bad).values_list("digest", flat=True)
    for digest in known:
        del bad[bytes(digest)]
    QuarantinedRecord.objects.bulk_create(
        QuarantinedRecord(
            digest=digest,
            record_id=record.record_id,
            reason=record.reason,
            payload=record.payload,
        )
        for digest, record in bad.items()
    )
    return len(bad)
