"""The tasks that this process knows, by either name."""

from functools import cache
from typing import Any

from celery import current_app

from task_manager import entries
from task_manager.exceptions import UnknownTask


def task_named(name: str) -> Any:
    """The task with this name, given by `track_task` or Celery's own. Raises UnknownTask."""
    _load_tasks()
    tasks = current_app.tasks
    if name in tasks:
        return tasks[name]
    for celery_name in sorted(tasks):
        if entries.describe(celery_name).name == name:
            return tasks[celery_name]
    raise UnknownTask


@cache
def _load_tasks() -> None:
    """Only a worker imports the apps' tasks by itself."""
    current_app.loader.import_default_modules()
