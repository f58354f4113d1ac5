"""Celery settings from `CELERY_*` environment variables, typed by Celery's own option table."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from celery.app.defaults import NAMESPACES, flatten
from django.core.exceptions import ImproperlyConfigured

from marketplace.env import Env, parse_bool

PREFIX = "CELERY_"

# Settings that Celery or RedBeat read but that Celery's table does not list.
EXTRA_TYPES = {
    "db_reuse_max": "int",
    "redbeat_redis_url": "string",
    "redbeat_redis_use_ssl": "any",
    "redbeat_redis_options": "dict",
    "redbeat_key_prefix": "string",
    "redbeat_lock_key": "string",
    "redbeat_lock_timeout": "int",
}

# Variables of Celery's own that are no settings; a worker sets the CELERY_LOG_* for its children.
NOT_SETTINGS = {
    "CELERY_APP",
    "CELERY_BENCH",
    "CELERY_BENCH_EVERY",
    "CELERY_CONFIG_MODULE",
    "CELERY_CUSTOM_WORKER_POOL",
    "CELERY_LOADER",
    "CELERY_LOG_FILE",
    "CELERY_LOG_LEVEL",
    "CELERY_LOG_REDIRECT",
    "CELERY_LOG_REDIRECT_LEVEL",
    "CELERY_NO_COLOR",
    "CELERY_QUIET",
    "CELERY_RDBSIG",
    "CELERY_RDB_HOST",
    "CELERY_RDB_PORT",
    "CELERY_SKIP_CHECKS",
}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON ({error})") from error


def _json_object(text: str) -> dict[str, Any]:
    value = _json(text)
    if not isinstance(value, dict):
        raise ValueError('expected a JSON object such as {"key": 1}')
    return value


def _strings(text: str) -> list[Any]:
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    value: list[Any] = _json(text)
    return value


def _any(text: str) -> Any:
    return _json(text) if text.lstrip()[:1] in ("{", "[", '"') else text


PARSERS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "str": str,
    "bytes": str.encode,
    "int": int,
    "float": float,
    "bool": parse_bool,
    "dict": _json_object,
    "list": _strings,
    "tuple": lambda text: tuple(_strings(text)),
    "any": _any,
}


def option_types() -> dict[str, str]:
    """Each setting's name in lower case and the name of its type."""
    options: dict[str, Any] = dict(flatten(NAMESPACES))
    table: dict[str, str] = {
        name: getattr(option.type, "__name__", option.type) for name, option in options.items()
    }
    # Celery's table calls the concurrency "any" or "int" by version; text would break the pool.
    table["worker_concurrency"] = "int"
    return table | EXTRA_TYPES


def read(source: Mapping[str, str] = os.environ) -> Iterator[tuple[str, Any]]:
    """Yield `("CELERY_TASK_ACKS_LATE", True)` for each setting that the environment overrides."""
    types, env = option_types(), Env(source)
    names = {
        name.removesuffix("_FILE") if name not in NOT_SETTINGS else name
        for name, value in source.items()
        if name.startswith(PREFIX) and value
    }
    for name in sorted(names - NOT_SETTINGS):
        option = name.removeprefix(PREFIX).lower()
        if option not in types:
            if name in _command_line_variables():
                continue
            raise ImproperlyConfigured(
                f"{name}: Celery has no setting {option!r}; "
                "see Celery's configuration reference for the names."
            )
        yield name, env.read(name, None, PARSERS[types[option]])


def _command_line_variables() -> set[str]:
    """The variables that stand for options of Celery's commands, such as CELERY_WORKER_LOGLEVEL."""
    from celery.bin.celery import celery

    return {
        f"{PREFIX}{command}_{parameter.name}".upper()
        for command, definition in celery.commands.items()
        for parameter in definition.params
    }
