"""Query parameters of listings that several apps have; a wrong one says what would be right."""

from typing import Any

from django import forms
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters  # type: ignore[import-untyped]
from drf_spectacular.utils import extend_schema_field


def choice_error(values: list[str]) -> dict[str, Any]:
    return {"invalid_choice": format_lazy(_("Use one of: {values}."), values=", ".join(values))}


@extend_schema_field({"type": "string", "maxLength": 255, "pattern": r"^[^\x00]*$"})
class TextFilter(filters.CharFilter):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, max_length=255, **kwargs)


@extend_schema_field({"type": "integer", "minimum": 1})
class NumberFilter(filters.Filter):  # type: ignore[misc]
    """A whole number; `min_value` and `max_value` bound it."""

    field_class = forms.IntegerField
