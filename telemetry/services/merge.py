"""Views with their channels' names: set-based, batch by batch of what the sync brought.

The result is a function of the stored records alone. A batch computes the views that are new in
it, and the older ones that its new names are for.
"""

import logging
import time
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from telemetry.models import MergedTelemetricOTT, SyncState
from telemetry.services.holding import chain_hold, state_locked
from telemetry.services.windows import PLAN, RECORDS, TOLD, name_of, views_named_by

logger = logging.getLogger(__name__)

#: Pages of the sync that a batch takes, a thousand records each at most.
BATCH = 50
#: Seconds after which a run begins no further batch: the next one goes on.
SECONDS = 120.0

_COLUMNS = [
    field.name for field in MergedTelemetricOTT._meta.concrete_fields if field.name != "data_name"
]
_NEW = "revision > %(after)s AND revision <= %(up_to)s"
_NAMED = views_named_by(
    f"SELECT {', '.join(TOLD)} FROM {RECORDS} WHERE {_NEW}",
    revision="%(after)s",
    merged="%(up_to)s",
)
_VIEW = ", ".join(f"view.{name}" for name in _COLUMNS)
_CHANGED = [*(name for name in _COLUMNS if name != "record_id"), "data_name"]


def _row(table: str) -> str:
    return f"({', '.join(f'{table}.{name}' for name in _CHANGED)})"


# `+ 0`: the index of all views would be the wrong one.
_MERGE = f"""
    INSERT INTO {MergedTelemetricOTT._meta.db_table} AS old ({", ".join(_COLUMNS)}, data_name)
    SELECT {_VIEW}, {name_of("view")}
    FROM (SELECT {_VIEW} FROM {RECORDS} view WHERE {_NEW} AND action_id + 0 = 8
          UNION ALL
          SELECT {_VIEW} FROM ({_NAMED}) view) view
    ON CONFLICT (record_id) DO UPDATE
    SET {", ".join(f"{name} = excluded.{name}" for name in _CHANGED)}
    WHERE {_row("old")} IS DISTINCT FROM {_row("excluded")}
"""


def ott_merge(*, holder: str) -> dict[str, Any]:
    """Bring the merged records to what the stored ones say. Raises NotHeld.

    `merged` counts views that are new or changed; `is_complete` is false when the time was up.
    """
    chain_hold(holder)
    deadline = time.monotonic() + SECONDS
    merged = 0
    while time.monotonic() < deadline:
        count = batch_merge(holder=holder)
        if count is None:
            SyncState.objects.update(merged_at=timezone.now())
            logger.info("Merged %d views", merged)
            return {"merged": merged, "is_complete": True}
        merged += count
    logger.info("Merged %d views; there are more", merged)
    return {"merged": merged, "is_complete": False}


def batch_merge(*, holder: str, pages: int = BATCH) -> int | None:
    """How many views are new or changed; None: all are merged."""
    with transaction.atomic(), connection.cursor() as cursor:
        state = state_locked(holder)
        after, up_to = state.merged_revision, min(state.merged_revision + pages, state.revision)
        if after == up_to:
            return None
        cursor.execute(PLAN)
        cursor.execute(_MERGE, {"after": after, "up_to": up_to})
        count: int = cursor.rowcount
        state.merged_revision = up_to
        state.save()
    return count
