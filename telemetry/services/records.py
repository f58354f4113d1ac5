"""PanAccess' records as rows of ours: what is right by itself, and what is not, with its reason.

A page is taken column by column. A column whose values are all of the natural type, which is
nearly every one, passes as it is; else each value is looked at, to the same result.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from hashlib import sha256
from io import StringIO
from math import isfinite
from operator import itemgetter
from typing import Any

import orjson

from telemetry.models import TEXT_LENGTH

_BIGGEST = 2**63 - 1
_MOST_PRECISE = Decimal(10) ** 14  # of numeric(20, 6)
_LEAST = Decimal("1e-6")
#: Beyond it a number of JSON has lost its last digits.
_MOST_EXACT = 2**53
_MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_MOMENTS = re.compile(rf"(?:{_MOMENT}\n)*", re.ASCII)
_DIGITS = re.compile(r"-?\d{1,19}", re.ASCII)
#: What MySQL has where there is no time.
_NO_MOMENT = "0000-00-00 00:00:00"
#: So that it is a time that Python knows in each time zone.
_FIRST_MOMENT, _LAST_MOMENT = "0001-01-02 00:00:00", "9999-12-30 23:59:59"
#: Characters of a value in a reason.
_SHOWN = 60

Values = Sequence[Any]


# --- Kinds of columns ----------------------------------------------------------------------------
def _refusal(value: Any, expected: str) -> ValueError:
    shown = _dumped(value)
    if len(shown) > _SHOWN:
        shown = f"{shown[:_SHOWN]}…"
    return ValueError(f"{shown} is not {expected}")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is int or (type(value) is float and abs(value) < _MOST_EXACT):
        value = str(value)
    if not isinstance(value, str):
        raise _refusal(value, "a text")
    if len(value) > TEXT_LENGTH:
        raise _refusal(value, f"a text of at most {TEXT_LENGTH} characters")
    if not _is_storable(value):
        raise _refusal(value, "a text that can be stored")
    return value


def _is_storable(text: str) -> bool:
    """Neither a NUL nor half of a surrogate pair: PostgreSQL takes none."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _texts(values: Values) -> bool:
    texts = [*filter(None, values)]
    return max(map(len, texts), default=0) <= TEXT_LENGTH and _is_storable("".join(texts))


def _integer(value: Any) -> int | None:
    if value is None or value == "":
        return None
    is_whole = (
        type(value) is int
        or (type(value) is float and value.is_integer())
        or (type(value) is str and _DIGITS.fullmatch(value))
    )
    if not is_whole or abs(int(value)) > _BIGGEST:
        raise _refusal(value, "a whole number")
    return int(value)


def _integers(values: Values) -> bool:
    numbers = [*filter(None, values)]
    return min(numbers, default=0) >= -_BIGGEST and max(numbers, default=0) <= _BIGGEST


def _key(value: Any) -> int:
    number = _integer(value)
    if number is None or number < 1:
        raise _refusal(value, "a number of a record")
    return number


def _keys(values: Values) -> bool:
    return min(values, default=1) >= 1 and max(values, default=1) <= _BIGGEST


def _boolean(value: Any) -> bool | None:
    if value is None or value == "":
        return None
    known = {"true": True, "1": True, "false": False, "0": False}
    text = str(value).lower() if type(value) in (bool, int, str) else ""
    if text not in known:
        raise _refusal(value, "true or false")
    return known[text]


def _decimal(value: Any) -> Decimal | None:
    if value is None or value == "":
        return None
    try:
        number = Decimal(str(value)) if type(value) in (int, float, str) else Decimal("nan")
    except InvalidOperation:
        number = Decimal("nan")
    if number.is_finite() and abs(number) < _MOST_PRECISE:
        number = number.quantize(_LEAST, ROUND_HALF_UP)  # as PostgreSQL does
    if not number.is_finite() or abs(number) >= _MOST_PRECISE:
        raise _refusal(value, "an amount")
    return number


def _decimals(values: Values) -> bool:
    numbers = [*filter(None, values)]
    return all(map(isfinite, numbers)) and max(map(abs, numbers), default=0) < _MOST_PRECISE


def _moment(value: Any) -> str | None:
    if value is None or value in ("", _NO_MOMENT):
        return None
    if not isinstance(value, str) or not _moments([value]):
        raise _refusal(value, "a time, YYYY-MM-DD HH:MM:SS")
    return value


def _moments(values: Values) -> bool:
    texts = [*filter(None, values)]
    if not _MOMENTS.fullmatch("".join(f"{text}\n" for text in texts)):
        return False
    if texts and not _FIRST_MOMENT <= min(texts) <= max(texts) <= _LAST_MOMENT:
        return False
    try:
        for text in texts:
            datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _own_moment(value: Any) -> str:
    moment = _moment(value)
    if moment is None:
        raise ValueError("is missing")
    return moment


def _own_moments(values: Values) -> bool:
    return all(values) and _moments(values)


def _anything(values: Values) -> bool:
    return True


@dataclass(frozen=True)
class Kind:
    sql_type: str
    #: Values of these types that pass `fits`, all together, need no parsing.
    natural: frozenset[type]
    fits: Callable[[Values], bool]
    parse: Callable[[Any], Any]


_NULL = type(None)
TEXT = Kind("text", frozenset({str, _NULL}), _texts, _text)
INTEGER = Kind("bigint", frozenset({int, _NULL}), _integers, _integer)
KEY = Kind("bigint", frozenset({int}), _keys, _key)
BOOLEAN = Kind("boolean", frozenset({bool, _NULL}), _anything, _boolean)
DECIMAL = Kind("numeric(20, 6)", frozenset({int, float, _NULL}), _decimals, _decimal)
MOMENT = Kind("timestamp", frozenset({str, _NULL}), _moments, _moment)
OWN_MOMENT = Kind("timestamp", frozenset({str}), _own_moments, _own_moment)

#: By PanAccess' name of a field: our column's, and its kind.
COLUMNS: dict[str, tuple[str, Kind]] = {
    "recordId": ("record_id", KEY),
    "timestamp": ("timestamp", OWN_MOMENT),
    "created": ("created", MOMENT),
    "subscriberCode": ("subscriber_code", TEXT),
    "deviceId": ("device_id", TEXT),
    "smartcardId": ("smartcard_id", TEXT),
    "profileId": ("profile_id", INTEGER),
    "anonymized": ("anonymized", BOOLEAN),
    "actionId": ("action_id", INTEGER),
    "actionKey": ("action_key", TEXT),
    "manual": ("manual", BOOLEAN),
    "reasonId": ("reason_id", INTEGER),
    "reasonKey": ("reason_key", TEXT),
    "dataNetId": ("data_net_id", INTEGER),
    "dataTsId": ("data_ts_id", INTEGER),
    "dataServiceId": ("data_service_id", INTEGER),
    "dataId": ("data_id", INTEGER),
    "dataName": ("data_name", TEXT),
    "dataPrice": ("data_price", DECIMAL),
    "dataDuration": ("data_duration", INTEGER),
    "whoisCountry": ("whois_country", TEXT),
    "whoisIsp": ("whois_isp", TEXT),
    "ipId": ("ip_id", INTEGER),
    "ip": ("ip", TEXT),
}
#: What the other fields become: JSON, or nothing.
EXTRA = "extra"
#: A part of the timestamp, and nothing beside it.
DATE = "date"
_KNOWN = frozenset({*COLUMNS, DATE})


# --- Pages ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class BadRecord:
    reason: str
    #: JSON, of ASCII alone: what PostgreSQL does not take as text is escaped.
    payload: str
    #: None where it cannot be read.
    record_id: int | None

    @property
    def digest(self) -> bytes:
        return sha256(self.payload.encode()).digest()


@dataclass(frozen=True)
class Page:
    """What a page of PanAccess' list is to us."""

    #: For COPY: each good record once, the last of those with the same id; in the order of COLUMNS,
    #: then EXTRA.
    csv: str
    #: The lowest id in it; None where it is empty.
    lowest_id: int | None
    #: None with the id of a good one.
    bad: list[BadRecord]
    #: Of all records that have one, as they came.
    ids: list[int]


def parsed(entries: Iterable[Any]) -> Page:
    """The rows of a page, and what cannot be one."""
    records = [entry for entry in entries if isinstance(entry, dict)]
    strangers = [entry for entry in entries if not isinstance(entry, dict)]
    reasons: dict[int, list[str]] = {}
    columns = [
        _parsed(key, kind, values, reasons)
        for (key, (_, kind)), values in zip(COLUMNS.items(), _columns(records), strict=True)
    ]
    columns.append(_extras(records, reasons))
    ids = columns[0]
    by_id = {
        row[0]: row for index, row in enumerate(zip(*columns, strict=True)) if index not in reasons
    }
    text = StringIO()
    csv.writer(text).writerows(by_id.values())
    bad = [
        BadRecord("; ".join(texts), _payload(records[index]), ids[index])
        for index, texts in sorted(reasons.items())
        if ids[index] not in by_id
    ]
    bad += [BadRecord("is not an object", _payload(entry), None) for entry in strangers]
    return Page(
        csv=text.getvalue(),
        lowest_id=min(by_id, default=None),
        bad=bad,
        ids=[number for number in ids if number is not None],
    )


def _columns(records: list[dict[str, Any]]) -> list[list[Any]]:
    """The records' values, column by column; what a record has not is None."""
    try:
        rows = map(itemgetter(*COLUMNS), records)
        return [*map(list, zip(*rows, strict=True))] or [[] for _ in COLUMNS]
    except KeyError:
        return [[record.get(key) for record in records] for key in COLUMNS]


def _parsed(key: str, kind: Kind, values: list[Any], reasons: Any) -> list[Any]:
    if kind.natural.issuperset(map(type, values)) and kind.fits(values):
        return values
    for index, value in enumerate(values):
        try:
            values[index] = kind.parse(value)
        except ValueError as error:
            values[index] = None
            reasons.setdefault(index, []).append(f"{key}: {error}")
    return values


def _extras(records: list[dict[str, Any]], reasons: Any) -> list[str | None]:
    """What a record has beside our columns; a date that is its timestamp's is nothing new."""
    found: list[str | None] = [None] * len(records)
    for index, record in enumerate(records):
        date, timestamp = record.get(DATE), record.get("timestamp")
        has_date = date and not (isinstance(timestamp, str) and timestamp[:10] == date)
        if not has_date and _KNOWN.issuperset(record):
            continue
        extra = {key: record[key] for key in record.keys() - _KNOWN}
        if has_date:
            extra[DATE] = date
        try:
            found[index] = _json(extra)
        except ValueError as error:
            names = ", ".join(json.dumps(name)[1:-1] for name in sorted(extra))
            reasons.setdefault(index, []).append(f"{names}: {error}")
    return found


def _json(extra: dict[str, Any]) -> str:
    """As PostgreSQL's jsonb takes it."""
    try:
        text = orjson.dumps(extra).decode()
    except (TypeError, ValueError):
        text = None
    if text is None or _NUL.search(text):
        raise ValueError("cannot be stored")
    return text


_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def _payload(entry: Any) -> str:
    try:
        return json.dumps(entry, sort_keys=True)
    except RecursionError:
        if not isinstance(entry, dict):
            return _dumped(entry)
    fields = (f"{json.dumps(name)}: {_dumped(value)}" for name, value in sorted(entry.items()))
    return f"{{{', '.join(fields)}}}"


def _dumped(value: Any) -> str:
    """JSON; what is nested more deeply than that takes is told as such."""
    try:
        return json.dumps(value, sort_keys=True)
    except RecursionError:
        return '"nested too deeply"'
