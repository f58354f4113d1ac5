"""The query parameters of the listings and statistics; a wrong one says what would be right."""

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters  # type: ignore[import-untyped]
from drf_spectacular.utils import extend_schema_field

from marketplace.filters import NumberFilter, TextFilter
from telemetry.models import MergedTelemetricOTT, TelemetryRecordEntry


@extend_schema_field({"type": "string", "format": "date"})
class DateFilter(filters.Filter):  # type: ignore[misc]
    field_class = forms.DateField

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(
            *args,
            input_formats=["%Y-%m-%d"],
            error_messages={"invalid": _("Use a date, such as 2026-11-30.")},
            **kwargs,
        )


@extend_schema_field({"type": "integer", "format": "int64"})
class KeyFilter(NumberFilter):
    """A number of the source's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(
            *args,
            min_value=-(2**63),
            max_value=2**63 - 1,
            error_messages=dict.fromkeys(
                ("invalid", "min_value", "max_value"), _("Use a whole number.")
            ),
            **kwargs,
        )


class TelemetryFilter(filters.FilterSet):  # type: ignore[misc]
    date_from = DateFilter(
        "date", lookup_expr="gte", help_text=_("On this day or later, in the source's time zone.")
    )
    date_to = DateFilter(
        "date", lookup_expr="lte", help_text=_("On this day or earlier, in the source's time zone.")
    )
    hour = extend_schema_field({"type": "integer", "minimum": 0, "maximum": 23})(
        NumberFilter(
            min_value=0,
            max_value=23,
            help_text=_("The hour of the day, in the source's time zone."),
            error_messages=dict.fromkeys(
                ("invalid", "min_value", "max_value"), _("Use a whole number from 0 to 23.")
            ),
        )
    )
    subscriber = TextFilter("subscriber_code", help_text=_("The subscriber's code."))
    device = TextFilter("device_id", help_text=_("The device's number."))
    service = KeyFilter("data_service_id", help_text=_("The service's number."))
    country = TextFilter("whois_country", help_text=_("The country."))


class RecordFilter(TelemetryFilter):
    action = KeyFilter("action_id", help_text=_("The action's number, such as 7 or 8."))

    class Meta:
        model = TelemetryRecordEntry
        fields: list[str] = []


class MergedFilter(TelemetryFilter):
    channel = TextFilter("data_name", help_text=_("The channel's name."))

    class Meta:
        model = MergedTelemetricOTT
        fields: list[str] = []
