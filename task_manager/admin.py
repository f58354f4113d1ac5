"""The admin: the history to see and cancel, templates to change."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from marketplace.admin import ReadOnlyAdmin
from task_manager import selectors
from task_manager.exceptions import TaskManagerError
from task_manager.models import (
    DeadLetter,
    OutboxTask,
    TaskExecution,
    TaskNotification,
    TaskTemplate,
)
from task_manager.services.cancel import executions_cancel
from task_manager.services.dead_letters import dead_letter_discard, dead_letter_parameters
from task_manager.services.notifications import notifications_retry, settings_errors
from task_manager.services.requeue import dead_letter_requeue


class KnownFilter(admin.SimpleListFilter):
    """Choices by a look at the index: a DISTINCT would read the whole table."""

    def names(self) -> Iterable[str]:
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in sorted(set(self.names()))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(**{str(self.parameter_name): chosen}) if chosen else queryset


class ModuleFilter(KnownFilter):
    title = _("module")
    parameter_name = "task_module"

    def names(self) -> Iterable[str]:
        return (task.module for task in selectors.known_tasks())


class NameFilter(KnownFilter):
    title = _("task")
    parameter_name = "task_name"

    def names(self) -> Iterable[str]:
        return (task.name for task in selectors.known_tasks())


@admin.register(TaskExecution)
class TaskExecutionAdmin(ReadOnlyAdmin):
    list_display = (
        "task_id",
        "task_name",
        "user",
        "status",
        "progress",
        "worker",
        "created_at",
        "started_at",
        "finished_at",
        "duration",
    )
    list_select_related = ("user",)
    list_filter = ("status", ModuleFilter, NameFilter)
    # Only the newest are sorted by anything without an index.
    sortable_by = ("created_at",)
    search_fields = ("task_id", "task_name")
    search_help_text = _(
        "A task's id, or text within the name, the module or the description of a task."
    )
    actions = ("cancel",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[TaskExecution]:
        queryset: QuerySet[TaskExecution] = super().get_queryset(request)
        return queryset

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        text = search_term.strip().replace("\x00", "")
        return (selectors.executions_search(queryset, text) if text else queryset), False

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("task_manager.change_taskexecution")

    @admin.action(description=_("Cancel the selected tasks"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, executions: QuerySet[TaskExecution]) -> None:
        outcome = executions_cancel(list(executions.values_list("pk", flat=True)))
        message = ngettext(
            "%(count)d task cancelled.", "%(count)d tasks cancelled.", outcome["cancelled"]
        )
        messages.success(request, message % {"count": outcome["cancelled"]})
        if outcome["failed"]:
            message = ngettext(
                "The worker of %(count)d task did not answer.",
                "The workers of %(count)d tasks did not answer.",
                outcome["failed"],
            )
            messages.warning(request, message % {"count": outcome["failed"]})


class TaskTemplateForm(forms.ModelForm):  # type: ignore[type-arg]
    def _object(self, name: str) -> dict[str, Any]:
        value = self.cleaned_data[name]
        if value is None:  # the field was emptied
            return {}
        if not isinstance(value, dict):
            raise ValidationError(_("Use a JSON object."))
        return value

    def clean_default_parameters(self) -> dict[str, Any]:
        return self._object("default_parameters")

    def clean_notification_settings(self) -> dict[str, Any]:
        value = self._object("notification_settings")
        if errors := settings_errors(value):
            raise ValidationError(errors)
        return value


@admin.register(TaskTemplate)
class TaskTemplateAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = TaskTemplateForm
    list_display = ("name", "task_name", "module", "estimated_duration", "updated_at")
    search_fields = ("name", "task_name", "module", "description")
    readonly_fields = ("created_at", "updated_at")


@admin.register(TaskNotification)
class TaskNotificationAdmin(ReadOnlyAdmin):
    list_display = (
        "task_name",
        "event",
        "channel",
        "user",
        "status",
        "attempts",
        "created_at",
        "delivered_at",
        "read_at",
    )
    list_select_related = ("user",)
    list_filter = ("status", "event", "channel")
    sortable_by = ("created_at",)
    actions = ("deliver_again",)

    def has_deliver_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("task_manager.change_tasknotification")

    @admin.action(description=_("Deliver the failed ones again"), permissions=["deliver"])
    def deliver_again(
        self, request: HttpRequest, notifications: QuerySet[TaskNotification]
    ) -> None:
        count = notifications_retry(notifications)
        message = ngettext(
            "%(count)d notification will be delivered again.",
            "%(count)d notifications will be delivered again.",
            count,
        )
        messages.success(request, message % {"count": count})


@admin.register(OutboxTask)
class OutboxTaskAdmin(ReadOnlyAdmin):
    list_display = ("task_id", "celery_name", "queue", "created_at", "published_at", "publications")
    ordering = ("-created_at",)
    search_fields = ("=task_id", "celery_name")
    # The arguments may be secret; the execution shows them masked.
    exclude = ("body",)


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    list_display = (
        "task_id",
        "task_name",
        "error",
        "retries",
        "status",
        "created_at",
        "closed_at",
    )
    list_filter = ("status", NameFilter)
    ordering = ("-id",)
    sortable_by = ("created_at",)
    search_fields = ("=task_id", "task_name")
    # Not `args` and `kwargs`, which hold secrets.
    fields = (
        "task_id",
        "task_name",
        "celery_name",
        "parameters",
        "queue",
        "error",
        "traceback",
        "retries",
        "status",
        "created_at",
        "closed_at",
        "requeued_task_id",
    )
    readonly_fields = ("parameters",)
    actions = ("requeue", "discard")

    @admin.display(description=_("parameters"))
    def parameters(self, letter: DeadLetter) -> str:
        return json.dumps(dead_letter_parameters(letter), ensure_ascii=False, indent=2)

    def has_close_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("task_manager.change_deadletter")

    @admin.action(description=_("Requeue the selected dead letters"), permissions=["close"])
    def requeue(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> None:
        count = self._each(request, letters, dead_letter_requeue)
        message = ngettext("%(count)d task requeued.", "%(count)d tasks requeued.", count)
        messages.success(request, message % {"count": count})

    @admin.action(description=_("Discard the selected dead letters"), permissions=["close"])
    def discard(self, request: HttpRequest, letters: QuerySet[DeadLetter]) -> None:
        count = self._each(request, letters, dead_letter_discard)
        message = ngettext(
            "%(count)d dead letter discarded.", "%(count)d dead letters discarded.", count
        )
        messages.success(request, message % {"count": count})

    def _each(
        self,
        request: HttpRequest,
        letters: QuerySet[DeadLetter],
        service: Callable[[int], object],
    ) -> int:
        """How many it could be done to; each of the others has its message."""
        count = 0
        for letter in letters:
            try:
                service(letter.pk)
            except TaskManagerError as error:
                messages.error(request, f"{letter}: {error}")
            else:
                count += 1
        return count
