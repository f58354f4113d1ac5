"""Typed reading of environment variables, with one clear error for a wrong one.

Whoever sets `ENV_FILE`, as deploy/supervisor does, gives this file's variables to each process
that starts, as they are then; they win over the others.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")


def read_file(path: str) -> dict[str, str]:
    """Each NAME=value of an environment file, without quotes around it, as Compose reads it.

    Nothing in a value is evaluated.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(f"ENV_FILE={path}: {error}") from error
    line = re.compile(r"""^([A-Za-z_][A-Za-z0-9_]*)=(['"]?)(.*)\2$""", re.MULTILINE)
    return {name: value for name, _, value in line.findall(text)}


if "ENV_FILE" in os.environ:
    os.environ.update(read_file(os.environ["ENV_FILE"]))

_BOOLEANS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(
    ("0", "false", "no", "off"), False
)


def parse_bool(text: str) -> bool:
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError("expected one of " + ", ".join(_BOOLEANS)) from None


def parse_list(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(",")) if part]


def parse_addresses(text: str) -> list[tuple[str, int]]:
    """`one:26379,two:26379`"""
    addresses = []
    for part in parse_list(text):
        host, _, port = part.rpartition(":")
        if not (host and port.isdigit()):
            raise ValueError(f"expected host:port, not {part!r}")
        addresses.append((host, int(port)))
    return addresses


def parse_url(text: str) -> str:
    """`https://panaccess.example.com/api/`"""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("expected http:// or https://, a host, and no user or password")
    return text


def parse_time_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected an IANA name, such as America/Mexico_City") from None
    return text


class Env:
    """Reads variables from `source`, or from the file that `NAME_FILE` points to.

    An empty variable counts as unset: Compose passes `${NAME:-}` for what nobody set.
    `declared` maps each name read so far to its default; a test holds `.env.example`
    against it. A wrong value raises `ImproperlyConfigured` naming the variable.
    """

    def __init__(self, source: Mapping[str, str] = os.environ) -> None:
        self.source = source
        self.declared: dict[str, Any] = {}

    def raw(self, name: str) -> str | None:
        """The variable's text, None when it is unset or empty."""
        value, path = self.source.get(name), self.source.get(f"{name}_FILE")
        if value and path:
            raise ImproperlyConfigured(f"{name} and {name}_FILE are both set: set one of them.")
        if path:
            try:
                value = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise ImproperlyConfigured(f"{name}_FILE={path}: {error}") from error
        return value or None

    def read(self, name: str, default: T, parse: Callable[[str], T]) -> T:
        self.declared[name] = default
        text = self.raw(name)
        if text is None:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise ImproperlyConfigured(f"{name}={text!r}: {error}.") from error

    def text(self, name: str, default: str = "") -> str:
        return self.read(name, default, str)

    def boolean(self, name: str, default: bool) -> bool:
        return self.read(name, default, parse_bool)

    def words(self, name: str, default: list[str]) -> list[str]:
        return self.read(name, default, parse_list)

    def integer(self, name: str, default: int, *, minimum: int = 0) -> int:
        return self.read(name, default, lambda text: _at_least(int(text), minimum))

    def seconds(self, name: str, default: float, *, minimum: float = 0.1) -> float:
        return self.read(name, default, lambda text: _at_least(float(text), minimum))


def _at_least(number: T, minimum: Any) -> T:
    if not number >= minimum:  # also refuses nan
        raise ValueError(f"expected at least {minimum}")
    return number
