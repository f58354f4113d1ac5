"""What the apps read from PostgreSQL and Redis, for all who show it.

An app takes part by a module of that name, such as `metrics` or `state`, whose `SOURCES` says what
is read from where.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from django.apps import apps
from django.utils.module_loading import module_has_submodule


@cache
def sources(module_name: str) -> dict[str, list[Callable[[], Any]]]:
    """By the name of a source, such as PostgreSQL, what the apps read from it."""
    found: dict[str, list[Callable[[], Any]]] = {}
    for app in apps.get_app_configs():
        if app.module and module_has_submodule(app.module, module_name):
            module = import_module(f"{app.name}.{module_name}")
            for source, read in getattr(module, "SOURCES", {}).items():
                found.setdefault(source, []).append(read)
    return found
