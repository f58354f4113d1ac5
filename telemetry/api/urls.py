"""The addresses under `/api/telemetry/`."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from telemetry.api import views

router = SimpleRouter(use_regex_path=False)
router.register("records", views.RecordViewSet, basename="telemetry-record")
router.register("merged", views.MergedViewSet, basename="telemetry-merged")
router.register("quarantine", views.QuarantineViewSet, basename="telemetry-quarantine")

urlpatterns = [
    *router.urls,
    path("statistics/", views.StatisticsView.as_view(), name="telemetry-statistics"),
    path("state/", views.SyncStateView.as_view(), name="telemetry-state"),
    path("run/", views.RunView.as_view(), name="telemetry-run"),
]
