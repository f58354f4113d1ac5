"""The endpoints, for staff alone: records say who watched what, and where."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from django.contrib.auth.models import User
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import generics, status, viewsets
from rest_framework.permissions import IsAdminUser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.api import refusal_responses, refused
from marketplace.csv_export import TOO_MANY, CSVExport
from marketplace.exceptions import Refusal
from telemetry import exceptions, selectors
from telemetry.api import filters, serializers
from telemetry.services.runs import chain_start

STATUS: dict[type[Refusal], int] = {
    exceptions.NotHeld: status.HTTP_409_CONFLICT,
    exceptions.NotConfigured: status.HTTP_409_CONFLICT,
}
refusals = partial(refusal_responses, STATUS)


class TelemetryView(APIView):
    permission_classes = [IsAdminUser]

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, exceptions.TelemetryError):
            exc = refused(exc, STATUS)
        return super().handle_exception(exc)


def documented(one: str, many: str) -> Any:
    """Summaries for the operations of a listing."""
    return extend_schema_view(
        list=extend_schema(summary=f"List {many}", description="For staff, the newest first."),
        retrieve=extend_schema(summary=f"Show a {one}", description="For staff."),
        export=extend_schema(
            summary=f"Export {many}",
            description="For staff: all that the filters leave, the oldest first, as CSV.",
            filters=True,
            responses={(200, "text/csv"): OpenApiTypes.STR, 429: TOO_MANY},
        ),
    )


class Listing(CSVExport, TelemetryView, viewsets.ReadOnlyModelViewSet[Any]):
    lookup_value_converter = "int"
    export_order: Sequence[str] = ("date", "timestamp", "record_id")


@documented("telemetry record", "telemetry records")
class RecordViewSet(Listing):
    serializer_class = serializers.RecordSerializer
    filterset_class = filters.RecordFilter
    queryset = selectors.records()


@documented("merged record", "merged records")
class MergedViewSet(Listing):
    serializer_class = serializers.MergedSerializer
    filterset_class = filters.MergedFilter
    queryset = selectors.merged()


@documented("quarantined record", "quarantined records")
class QuarantineViewSet(Listing):
    serializer_class = serializers.QuarantinedSerializer
    queryset = selectors.quarantined()
    export_order = ("id",)


class StatisticsView(TelemetryView, generics.GenericAPIView[Any]):
    queryset = selectors.merged()
    filterset_class = filters.MergedFilter
    pagination_class = None

    @extend_schema(
        operation_id="telemetry_statistics",
        summary="Show statistics of views",
        description="For staff: how many views there were and how long, by channel, hour, day or "
        "country, of the merged records that the filters leave.",
        filters=True,
        parameters=[serializers.StatisticsQuerySerializer],
        responses=serializers.TelemetryStatisticsSerializer,
    )
    def get(self, request: Request) -> Response:
        query = serializers.StatisticsQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        asked = {"top": None, **query.validated_data}
        views = self.filter_queryset(self.get_queryset())
        return Response(selectors.statistics(views, **asked))


class SyncStateView(TelemetryView):
    @extend_schema(
        operation_id="telemetry_state",
        summary="Show how far sync and merge are",
        description="For staff.",
        responses=serializers.SyncStateSerializer,
    )
    def get(self, request: Request) -> Response:
        return Response(serializers.SyncStateSerializer(selectors.sync_state()).data)


class RunView(TelemetryView):
    @extend_schema(
        operation_id="telemetry_run",
        summary="Sync and merge now",
        description="For staff: not only when the next period begins.",
        request=None,
        responses={
            202: serializers.StartedSerializer,
            **refusals(exceptions.NotHeld, exceptions.NotConfigured),
        },
    )
    def post(self, request: Request) -> Response:
        task_id = chain_start(user=cast(User, request.user))
        return Response({"task_id": task_id}, status=status.HTTP_202_ACCEPTED)
