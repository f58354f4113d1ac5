"""Timing: the sides of a comparison take turns, round after round."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")

_START = time.monotonic()


def progress(text: str) -> None:
    print(f"[{time.monotonic() - _START:6.1f} s] {text}", file=sys.stderr, flush=True)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleave(
    title: str, rounds: int, sides: Mapping[str, Callable[[], T]], *, turn: str = "round"
) -> dict[str, list[T]]:
    """Measure each side once a round, in turned order every other round.

    A side prepares its own start and returns what it measured: seconds, a rate, or several.
    """
    measured: dict[str, list[T]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides)[:: 1 if number % 2 == 0 else -1]
        for name in names:
            measured[name].append(sides[name]())
        figures = "; ".join(f"{name} {_short(values[-1])}" for name, values in measured.items())
        progress(f"{title}, {turn} {number + 1} of {rounds}: {figures}")
    return measured


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def best(measured: Mapping[str, list[float]], *names: str) -> str:
    """The side with the highest median rate."""
    return max(names, key=lambda name: median(measured[name]))


def deal(items: Sequence[T], hands: int) -> list[Sequence[T]]:
    """The items in turn, one share for each thread."""
    return [items[number::hands] for number in range(hands)]
