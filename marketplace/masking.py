"""Secrets, kept out of what people read: logs, tracebacks, mails, the history of tasks.

A value is secret when its name says so (`TASK_SECRET_NAMES`), when it stands in an address as
`scheme://user:password@host`, or when it is one of this installation's own.
"""

import logging
import re
from functools import cache
from typing import Any

from django.conf import settings
from django.views.debug import SafeExceptionReporterFilter

MASK = "********"


# --- By name -------------------------------------------------------------------------------------
@cache
def _names() -> tuple[str, ...]:
    return tuple(name.lower() for name in settings.TASK_SECRET_NAMES)


def is_secret(name: str) -> bool:
    """Whether what goes by this name is a secret; of a longer text, whether it names one."""
    lower = name.lower()
    return any(secret in lower for secret in _names())


# --- In a text -----------------------------------------------------------------------------------
@cache
def _named_value() -> "re.Pattern[str]":
    """`password=x`, `'api_key': 'x'`, `Authorization: Bearer x`, as far as the value goes."""
    return re.compile(
        rf"""
        ( (?:{"|".join(map(re.escape, _names()))})
          [\w-]* ['"]? \s* [:=] \s* (?:(?:bearer|basic|token)\s+)? )
        ( '(?:[^'\\]|\\.)*' | "(?:[^"\\]|\\.)*" | [^\s'",;&)\]}}]+ )
        """,
        re.IGNORECASE | re.VERBOSE,
    )


_IN_ADDRESS = re.compile(r"(\w://[^/\s:@]*:)[^/\s@]+@")

#: Characters of a secret of this installation that is looked for: a shorter one is in any text.
OWN_LENGTH = 8


@cache
def _own() -> list[str]:
    """The longest first: one may begin as another does."""
    values = [value for value in settings.SECRET_VALUES if len(value) >= OWN_LENGTH]
    return sorted(values, key=len, reverse=True)


def masked(text: str) -> str:
    """The text without the secrets that it can be seen to hold."""
    for value in _own():
        text = text.replace(value, MASK)
    if "://" in text:
        text = _IN_ADDRESS.sub(rf"\1{MASK}@", text)
    return _named_value().sub(rf"\1{MASK}", text) if is_secret(text) else text


# --- In logs -------------------------------------------------------------------------------------
class SecretsFilter(logging.Filter):
    """Masks each line that a handler is about to write, and its traceback; once for them all."""

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "is_masked", False):
            return True
        record.is_masked = True
        if isinstance(record.args, dict) and "return_value" in record.args:
            record.args = record.args | {"return_value": _result(record.args["return_value"])}
        try:
            text = record.getMessage()
        except Exception:  # arguments that do not fit, which the handler itself tells of
            return True
        if (safe := masked(text)) != text:
            record.msg, record.args = safe, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = masked(record.exc_text)
        return True


def _result(look: object) -> str:
    """What a task returned, as Celery logs it: a secret in it may be nested in any way."""
    text = str(look)
    return MASK if is_secret(text) else text


def mask_handlers(logger: logging.Logger) -> None:
    for handler in logger.handlers:
        if not any(isinstance(known, SecretsFilter) for known in handler.filters):
            handler.addFilter(SecretsFilter())


# --- On Django's page of errors ------------------------------------------------------------------
class ReporterFilter(SafeExceptionReporterFilter):
    """Django's own, which also looks for secrets in settings whose names tell of none."""

    def cleanse_setting(self, key: Any, value: Any) -> Any:
        cleansed = super().cleanse_setting(key, value)
        return masked(cleansed) if isinstance(cleansed, str) else cleansed
