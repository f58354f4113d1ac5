"""Rows as JSON, and JSON as rows."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from task_manager.models import TaskExecution, TaskNotification, TaskStatus, TaskTemplate
from task_manager.selectors import FIELDS, HEAVY
from task_manager.services.notifications import settings_errors

ANY_JSON = {"description": "Any JSON."}
OBJECT = {"type": "object", "additionalProperties": {}}
NOTIFICATION_SETTINGS = {
    "type": "object",
    "description": "Whom to tell of what; nobody of anything when it is empty. `critical`: the "
    "administrators are alerted of a failure.",
    "properties": {
        "notify_on_start": {"type": "boolean"},
        "notify_on_complete": {"type": "boolean"},
        "notify_on_error": {"type": "boolean"},
        "notify_on_progress": {
            "type": "integer",
            "minimum": 1,
            "maximum": 99,
            "description": "Each time that so many more percent are done.",
        },
        "channels": {
            "type": "array",
            "items": {"type": "string", "enum": ["in_app", "email", "webhook"]},
            "minItems": 1,
        },
        "webhook_url": {"type": "string", "format": "uri", "maxLength": 500},
        "critical": {"type": "boolean"},
    },
    "additionalProperties": False,
}


@extend_schema_field(OBJECT)
class ObjectField(serializers.JSONField):
    """A JSON object."""

    default_error_messages = {"not_an_object": _("Use a JSON object.")}

    def to_internal_value(self, data: Any) -> Any:
        value = super().to_internal_value(data)
        if not isinstance(value, dict):
            self.fail("not_an_object")
        return value


@extend_schema_field(NOTIFICATION_SETTINGS)
class NotificationSettingsField(ObjectField):
    """A template's notification settings."""

    def to_internal_value(self, data: Any) -> Any:
        value = super().to_internal_value(data)
        if errors := settings_errors(value):
            raise serializers.ValidationError(errors)
        return value


@extend_schema_field(ANY_JSON)
class AnyField(serializers.JSONField):
    """Any JSON."""


# --- Executions ----------------------------------------------------------------------------------
class ExecutionSerializer(serializers.ModelSerializer[TaskExecution]):
    """A task, from its publication to its end."""

    id = serializers.CharField(help_text=_("The same as `task_id`."))
    user = serializers.IntegerField(
        source="user_id", allow_null=True, help_text=_("The number of the user it belongs to.")
    )
    progress = serializers.IntegerField(min_value=0, max_value=100)
    parameters = ObjectField(help_text=_("Shortened; secrets are masked by their names."))
    result = AnyField(allow_null=True, help_text=_("Shortened; secrets are masked."))

    class Meta:
        model = TaskExecution
        fields = ("id", *FIELDS)
        read_only_fields = fields


class ExecutionRowSerializer(ExecutionSerializer):
    """The same without what may be long: parameters, result and traceback."""

    class Meta:
        model = TaskExecution
        fields = tuple(name for name in ExecutionSerializer.Meta.fields if name not in HEAVY)
        read_only_fields = fields


class StatusSerializer(serializers.ModelSerializer[TaskExecution]):
    """How far a task is; `result` is there once it succeeded."""

    state = serializers.ChoiceField(source="status", choices=TaskStatus.choices)
    info = serializers.SerializerMethodField(
        help_text=_("As text, the result, the error, or how far it is.")
    )
    result = AnyField(required=False, allow_null=True)

    class Meta:
        model = TaskExecution
        fields = ("task_id", "state", "info", "progress", "message", "result")
        read_only_fields = fields

    @extend_schema_field({"type": "string", "nullable": True})
    def get_info(self, execution: TaskExecution) -> str | None:
        if execution.status == TaskStatus.SUCCESS:
            return str(execution.result) if execution.result else None
        return execution.error or execution.message or None

    def to_representation(self, instance: TaskExecution) -> dict[str, Any]:
        shown = super().to_representation(instance)
        if instance.status != TaskStatus.SUCCESS:
            del shown["result"]
        return shown


class CountsSerializer(serializers.Serializer[Any]):
    PENDING = serializers.IntegerField()
    STARTED = serializers.IntegerField()
    RETRY = serializers.IntegerField()
    SUCCESS = serializers.IntegerField()
    FAILURE = serializers.IntegerField()
    REVOKED = serializers.IntegerField()


class FiguresSerializer(serializers.Serializer[Any]):
    """Durations are seconds; the 95th percentile is right within a tenth."""

    total = serializers.IntegerField()
    by_status = CountsSerializer()
    failure_rate = serializers.FloatField(
        allow_null=True, help_text=_("0 to 1, of those that ended in SUCCESS or FAILURE.")
    )
    mean_duration = serializers.FloatField(allow_null=True)
    p95_duration = serializers.FloatField(allow_null=True)
    tasks_per_minute = serializers.FloatField(help_text=_("Those that ended."))


class TaskFiguresSerializer(FiguresSerializer):
    task_name = serializers.CharField()


class ModuleFiguresSerializer(FiguresSerializer):
    module = serializers.CharField()
    tasks = TaskFiguresSerializer(many=True)


class StatisticsSerializer(FiguresSerializer):
    days = serializers.IntegerField()
    modules = ModuleFiguresSerializer(many=True)


class DaysSerializer(serializers.Serializer[Any]):
    """The query of the statistics."""

    days = serializers.IntegerField(
        default=30, min_value=1, max_value=3650, help_text=_("How far back to look.")
    )


# --- Workers -------------------------------------------------------------------------------------
class WorkerSerializer(serializers.Serializer[Any]):
    """A worker that is alive."""

    name = serializers.CharField()
    status = serializers.ChoiceField(choices=[("online", "online")])
    source = serializers.ChoiceField(  # type: ignore[assignment]
        choices=[("flower", "flower"), ("celery", "celery")], help_text=_("Who says so.")
    )
    active = serializers.IntegerField(help_text=_("Tasks that it runs."))
    processed = serializers.IntegerField(help_text=_("Tasks that it ran since it started."))
    concurrency = serializers.IntegerField(
        allow_null=True,
        help_text=_("Tasks that it runs at once; null where Flower has no login and so no API."),
    )
    queues = serializers.ListField(
        child=serializers.CharField(), help_text=_("That it takes tasks from; empty likewise.")
    )
    pid = serializers.IntegerField(allow_null=True)


class FlowerTasksSerializer(serializers.Serializer[Any]):
    active = serializers.IntegerField()
    received = serializers.IntegerField()
    succeeded = serializers.IntegerField()
    failed = serializers.IntegerField()
    retried = serializers.IntegerField()
    revoked = serializers.IntegerField()


class FlowerSerializer(serializers.Serializer[Any]):
    """Flower, and what it counted since it started."""

    url = serializers.CharField(help_text=_("Where this application looks for it."))
    reachable = serializers.BooleanField()
    version = serializers.CharField()
    workers = serializers.IntegerField(allow_null=True, help_text=_("Those that are alive."))
    tasks = FlowerTasksSerializer(allow_null=True, help_text=_("Of those workers."))


# --- Templates -----------------------------------------------------------------------------------
class TemplateSerializer(serializers.ModelSerializer[TaskTemplate]):
    """A task with its usual parameters, and whom to tell of its runs."""

    default_parameters = ObjectField(default=dict)
    notification_settings = NotificationSettingsField(default=dict)

    class Meta:
        model = TaskTemplate
        fields = (
            "name",
            "task_name",
            "module",
            "description",
            "default_parameters",
            "estimated_duration",
            "notification_settings",
            "created_at",
            "updated_at",
        )

    def validate_name(self, value: str) -> str:
        # It is a part of addresses, where dots alone have a meaning of their own.
        if "/" in value or value in (".", ".."):
            raise serializers.ValidationError(_("Use no slashes, and not dots alone."))
        return value


class RunSerializer(serializers.Serializer[Any]):
    """What a template's task is run with."""

    parameters = ObjectField(
        default=dict, help_text=_("By name; they take the place of the template's.")
    )


class PublishedSerializer(serializers.Serializer[Any]):
    """A task on its way to a worker."""

    task_id = serializers.CharField()
    status_url = serializers.SerializerMethodField(help_text=_("Where to ask how far it is."))

    @extend_schema_field({"type": "string", "format": "uri"})
    def get_status_url(self, published: dict[str, str]) -> str:
        address: str = reverse(
            "task-status", args=[published["task_id"]], request=self.context["request"]
        )
        return address


# --- Notifications -------------------------------------------------------------------------------
class TaskNotificationSerializer(serializers.ModelSerializer[TaskNotification]):
    """What the user is told of a task."""

    class Meta:
        model = TaskNotification
        fields = (
            "id",
            "task_id",
            "task_name",
            "event",
            "progress",
            "message",
            "created_at",
            "read_at",
        )
        read_only_fields = fields


class MarkedSerializer(serializers.Serializer[Any]):
    marked = serializers.IntegerField(help_text=_("How many were unread until now."))
