"""The addresses under `/api/tasks/`."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter
from rest_framework.routers import SimpleRouter

from task_manager.api import dead_letters, views


class TextConverter(StringConverter):
    """What PostgreSQL takes as text."""

    regex = r"[^/\x00]+"


register_converter(TextConverter, "text")

router = SimpleRouter(use_regex_path=False)
router.register("executions", views.ExecutionViewSet, basename="task-execution")
router.register("user-tasks", views.UserTaskViewSet, basename="user-task")
router.register("templates", views.TemplateViewSet, basename="task-template")
router.register("notifications", views.NotificationViewSet, basename="task-notification")
router.register("dead-letters", dead_letters.DeadLetterViewSet, basename="dead-letter")

urlpatterns = [
    *router.urls,
    path("workers/", views.WorkersView.as_view(), name="task-workers"),
    path("flower-info/", views.FlowerView.as_view(), name="flower-info"),
    path("stats/", views.StatisticsView.as_view(), name="task-stats"),
    path("cancel/<text:task_id>/", views.CancelView.as_view(), name="task-cancel"),
    path("<text:task_id>/status/", views.StatusView.as_view(), name="task-status"),
]
