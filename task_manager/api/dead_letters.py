"""The dead letters, for staff: to see, requeue and discard."""

from typing import Any

from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters  # type: ignore[import-untyped]
from drf_spectacular.utils import extend_schema, extend_schema_field, extend_schema_view
from rest_framework import serializers, viewsets
from rest_framework.decorators import action
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from marketplace.filters import TextFilter, choice_error
from task_manager import exceptions
from task_manager.api.errors import TaskManagerView, refusals
from task_manager.api.serializers import OBJECT
from task_manager.models import DeadLetter, DeadLetterStatus
from task_manager.services.dead_letters import dead_letter_discard, dead_letter_parameters
from task_manager.services.requeue import dead_letter_requeue


class DeadLetterFilter(filters.FilterSet):  # type: ignore[misc]
    status = filters.ChoiceFilter(
        choices=DeadLetterStatus.choices, error_messages=choice_error(DeadLetterStatus.values)
    )
    task_name = TextFilter(help_text=_("The task's name."))

    class Meta:
        model = DeadLetter
        fields: list[str] = []


class DeadLetterRowSerializer(serializers.ModelSerializer[DeadLetter]):
    """A failed task that is kept, without what may be long: parameters and traceback."""

    class Meta:
        model = DeadLetter
        fields: tuple[str, ...] = (
            "id",
            "task_id",
            "task_name",
            "celery_name",
            "queue",
            "error",
            "retries",
            "status",
            "created_at",
            "closed_at",
            "requeued_task_id",
        )
        read_only_fields = fields


class DeadLetterSerializer(DeadLetterRowSerializer):
    """A failed task that is kept, with its arguments."""

    parameters = serializers.SerializerMethodField(
        help_text=_("Shortened; secrets are masked by their names.")
    )

    class Meta:
        model = DeadLetter
        fields = (*DeadLetterRowSerializer.Meta.fields, "parameters", "traceback")
        read_only_fields = fields

    @extend_schema_field(OBJECT)
    def get_parameters(self, letter: DeadLetter) -> dict[str, Any]:
        return dead_letter_parameters(letter)


@extend_schema_view(
    list=extend_schema(
        summary="List dead letters",
        description="For staff: tasks that failed for good, the latest first.",
    ),
    retrieve=extend_schema(
        summary="Show a dead letter",
        description="For staff. With its parameters and traceback, which the list leaves out.",
    ),
)
class DeadLetterViewSet(TaskManagerView, viewsets.ReadOnlyModelViewSet[DeadLetter]):
    queryset = DeadLetter.objects.order_by("-id")
    permission_classes = [IsAdminUser]
    filterset_class = DeadLetterFilter
    lookup_value_converter = "int"

    def get_serializer_class(self) -> type[BaseSerializer[DeadLetter]]:
        return DeadLetterRowSerializer if self.action == "list" else DeadLetterSerializer

    @extend_schema(
        operation_id="tasks_dead_letters_requeue",
        summary="Run a dead letter's task again",
        description="For staff. Publishes it with the same arguments, as `requeued_task_id`.",
        request=None,
        responses={
            200: DeadLetterSerializer,
            **refusals(
                exceptions.LetterClosed, exceptions.UnknownTask, exceptions.ArgumentsRefused
            ),
        },
    )
    @action(detail=True, methods=["post"])
    def requeue(self, request: Request, pk: int) -> Response:
        dead_letter_requeue(pk)
        return self.retrieve(request, pk=pk)

    @extend_schema(
        operation_id="tasks_dead_letters_discard",
        summary="Give up a dead letter",
        description="For staff. It stays in the list as DISCARDED.",
        request=None,
        responses={200: DeadLetterSerializer, **refusals(exceptions.LetterClosed)},
    )
    @action(detail=True, methods=["post"])
    def discard(self, request: Request, pk: int) -> Response:
        dead_letter_discard(pk)
        return self.retrieve(request, pk=pk)
