"""From a cell's text to its value. A ValueError says what the cell ought to be."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import available_timezones

from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import connection

from promotions.models import FlashPromo, Segment

_SEGMENTS = tuple(Segment.values)
_DEFAULT_KM = FlashPromo().max_distance_km
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_AMOUNT = re.compile(r"\d{1,10}(\.\d{1,2})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,10}", re.ASCII)


def text(limit: int) -> Callable[[str], str]:
    """A text of 1 to `limit` characters."""

    def parse(cell: str) -> str:
        if not cell:
            raise ValueError("is empty")
        if len(cell) > limit:
            raise ValueError(f"has more than {limit} characters")
        if found := _NOT_STORABLE.search(cell):
            raise ValueError("has a NUL character" if found[0] == "\0" else "is not UTF-8")
        return cell

    return parse


def username(cell: str) -> str:
    name = User.normalize_username(_name(cell))
    try:
        User.username_validator(name)
    except ValidationError:
        raise ValueError("may hold only letters, digits and @ . + - _") from None
    return _name(name)  # normalising may have made it longer


_name = text(150)


def email(cell: str) -> str:
    """An e-mail address, or nothing."""
    if cell:
        text(254)(cell)
        try:
            validate_email(cell)
        except ValidationError:
            raise ValueError("is not an e-mail address") from None
    return User.objects.normalize_email(cell)


def number(low: float, high: float) -> Callable[[str], float]:
    """A number from `low` to `high`."""

    def parse(cell: str) -> float:
        if not _NUMBER.fullmatch(cell) or not low <= (value := float(cell)) <= high:
            raise ValueError(f"is not a number from {low:g} to {high:g}")
        return value

    return parse


def distance(cell: str) -> float:
    """Kilometres; an empty cell is the model's default."""
    if not cell:
        return _DEFAULT_KM
    if not _NUMBER.fullmatch(cell) or not 0 < (km := float(cell)) <= 20_100:
        raise ValueError("is not a number of km above 0 and at most 20100")
    return km


def amount(cell: str) -> Decimal:
    """A price as the database keeps it: numeric(12, 2), above 0."""
    if not _AMOUNT.fullmatch(cell) or not (value := Decimal(cell)):
        raise ValueError("is not an amount above 0 with at most 10 digits and 2 decimals")
    return value


def whole(cell: str) -> int:
    """1 to the greatest of PostgreSQL's `integer`."""
    if not _WHOLE.fullmatch(cell) or not 1 <= (value := int(cell)) <= 2**31 - 1:
        raise ValueError("is not a whole number from 1 to 2147483647")
    return value


def moment(cell: str) -> datetime:
    """An ISO 8601 time with its zone, in UTC."""
    try:
        value = datetime.fromisoformat(cell)
        if value.tzinfo is not None:
            return value.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is not an ISO 8601 time such as 2026-11-22T10:00:00-06:00") from None
    raise ValueError("has no time zone: end it with Z or an offset such as -06:00")


def segments(cell: str) -> str:
    """Segments separated by `|` as a PostgreSQL array, sorted, each once; none means all."""
    names = {name.strip() for name in cell.split("|")} if cell else set()
    if not names <= set(_SEGMENTS):
        raise ValueError("is not a list of " + ", ".join(_SEGMENTS) + " separated by |")
    return "{" + ",".join(sorted(names)) + "}"


def segment(cell: str) -> str:
    if cell not in _SEGMENTS:
        raise ValueError("is not one of " + ", ".join(_SEGMENTS))
    return cell


def time_zone() -> Callable[[str], str]:
    """A zone that both Python and the database know, asked once."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM pg_timezone_names")
        known = available_timezones() & {name for (name,) in cursor.fetchall()}

    def parse(cell: str) -> str:
        if cell not in known:
            raise ValueError("is not an IANA time zone such as America/Mexico_City")
        return cell

    return parse


def switch(cell: str) -> bool:
    if cell not in ("on", "off"):
        raise ValueError("is neither on nor off")
    return cell == "on"
