"""Rows as JSON."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from telemetry.models import MergedTelemetricOTT, QuarantinedRecord, TelemetryRecordEntry
from telemetry.selectors import GROUPS, MEASURES, MOST

TELEMETRY = tuple(field.name for field in MergedTelemetricOTT._meta.concrete_fields)


@extend_schema_field({"type": "object", "additionalProperties": {}, "nullable": True})
class ExtraField(serializers.JSONField):
    """What PanAccess sent beside the known fields."""


class RecordSerializer(serializers.ModelSerializer[TelemetryRecordEntry]):
    """A record, as PanAccess has it."""

    extra = ExtraField()

    class Meta:
        model = TelemetryRecordEntry
        fields = (
            *TELEMETRY,
            "anonymized",
            "action_id",
            "action_key",
            "manual",
            "reason_id",
            "reason_key",
            "data_net_id",
            "data_ts_id",
            "data_price",
            "whois_isp",
            "ip_id",
            "ip",
            "created",
            "extra",
        )


class MergedSerializer(serializers.ModelSerializer[MergedTelemetricOTT]):
    """A view, with its channel's name; the name is empty as long as none was told."""

    class Meta:
        model = MergedTelemetricOTT
        fields = TELEMETRY


class QuarantinedSerializer(serializers.ModelSerializer[QuarantinedRecord]):
    """What PanAccess sent as a record and cannot be one, and why."""

    class Meta:
        model = QuarantinedRecord
        fields = ("id", "record_id", "reason", "payload", "created_at")


class StatisticsQuerySerializer(serializers.Serializer[Any]):
    group_by = serializers.ChoiceField(choices=[*GROUPS], default="channel")
    by = serializers.ChoiceField(
        choices=MEASURES, default="views", help_text=_("What the top has most of.")
    )
    top = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=MOST,
        help_text=_(
            "So many groups, those with the most; without it hours and days come all, in order."
        ),
    )


class MeasuresSerializer(serializers.Serializer[Any]):
    views = serializers.IntegerField()
    duration = serializers.IntegerField(help_text=_("Seconds."))


class GroupSerializer(MeasuresSerializer):
    key = serializers.CharField(
        help_text=_("The channel's name, the hour, the day or the country; may be empty.")
    )


class TelemetryStatisticsSerializer(serializers.Serializer[Any]):
    """Views, in all and by group."""

    group_by = serializers.ChoiceField(choices=[*GROUPS])
    total = MeasuresSerializer()
    results = GroupSerializer(many=True)


class SyncStateSerializer(serializers.Serializer[Any]):
    """How far sync and merge are."""

    configured = serializers.BooleanField(help_text=_("Whether PANACCESS_URL is set."))
    running = serializers.BooleanField()
    started_at = serializers.DateTimeField(allow_null=True, help_text=_("The last sync's start."))
    finished_at = serializers.DateTimeField(
        allow_null=True, help_text=_("The last sync's end, be it by an error.")
    )
    merged_at = serializers.DateTimeField(allow_null=True, help_text=_("The last merge's end."))
    complete_at = serializers.DateTimeField(
        allow_null=True,
        help_text=_("Whatever PanAccess had at this time is stored."),
    )
    lag_seconds = serializers.FloatField(allow_null=True, help_text=_("Since complete_at."))
    highest_id = serializers.IntegerField(help_text=_("Stored or in quarantine."))
    newest_record_at = serializers.DateTimeField(allow_null=True)
    pages_to_merge = serializers.IntegerField(
        help_text=_("Of a thousand records at most, stored and not merged yet.")
    )
    quarantined = serializers.IntegerField()
    error = serializers.CharField(help_text=_("Of the last sync; empty when it went well."))


class StartedSerializer(serializers.Serializer[Any]):
    """A task that will run."""

    task_id = serializers.CharField()
