"""Runs a task by its template."""

import inspect
from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext

from task_manager.models import TaskTemplate
from task_manager.services.outbox import task_enqueue
from task_manager.services.registry import task_named

#: The parameter that links a user to a task.
USER = "user_id"


def template_run(template: TaskTemplate, *, parameters: dict[str, Any], caller_id: int) -> str:
    """Promise the template's task for the caller, with `parameters` over its usual ones; its id.

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
    return task_enqueue(task.name, kwargs=given, user_id=caller_id)


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
