"""What reads the state: listings, statistics, how far the sync is."""

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db.models import Count, F, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from telemetry.models import (
    MergedTelemetricOTT,
    QuarantinedRecord,
    SyncState,
    TelemetryRecordEntry,
)

#: The listings' order, the newest first.
NEWEST = ("-date", "-timestamp", "-record_id")


def records() -> "QuerySet[TelemetryRecordEntry]":
    return TelemetryRecordEntry.objects.order_by(*NEWEST)


def merged() -> "QuerySet[MergedTelemetricOTT]":
    return MergedTelemetricOTT.objects.order_by(*NEWEST)


def quarantined() -> "QuerySet[QuarantinedRecord]":
    return QuarantinedRecord.objects.order_by("-id")


# --- Statistics ----------------------------------------------------------------------------------
#: By what views are grouped, and the column of each.
GROUPS = {"channel": "data_name", "hour": "hour", "day": "date", "country": "whois_country"}
#: These are listed in their own order unless the top is asked for.
IN_ORDER = ("hour", "day")
MEASURES = ("views", "duration")
#: Groups that an answer has at most.
MOST = 1000

_MEASURED = {"views": Count("pk"), "duration": Coalesce(Sum("data_duration"), 0)}


def statistics(
    views: "QuerySet[MergedTelemetricOTT]", *, group_by: str, by: str, top: int | None
) -> dict[str, Any]:
    """Views and their seconds in all, and by group: those with the most `by`, or all in order."""
    column = GROUPS[group_by]
    groups = views.order_by().values(key=F(column)).annotate(**_MEASURED)
    is_in_order = group_by in IN_ORDER and top is None
    groups = groups.order_by("key") if is_in_order else groups.order_by(f"-{by}", "key")
    return {
        "group_by": group_by,
        "total": _measures(views.order_by().aggregate(**_MEASURED)),
        "results": [
            {"key": str(group["key"]), **_measures(group)}
            for group in groups[: min(top or MOST, MOST)]
        ],
    }


def _measures(row: Mapping[str, Any]) -> dict[str, int]:
    return {name: int(row[name]) for name in MEASURES}


# --- The sync ------------------------------------------------------------------------------------
def state_row() -> SyncState:
    """The row, or what it will be at first."""
    return SyncState.objects.first() or SyncState()


def sync_state() -> dict[str, Any]:
    """How far sync and merge are; `lag_seconds` is None as long as no sync was complete."""
    state, now = state_row(), timezone.now()
    return {
        "configured": bool(settings.PANACCESS_URL),
        "running": state.is_held,
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "merged_at": state.merged_at,
        "complete_at": state.complete_at,
        "lag_seconds": (now - state.complete_at).total_seconds() if state.complete_at else None,
        "highest_id": state.highest_id,
        "newest_record_at": records().values_list("timestamp", flat=True).first(),
        "pages_to_merge": state.revision - state.merged_revision,
        "quarantined": QuarantinedRecord.objects.count(),
        "error": state.error,
    }
