"""Runs a task by its template."""

import inspect
from functools import cache
from typing import Any

from celery import current_app
from django.core.exceptions import ValidationError
from django.utils.translation import gettext

from task_manager import entries
from task_manager.clients.stream import writer
from task_manager.exceptions import UnknownTask
from task_manager.models import TaskTemplate

#: The parameter that links a user to a task.
USER = "user_id"


def template_run(template: TaskTemplate, *, parameters: dict[str, Any], caller_id: int) -> str:
    """Publish the template's task for the caller, with `parameters` over its usual ones; its id.

    A `user_id` that the task takes and nobody gave is the caller's. Raises UnknownTask, and
    ValidationError for parameters that the task does not take or lacks.
    """
    task = task_named(template.task_name)
    accepted = inspect.signature(task.run).parameters
    given = {**template.default_parameters, **parameters}
    if USER in accepted:
        given.setdefault(USER, caller_id)
    if wrong := _wrong(list(accepted.values()), given):
        raise ValidationError(wrong)
    published = task.apply_async(kwargs=given, headers={entries.USER_ID: caller_id})
    writer().flush()  # so that whoever asks next finds it
    return str(published.id)


def task_named(name: str) -> Any:
    """The task with this name, given by `track_task` or Celery's own."""
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


def _wrong(accepted: Any, given: dict[str, Any]) -> dict[str, list[str]]:
    """By parameter, what is wrong with it."""
    named = [each for each in accepted if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    names = {each.name for each in named}
    if any(each.kind is each.VAR_KEYWORD for each in accepted):
        names |= given.keys()
    unknown = dict.fromkeys(given.keys() - names, gettext("The task has no such parameter."))
    missing = {
        each.name: gettext("The task needs this parameter.")
        for each in named
        if each.default is each.empty and each.name not in given
    }
    return {f"parameters.{name}": [text] for name, text in sorted((unknown | missing).items())}
