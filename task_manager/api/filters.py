"""The query parameters of the listings; a wrong one says what would be right."""

from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters  # type: ignore[import-untyped]
from drf_spectacular.utils import extend_schema_field

from task_manager import selectors
from task_manager.models import TaskExecution, TaskNotification, TaskStatus

ORDERS = [
    sign + name
    for name in (
        "created_at",
        "started_at",
        "finished_at",
        "duration",
        "task_name",
        "task_module",
        "status",
        "progress",
    )
    for sign in ("-", "")
]


def choice_error(values: list[str]) -> dict[str, Any]:
    return {"invalid_choice": format_lazy(_("Use one of: {values}."), values=", ".join(values))}


@extend_schema_field({"type": "integer", "minimum": 1})
class NumberFilter(filters.Filter):  # type: ignore[misc]
    """The number of a row."""

    field_class = forms.IntegerField


class ExecutionFilter(filters.FilterSet):  # type: ignore[misc]
    user = NumberFilter(
        "user_id",
        label=_("User"),
        help_text=_("The number of a user."),
        min_value=1,
        error_messages=dict.fromkeys(
            ("invalid", "min_value"), _("Use the number of a user, such as 1.")
        ),
    )
    task_module = filters.CharFilter(max_length=100, help_text=_("The module's name."))
    task_name = filters.CharFilter(max_length=255, help_text=_("The task's name."))
    status = filters.ChoiceFilter(
        choices=TaskStatus.choices, error_messages=choice_error(TaskStatus.values)
    )
    created_after = filters.IsoDateTimeFilter(
        "created_at", lookup_expr="gte", help_text=_("Published at this time or later.")
    )
    created_before = filters.IsoDateTimeFilter(
        "created_at", lookup_expr="lte", help_text=_("Published at this time or earlier.")
    )
    search = filters.CharFilter(
        method="by_text",
        max_length=255,
        help_text=_(
            "A task's id, or text within the name, the module or the description of a task."
        ),
    )
    # Last: it takes the newest of what the others left.
    ordering = extend_schema_field(
        {
            "type": "string",
            "enum": ORDERS,
            "default": "-created_at",
            "description": "By this field, descending with `-`. By any other than `created_at` "
            f"the newest {selectors.SORTED:,} that match are sorted, and no older ones.",
        }
    )(
        filters.ChoiceFilter(
            method="by_order",
            choices=[(order, order) for order in ORDERS],
            error_messages=choice_error(ORDERS),
        )
    )

    class Meta:
        model = TaskExecution
        fields: list[str] = []

    def by_text(self, executions: QuerySet[TaskExecution], name: str, value: str) -> Any:
        return selectors.executions_search(executions, value)

    def by_order(self, executions: QuerySet[TaskExecution], name: str, value: str) -> Any:
        return selectors.executions_ordered(executions, value)


class OwnExecutionFilter(ExecutionFilter):
    user = None  # type: ignore[assignment]


class NotificationFilter(filters.FilterSet):  # type: ignore[misc]
    unread = extend_schema_field(
        {"type": "boolean", "description": "Those not read yet, or those that are."}
    )(
        filters.ChoiceFilter(
            method="by_unread",
            label=_("Unread"),
            choices=[("true", "true"), ("false", "false")],
            error_messages=choice_error(["true", "false"]),
        )
    )

    class Meta:
        model = TaskNotification
        fields: list[str] = []

    def by_unread(self, rows: QuerySet[TaskNotification], name: str, value: str) -> Any:
        return rows.filter(read_at__isnull=value == "true")
