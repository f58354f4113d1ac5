"""The query parameters of the listings; a wrong one says what would be right."""

from datetime import MINYEAR, UTC, datetime
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters  # type: ignore[import-untyped]
from django_filters.fields import IsoDateTimeField  # type: ignore[import-untyped]
from drf_spectacular.utils import extend_schema_field

from marketplace.filters import NumberFilter, TextFilter, choice_error
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


EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)


class MomentField(IsoDateTimeField):  # type: ignore[misc]
    """In UTC, since PostgreSQL does not know every offset that ISO 8601 has."""

    def to_python(self, value: Any) -> datetime | None:
        moment: datetime | None = super().to_python(value)
        try:
            return moment and moment.astimezone(UTC)
        except OverflowError:
            return EARLIEST if moment and moment.year == MINYEAR else LATEST


@extend_schema_field({"type": "string", "format": "date-time"})
class MomentFilter(filters.Filter):  # type: ignore[misc]
    field_class = MomentField


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
    task_module = TextFilter(help_text=_("The module's name."))
    task_name = TextFilter(help_text=_("The task's name."))
    status = filters.ChoiceFilter(
        choices=TaskStatus.choices, error_messages=choice_error(TaskStatus.values)
    )
    created_after = MomentFilter(
        "created_at", lookup_expr="gte", help_text=_("Published at this time or later.")
    )
    created_before = MomentFilter(
        "created_at", lookup_expr="lte", help_text=_("Published at this time or earlier.")
    )
    search = TextFilter(
        method="by_text",
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
