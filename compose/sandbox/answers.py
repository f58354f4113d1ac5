"""A call as a vendor sees it, what it answers, and the numbers that people give."""

import json
import re
from dataclasses import dataclass, field


class WrongUse(ValueError):
    """What was given cannot be used; the message names it and says what would be right."""


@dataclass(frozen=True)
class Call:
    method: str
    #: Below the vendor's own address, such as `faults/slow`.
    path: str
    query: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    body: bytes = b""
    status: int = 200
    type: str = "application/json"
    #: Seconds before the answer, and seconds over which its body is sent.
    delay: float = 0
    drip: float = 0
    #: The connection is closed instead.
    dropped: bool = False
    #: What became of the call; without it nothing is logged.
    log: str = ""


def json_answer(content: object, status: int = 200, log: str = "") -> Answer:
    return Answer(json.dumps(content).encode(), status, log=log)


def whole_number(name: str, text: str, least: int, most: int) -> int:
    if re.fullmatch(r"[0-9]{1,18}", text) and least <= int(text) <= most:
        return int(text)
    raise WrongUse(f"{name} must be a whole number from {least} to {most}, not {text[:40]!r}")


def number(name: str, text: str, least: float, most: float) -> float:
    if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,18})?", text) and least <= float(text) <= most:
        return float(text)
    raise WrongUse(f"{name} must be a number from {least:g} to {most:g}, not {text[:40]!r}")


def one_of(name: str, text: str, choices: tuple[str, ...]) -> str:
    if text in choices:
        return text
    raise WrongUse(f"{name} must be {' or '.join(choices)}, not {text[:40]!r}")
