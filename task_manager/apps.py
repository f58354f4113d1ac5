from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class TaskManagerConfig(AppConfig):
    name = "task_manager"
    verbose_name = _("Task manager")

    def ready(self) -> None:
        from celery import current_app
        from celery.worker.components import Pool

        from task_manager import receivers  # noqa: F401
        from task_manager.bootsteps import Tracking

        current_app.steps["worker"].add(Tracking)
        # So the pool stops before it, and the last tasks' ends are written.
        Pool.requires = (*Pool.requires, Tracking)  # type: ignore[misc]
