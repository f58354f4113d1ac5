"""The endpoints: parse, authorise, call a service or a selector, render."""

from typing import Any, cast

from django.db import transaction
from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import mixins, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from marketplace.parsers import JSONParser
from task_manager import exceptions, selectors
from task_manager.api import filters, serializers
from task_manager.api.errors import TaskManagerView, refusals
from task_manager.models import TaskExecution, TaskNotification, TaskTemplate
from task_manager.services.cancel import execution_cancel
from task_manager.services.executions import executions_catch_up
from task_manager.services.inbox import notifications_read
from task_manager.services.templates import template_run
from task_manager.services.workers import flower_info, workers_list


def execution_of(request: Request, task_id: str) -> TaskExecution:
    """One that the caller may see, as it is now; 404 for any other."""
    executions_catch_up(task_id)
    return get_object_or_404(selectors.executions_visible_to(request.user), pk=task_id)


# --- Executions ----------------------------------------------------------------------------------
class ExecutionListing(TaskManagerView, mixins.ListModelMixin, viewsets.GenericViewSet[Any]):
    queryset = TaskExecution.objects.none()
    serializer_class: type[BaseSerializer[Any]] = serializers.ExecutionRowSerializer
    ordering = "-created_at"

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        ordered = selectors.executions_ordered(queryset, self.ordering)
        return super().filter_queryset(ordered).defer(*selectors.HEAVY)


@extend_schema_view(
    list=extend_schema(
        summary="List task executions",
        description="The newest first; the caller's own, or all for staff.",
    ),
    retrieve=extend_schema(
        summary="Show a task execution",
        description="With its parameters, result and traceback, which the list leaves out.",
    ),
)
class ExecutionViewSet(mixins.RetrieveModelMixin, ExecutionListing):
    filterset_class = filters.ExecutionFilter
    lookup_value_converter = "text"

    def get_queryset(self) -> QuerySet[TaskExecution]:
        executions_catch_up()
        return selectors.executions_visible_to(self.request.user)

    def get_object(self) -> TaskExecution:
        return execution_of(self.request, self.kwargs["pk"])

    def get_serializer_class(self) -> type[BaseSerializer[Any]]:
        if self.action == "retrieve":
            return serializers.ExecutionSerializer
        return super().get_serializer_class()


@extend_schema_view(
    list=extend_schema(
        summary="List one's own task executions", description="The newest first; for staff too."
    )
)
class UserTaskViewSet(ExecutionListing):
    filterset_class = filters.OwnExecutionFilter

    def get_queryset(self) -> QuerySet[TaskExecution]:
        executions_catch_up()
        return selectors.executions_of(self.request.user)


class StatusView(TaskManagerView):
    @extend_schema(
        operation_id="tasks_status",
        summary="Show how far a task is",
        description="Of the caller's own tasks, or any for staff.",
        responses=serializers.StatusSerializer,
    )
    def get(self, request: Request, task_id: str) -> Response:
        execution = execution_of(request, task_id)
        return Response(serializers.StatusSerializer(execution).data)


class CancelView(TaskManagerView):
    @extend_schema(
        operation_id="tasks_cancel",
        summary="Cancel a task",
        description="One's own, or any for staff. A task that waits is REVOKED at once and never "
        "starts; one that runs is told to end, and REVOKED once it did.",
        request=None,
        responses={
            200: serializers.ExecutionSerializer,
            **refusals(exceptions.AlreadyFinished),
        },
    )
    def post(self, request: Request, task_id: str) -> Response:
        execution = execution_cancel(execution_of(request, task_id).pk)
        return Response(serializers.ExecutionSerializer(execution).data)


class StatisticsView(TaskManagerView):
    permission_classes = [IsAdminUser]

    @extend_schema(
        operation_id="tasks_stats",
        summary="Show statistics by module and task",
        description="For staff, of everybody's tasks that ended in the last `days` days, by the "
        "hour. Those that have not ended count in `total` and `by_status` alone.",
        parameters=[serializers.DaysSerializer],
        responses=serializers.StatisticsSerializer,
    )
    def get(self, request: Request) -> Response:
        query = serializers.DaysSerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        executions_catch_up()
        return Response(selectors.statistics(days=query.validated_data["days"]))


# --- Workers -------------------------------------------------------------------------------------
class WorkersView(TaskManagerView):
    @extend_schema(
        operation_id="tasks_workers",
        summary="List the workers that are alive",
        description="From Flower when it answers, otherwise from the workers themselves: `source` "
        "says which. An answer may be two seconds old.",
        responses=serializers.WorkerSerializer(many=True),
    )
    def get(self, request: Request) -> Response:
        return Response(workers_list())


class FlowerView(TaskManagerView):
    @extend_schema(
        operation_id="tasks_flower_info",
        summary="Show whether Flower answers and what it counted",
        description="The counts are null when it does not answer.",
        responses=serializers.FlowerSerializer,
    )
    def get(self, request: Request) -> Response:
        return Response(flower_info())


# --- Templates -----------------------------------------------------------------------------------
@extend_schema_view(
    list=extend_schema(summary="List task templates", description="For staff, by name."),
    create=extend_schema(summary="Add a task template", description="For staff."),
    retrieve=extend_schema(summary="Show a task template", description="For staff."),
    update=extend_schema(summary="Replace a task template", description="For staff."),
    partial_update=extend_schema(summary="Change a task template", description="For staff."),
    destroy=extend_schema(
        summary="Delete a task template",
        description="For staff. What it ran stays in the history.",
    ),
)
class TemplateViewSet(TaskManagerView, viewsets.ModelViewSet[TaskTemplate]):
    queryset = TaskTemplate.objects.order_by("name")
    serializer_class = serializers.TemplateSerializer
    permission_classes = [IsAdminUser]
    parser_classes = [JSONParser]  # a form has no objects
    lookup_field = "name"
    lookup_value_converter = "text"

    def perform_create(self, serializer: BaseSerializer[TaskTemplate]) -> None:
        with transaction.atomic():
            serializer.save()

    perform_update = perform_create

    @extend_schema(
        operation_id="tasks_templates_run",
        summary="Run a template's task",
        description="For staff. The task belongs to the caller; one with a parameter `user_id` to "
        "that user, who is the caller unless another is named.",
        request=serializers.RunSerializer,
        responses={
            202: serializers.PublishedSerializer,
            **refusals(exceptions.UnknownTask),
        },
    )
    @action(detail=True, methods=["post"])
    def run(self, request: Request, name: str) -> Response:
        template = self.get_object()
        body = serializers.RunSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        task_id = template_run(
            template,
            parameters=body.validated_data["parameters"],
            caller_id=cast(int, request.user.pk),
        )
        published = serializers.PublishedSerializer(
            {"task_id": task_id}, context=self.get_serializer_context()
        )
        return Response(published.data, status=202)


# --- Notifications -------------------------------------------------------------------------------
@extend_schema_view(
    list=extend_schema(
        summary="List one's own notifications of tasks", description="The newest first."
    )
)
class NotificationViewSet(TaskManagerView, mixins.ListModelMixin, viewsets.GenericViewSet[Any]):
    queryset = TaskNotification.objects.none()
    serializer_class = serializers.TaskNotificationSerializer
    filterset_class = filters.NotificationFilter
    lookup_value_converter = "int"

    def get_queryset(self) -> QuerySet[TaskNotification]:
        return selectors.notifications_of(self.request.user).order_by("-created_at", "-id")

    @extend_schema(
        operation_id="tasks_notifications_read",
        summary="Mark a notification as read",
        description="Repeating it changes nothing.",
        request=None,
    )
    @action(detail=True, methods=["post"])
    def read(self, request: Request, pk: int) -> Response:
        rows = self.get_queryset().filter(pk=pk)
        notifications_read(rows)
        return Response(self.get_serializer(get_object_or_404(rows)).data)

    @extend_schema(
        operation_id="tasks_notifications_read_all",
        summary="Mark all notifications as read",
        description="Those of the caller.",
        request=None,
        responses=serializers.MarkedSerializer,
    )
    @action(
        detail=False,
        methods=["post"],
        url_path="read",
        filterset_class=None,
        pagination_class=None,
    )
    def read_all(self, request: Request) -> Response:
        return Response({"marked": notifications_read(self.get_queryset())})
