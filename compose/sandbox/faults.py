"""Faults that are switched on for some calls: those of any vendor, and each vendor's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Lock

from answers import Answer, Call, WrongUse, json_answer, number, whole_number

ERROR_PAGE = b"<html><body><h1>500 Internal Server Error</h1></body></html>\n"
MOST_CALLS = 1_000_000
MOST_SECONDS = 3600


@dataclass(frozen=True)
class Kind:
    help: str
    #: What `seconds` and `records` are unless given; a kind without them takes none.
    seconds: float | None = None
    records: int | None = None
    most_records: int = 1000

    def told(self) -> str:
        defaults = {"seconds": self.seconds, "records": self.records}
        given = [f"{name}={value}" for name, value in defaults.items() if value is not None]
        return f"{self.help} ({given[0]})" if given else self.help


@dataclass(frozen=True)
class Fault:
    """It is on."""

    #: How many more; None until it is switched off.
    calls_left: int | None
    #: How many calls it has had.
    used: int
    seconds: float
    records: int


OF_ANY_VENDOR = {
    "slow": Kind("the answer comes after `seconds`", seconds=60),
    "dripping": Kind("the body comes byte by byte over `seconds`", seconds=10),
    "error_500": Kind("HTTP 500 with an HTML body"),
    "malformed_json": Kind("HTTP 200 with the JSON cut off in the middle"),
    "dropped": Kind("the connection is closed without an answer"),
}


class Faults:
    """The switches of one vendor."""

    def __init__(self, own: Mapping[str, Kind]) -> None:
        self.kinds = OF_ANY_VENDOR | dict(own)
        self._on: dict[str, Fault] = {}
        self._lock = Lock()

    def help(self) -> str:
        """A line for each."""
        return "".join(f"  {name:18}{kind.told()}\n" for name, kind in self.kinds.items())

    def take(self, name: str) -> Fault | None:
        """The fault if it is on. To be asked by a call that it applies to, which counts as one."""
        with self._lock:
            fault = self._on.get(name)
            if fault is None:
                return None
            left = None if fault.calls_left is None else fault.calls_left - 1
            if left == 0:
                del self._on[name]
            else:
                self._on[name] = replace(fault, calls_left=left, used=fault.used + 1)
            return fault

    def answer(self, make: Callable[[], Answer]) -> Answer:
        """The vendor's answer, or what the faults of any vendor make of it."""
        if self.take("dropped"):
            return self._late(Answer(dropped=True, log="dropped"))
        if self.take("error_500"):
            return self._late(Answer(ERROR_PAGE, 500, "text/html", log="error_500"))
        answer = make()
        if self.take("malformed_json"):
            half = answer.body[: len(answer.body) // 2]
            answer = replace(answer, body=half, log=f"{answer.log}, malformed_json")
        return self._late(answer)

    def _late(self, answer: Answer) -> Answer:
        if fault := self.take("slow"):
            answer = replace(answer, delay=fault.seconds, log=f"{answer.log}, slow")
        if fault := self.take("dripping"):
            answer = replace(answer, drip=fault.seconds, log=f"{answer.log}, dripping")
        return answer

    def control(self, call: Call) -> Answer | None:
        """`GET` or `DELETE faults`, `POST` or `DELETE faults/NAME`; says what is on then."""
        name = call.path.removeprefix("faults").removeprefix("/")
        if call.method == "POST" and name:
            self._switch_on(name, call.query)
        elif call.method == "DELETE":
            self._switch_off(name)
        elif call.method != "GET" or name:
            return None
        with self._lock:
            return json_answer({name: self._shown(name, fault) for name, fault in self._on.items()})

    def _switch_on(self, name: str, given: Mapping[str, str]) -> None:
        kind = self._kind(name)
        defaults = {"calls": 1, "seconds": kind.seconds, "records": kind.records}
        taken = {key: str(value) for key, value in defaults.items() if value is not None}
        if strange := given.keys() - taken.keys():
            raise WrongUse(
                f"{name} takes {', '.join(taken)}, not {', '.join(sorted(strange))[:80]!r}"
            )
        values = {"seconds": "0", "records": "1"} | taken | dict(given)
        fault = Fault(
            calls_left=whole_number("calls", values["calls"], 0, MOST_CALLS) or None,
            used=0,
            seconds=number("seconds", values["seconds"], 0, MOST_SECONDS),
            records=whole_number("records", values["records"], 1, kind.most_records),
        )
        with self._lock:
            self._on[name] = fault

    def _switch_off(self, name: str) -> None:
        with self._lock:
            if name:
                self._kind(name)
                self._on.pop(name, None)
            else:
                self._on.clear()

    def _kind(self, name: str) -> Kind:
        if name not in self.kinds:
            raise WrongUse(f"there is no fault {name[:40]!r}, but {', '.join(self.kinds)}")
        return self.kinds[name]

    def _shown(self, name: str, fault: Fault) -> dict[str, float | None]:
        kind = self.kinds[name]
        values: dict[str, float | None] = {"calls_left": fault.calls_left, "used": fault.used}
        if kind.seconds is not None:
            values["seconds"] = fault.seconds
        if kind.records is not None:
            values["records"] = fault.records
        return values
