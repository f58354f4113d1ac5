"""The admin: records, views and quarantine to see; tasks alone write them."""

from django.contrib import admin

from marketplace.admin import ReadOnlyAdmin
from telemetry.models import (
    MergedTelemetricOTT,
    QuarantinedRecord,
    SyncState,
    TelemetryRecordEntry,
)
from telemetry.selectors import NEWEST


@admin.register(TelemetryRecordEntry)
class TelemetryRecordEntryAdmin(ReadOnlyAdmin):
    list_display = ("record_id", "timestamp", "action_key", "subscriber_code", "data_name")
    ordering = NEWEST
    search_fields = ("=record_id", "=subscriber_code", "=device_id")


@admin.register(MergedTelemetricOTT)
class MergedTelemetricOTTAdmin(ReadOnlyAdmin):
    list_display = ("record_id", "timestamp", "data_name", "data_duration", "subscriber_code")
    ordering = NEWEST
    search_fields = ("=record_id", "=subscriber_code", "=device_id")


@admin.register(QuarantinedRecord)
class QuarantinedRecordAdmin(ReadOnlyAdmin):
    list_display = ("record_id", "reason", "created_at")
    ordering = ("-id",)
    search_fields = ("=record_id", "reason")


@admin.register(SyncState)
class SyncStateAdmin(ReadOnlyAdmin):
    list_display = ("highest_id", "started_at", "finished_at", "complete_at", "merged_at", "error")
