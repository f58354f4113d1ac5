"""PanAccess as far as its telemetry records go: login, sessions, listings, and its own faults."""

import re
import secrets
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, tzinfo
from hashlib import md5
from itertools import islice
from threading import Lock
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from answers import Answer, Call, WrongUse, json_answer, number, one_of, whole_number
from faults import Fault, Faults, Kind
from panaccess_records import Records, Shelf, bad_record, record_id

MOST_LISTED = 1000
MOST_OFFSET = 10**18 - 1
#: Late records are among the newest, but not the very newest.
NEWEST = 50

FAULTS = {
    "expired_session": Kind("the call's session is forgotten, and the call refused"),
    "duplicated_pages": Kind("a listing answers with the page before the one asked for"),
    "shifting_pages": Kind(
        "after each listing the oldest `records` are gone, as if purged", records=7
    ),
    "late_records": Kind(
        "`records` of the newest 50 are left out of listings until it is off",
        records=3,
        most_records=NEWEST - 1,
    ),
    "bad_records": Kind("`records` of each listing are malformed, each another way", records=3),
}

HELP = """\
PanAccess, simulated: /panaccess/

  U=http://127.0.0.1:8090/panaccess
  PASSWORD=$(printf %s sandbox_panaccess | md5sum | cut -c1-32)
  curl "$U/?f=login&requestMode=function" \\
      -d username=sandbox -d "password=$PASSWORD" -d apiToken=sandbox
  curl "$U/?f=getListOfTelemetryRecords&requestMode=function" -d sessionId=SESSION \\
      -d offset=0 -d limit=10 -d orderBy=recordId -d orderDir=DESC

  Its records are invented, one after another by the clock. To have exactly those numbered 0 to
  4999, to see which there are, and to go by the clock again:

  curl -X POST "$U/records?first=0&end=5000"
  curl "$U/records"
  curl -X DELETE "$U/records"

  How often each function was called, and how many logins went well:

  curl "$U/calls"

  A fault is switched on for the next calls that it applies to (1; calls=0: until it is off):

  curl -X POST "$U/faults/slow?calls=2&seconds=5"
  curl -X POST "$U/faults/bad_records?calls=0&records=8"
  curl "$U/faults"
  curl -X DELETE "$U/faults/slow"
  curl -X DELETE "$U/faults"
"""


class Refused(Exception):
    """The vendor's errorMessage."""


@dataclass(frozen=True)
class Settings:
    username: str
    #: The MD5 of the password followed by `_panaccess`, in hex: what a client sends.
    password: str
    token: str
    zone: tzinfo
    seconds: float
    kept: int

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> "Settings":
        def get(name: str, default: str = "sandbox") -> str:
            return environ.get(name) or default

        seconds, kept = "SANDBOX_PANACCESS_SECONDS", "SANDBOX_PANACCESS_KEPT"
        return cls(
            username=get("PANACCESS_USERNAME"),
            password=_hashed(get("PANACCESS_PASSWORD")),
            token=get("PANACCESS_API_TOKEN"),
            zone=_zone("PANACCESS_TIME_ZONE", get("PANACCESS_TIME_ZONE", "UTC")),
            seconds=number(seconds, get(seconds, "2"), 0.001, 86_400),
            kept=whole_number(kept, get(kept, "20000"), 1, 10**9),
        )


def _hashed(password: str) -> str:
    if re.fullmatch(r"[0-9a-fA-F]{32}", password):
        return password.lower()
    return md5(f"{password}_panaccess".encode(), usedforsecurity=False).hexdigest()


def _zone(name: str, text: str) -> tzinfo:
    if text == "UTC":
        return UTC  # known where no time zones are installed, too
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, KeyError) as error:
        raise WrongUse(
            f"{name} must be a time zone such as America/Lima, not {text[:40]!r}"
        ) from error


def page(
    numbers: range, missing: Collection[int], *, offset: int, limit: int, descending: bool
) -> list[int]:
    """The numbers from `offset` on, as if the missing ones did not exist."""
    ordered = numbers[::-1] if descending else numbers
    start = offset
    for n in sorted(missing, reverse=descending):
        if n in ordered and ordered.index(n) <= start:
            start += 1
    return list(islice((n for n in ordered[start:] if n not in missing), limit))


def among_the_newest(numbers: range, count: int) -> frozenset[int]:
    """So many of the newest, spread evenly, without the very newest."""
    candidates = numbers[-NEWEST:-1]
    count = min(count, len(candidates))
    return frozenset(candidates[i * len(candidates) // count] for i in range(count))


class PanAccess:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._settings = Settings.read(environ)
        self._records = Records(self._settings.seconds, self._settings.zone)
        self._shelf = Shelf(self._records, self._settings.kept)
        self._faults = Faults(FAULTS)
        self._functions = {"login": self._login, "getListOfTelemetryRecords": self._list}
        self._sessions: set[str] = set()
        self._called: Counter[str] = Counter()
        self._logins = 0
        self._late: frozenset[int] = frozenset()
        #: Of all above that changes.
        self._lock = Lock()

    def help(self) -> str:
        return f"{HELP}\n{self._faults.help()}"

    def answer(self, call: Call) -> Answer | None:
        """None when there is no such address."""
        if call.path.partition("/")[0] == "faults":
            return self._faults.control(call)
        match call.method, call.path:
            case "POST", "":
                return self._call(call)
            case "GET", "calls":
                return self._calls()
            case "GET", "records":
                return self._available()
            case "POST", "records":
                self._freeze(call.query)
                return self._available()
            case "DELETE", "records":
                with self._lock:
                    self._shelf.reset()
                return self._available()
        return None

    # The vendor's protocol: an error is an errorMessage with status 200.

    def _call(self, call: Call) -> Answer:
        name = call.query.get("f", "")
        told = name if name in self._functions else "unknown function"
        with self._lock:
            self._called[told] += 1
        answer = self._faults.answer(lambda: self._function(name, call))
        for key in ("offset", "limit"):
            if key in call.form:
                told += f" {key}={quote(call.form[key][:20])}"
        return replace(answer, log=f"{told}: {answer.log}")

    def _function(self, name: str, call: Call) -> Answer:
        try:
            if name not in self._functions:
                raise Refused(f"Unknown function {name[:40]!r}")
            one_of("requestMode", call.query.get("requestMode", ""), ("function",))
            content, log = self._functions[name](call.form)
        except (Refused, WrongUse) as error:
            message = str(error)
            return json_answer(_envelope(error=message), log=f"refused: {message}")
        return json_answer(_envelope(content), log=log)

    def _login(self, form: Mapping[str, str]) -> tuple[str, str]:
        given = (form.get("username"), form.get("password", "").lower(), form.get("apiToken"))
        if given != (self._settings.username, self._settings.password, self._settings.token):
            raise Refused("Wrong username, password or API token")
        session = secrets.token_hex(16)
        with self._lock:
            self._sessions.add(session)
            self._logins += 1
        return session, "logged in to the simulator, no real account"

    def _require_session(self, session: str) -> None:
        with self._lock:
            if session not in self._sessions:
                raise Refused("You are not logged in")
            if self._faults.take("expired_session"):
                self._sessions.discard(session)
                raise Refused("Your session has expired (expired_session)")

    def _list(self, form: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        self._require_session(form.get("sessionId", ""))
        offset = whole_number("offset", form.get("offset", ""), 0, MOST_OFFSET)
        limit = whole_number("limit", form.get("limit", ""), 1, MOST_LISTED)
        one_of("orderBy", form.get("orderBy", ""), ("recordId",))
        descending = one_of("orderDir", form.get("orderDir", ""), ("ASC", "DESC")) == "DESC"
        with self._lock:
            numbers, faults = self._page(offset, limit, descending)
        entries: list[object] = [self._records.make(n) for n in numbers]
        if fault := faults.get("bad_records"):
            _spoil(entries, fault)
        log = ", ".join([f"{len(entries)} records", *faults])
        return {"telemetryRecordEntries": entries}, log

    def _page(
        self, offset: int, limit: int, descending: bool
    ) -> tuple[list[int], dict[str, Fault]]:
        """The numbers to list, and the faults that are on."""
        names = FAULTS.keys() - {"expired_session"}
        faults = {name: fault for name in sorted(names) if (fault := self._faults.take(name))}
        available = self._shelf.numbers()
        if "duplicated_pages" in faults:
            offset = max(0, offset - limit)
        late = self._left_out(available, faults.get("late_records"))
        numbers = page(available, late, offset=offset, limit=limit, descending=descending)
        if fault := faults.get("shifting_pages"):
            self._shelf.purge(fault.records)
        return numbers, faults

    def _left_out(self, available: range, fault: Fault | None) -> frozenset[int]:
        """Chosen at the first listing, so that they stay late while others come."""
        if fault is None:
            return frozenset()
        if fault.used == 0:
            self._late = among_the_newest(available, fault.records)
        return self._late

    # What the sandbox adds, without a login.

    def _calls(self) -> Answer:
        with self._lock:
            return json_answer({"functions": dict(self._called), "logins": self._logins})

    def _freeze(self, given: Mapping[str, str]) -> None:
        end = whole_number("end", given.get("end", ""), 0, self._records.most)
        first = whole_number("first", given.get("first", ""), 0, end)
        with self._lock:
            self._shelf.freeze(first, end)

    def _available(self) -> Answer:
        with self._lock:
            numbers = self._shelf.numbers()
        return json_answer(
            {
                "first": numbers.start,
                "end": numbers.stop,
                "available": len(numbers),
                "lowest_id": record_id(numbers[0]) if numbers else None,
                "highest_id": record_id(numbers[-1]) if numbers else None,
            }
        )


def _envelope(answer: object = None, error: str | None = None) -> dict[str, object]:
    return {"success": error is None, "answer": answer, "errorMessage": error}


def _spoil(entries: list[Any], fault: Fault) -> None:
    """Malform so many, spread evenly over all but the first."""
    others = len(entries) - 1
    count = min(fault.records, others)
    for i in range(count):
        place = 1 + i * others // count
        entries[place] = bad_record(entries[place], fault.used * fault.records + i)
