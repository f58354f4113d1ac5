"""Breaks a stack under load and counts what was lost: scripts/drill."""

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.drills.arena import LOAD, Arena, Buyers, Counts, Watch
from tests.drills.faults import DRILLS, Drill
from tests.stack.stack import PRODUCTION, Stack, copy_project, run

SETTLE_SECONDS = 900


@dataclass(frozen=True)
class Outcome:
    drill: Drill
    #: Seconds from the fault on: the longest without a sign of work, and to the end of it all.
    standstill: float
    settled: float
    counts: Counts
    #: Purchases that the web confirmed, and those in the database.
    confirmed: int
    #: Containers that are not healthy at the end.
    away: int

    def wrong(self) -> dict[str, int]:
        """What should have been 0 and was not."""
        counts = self.counts
        numbers = {
            "tasks lost": counts["lost"],
            "tasks doubled": counts["rows"] - counts["done"],
            "notifications lost": counts["undelivered"],
            "notifications doubled": counts["deliveries"] - counts["delivered"],
            "units oversold": counts["oversold"],
            "purchases lost": max(0, self.confirmed - counts["completed"]),
            "tasks that the history has as unfinished": counts["unfinished"],
            "tasks that the history has as failed": counts["failed"],
            "containers that did not come back": self.away,
        }
        return {name: number for name, number in numbers.items() if number}

    def cells(self) -> list[str]:
        counts = self.counts
        return [
            self.drill.text,
            f"{self.standstill:.0f}",
            f"{self.settled:.0f}",
            *map(str, (counts["published"], counts["done"], counts["lost"])),
            *map(str, (counts["rows"] - counts["done"], counts["ran"], counts["again"])),
            *map(str, (counts["owed"], counts["delivered"], counts["undelivered"])),
            *map(str, (counts["deliveries"] - counts["delivered"], counts["oversold"])),
        ]


HEADINGS = (
    "what broke",
    "longest standstill (s)",
    "all done after (s)",
    "tasks published",
    "done once",
    "lost",
    "doubled",
    "runs",
    "published again",
    "notifications owed",
    "delivered",
    "lost",
    "doubled",
    "oversold",
)


def main() -> None:
    options = _options()
    names = list(DRILLS) if options.names == ["all"] else options.names
    outcomes = []
    # One stack for all that need the same.
    for overlay in dict.fromkeys(DRILLS[name].overlay for name in names):
        with arena(options.shoppers, options.tasks, overlay) as place:
            for name in names:
                if DRILLS[name].overlay == overlay:
                    print(f"{name}: {DRILLS[name].text}", file=sys.stderr, flush=True)
                    outcomes.append(run_drill(place, DRILLS[name]))
    print(table(outcomes))
    failures = [(outcome.drill.text, outcome.wrong()) for outcome in outcomes if outcome.wrong()]
    for text, wrong in failures:
        print(f"{text}: {wrong}", file=sys.stderr)
    if failures:
        sys.exit(1)


def _options() -> argparse.Namespace:
    width = max(map(len, DRILLS))
    parser = argparse.ArgumentParser(
        prog="scripts/drill",
        description="Builds a production stack of its own, loads it, breaks one thing, lets it "
        "settle, counts, and takes it down. Prints a Markdown table; exit code 1 when anything "
        "was lost, doubled or oversold, or did not come back. Needs Docker, and breaks nothing "
        "but what it started.",
        epilog="drills:\n"
        + "\n".join(f"  {name:{width}}  {drill.text}" for name, drill in DRILLS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", choices=[*DRILLS, "all"], metavar="NAME", help="a drill, or all"
    )
    parser.add_argument("--shoppers", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--tasks", type=int, default=1000, help="default: 1000")
    return parser.parse_args()


@contextmanager
def arena(shoppers: int, tasks: int, overlay: str = "") -> Iterator[Arena]:
    """A production stack from a copy of this tree, with one more of its files."""
    with tempfile.TemporaryDirectory(prefix="flash-promos-drill-") as folder:
        more = (overlay,) if overlay else ()
        stack = Stack(copy_project(Path(folder) / "tree"), (*PRODUCTION, *more, LOAD))
        stack.variables["REDIS_SENTINEL_PASSWORD"] = secrets.token_urlsafe(32)
        written = run("scripts/init-env", cwd=stack.folder)
        assert written.returncode == 0, written.stderr
        with stack.running(lambda: False):
            stack.compose("up", "--detach", "--build", "--wait")
            place = Arena(stack, shoppers, tasks)
            place.prepare()
            yield place


def run_drill(place: Arena, drill: Drill) -> Outcome:
    place.reset()
    with place.buyers() as buyers:
        publisher = place.publisher(drill.way)
        try:
            enough = place.tasks / 5
            place.wait(
                lambda counts: counts["rows"] > enough and counts["sent"] > place.shoppers / 20,
                seconds=180,
                what="the work is under way",
            )
            broken_at = time.monotonic()
            with Watch(lambda: _sign(place, drill, buyers)) as watch:
                drill.fault(place)
                while publisher.wait(SETTLE_SECONDS):  # killed as well: it goes on where it was
                    publisher = place.publisher(drill.way)
                counts = _settled(place)
        finally:
            publisher.kill()
            publisher.wait()
    settled = time.monotonic() - broken_at
    away = len(place.unhealthy())
    return Outcome(drill, watch.longest, settled, counts, buyers.completed, away)


def _sign(place: Arena, drill: Drill, buyers: Buyers) -> int | None:
    counts = place.counts()
    return None if counts is None else drill.sign(counts, buyers)


def _settled(place: Arena) -> Counts:
    """The counts once nothing moves any more, or when the patience ends."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        counts = place.counts()
        if counts and time.monotonic() > deadline:
            return counts
        is_done = (
            counts
            and not counts["lost"]
            and not counts["undelivered"]
            and not counts["unfinished"]
            and counts["owed"] >= place.shoppers
        )
        if is_done and place.is_idle() and not place.unhealthy():
            # What came twice would have come by now: nothing waits, nothing is held.
            return place.counts() or counts or {}
        time.sleep(1)


def table(outcomes: list[Outcome]) -> str:
    rows = [outcome.cells() for outcome in outcomes]
    lines = [HEADINGS, ["---", *["--:"] * (len(HEADINGS) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
