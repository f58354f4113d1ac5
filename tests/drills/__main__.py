"""Breaks a stack under load and counts what was lost: scripts/drill."""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.drills.arena import FILES, Arena, Buyers, Counts, elapsed
from tests.drills.faults import DRILLS, Drill
from tests.stack.stack import Stack, copy_project, run

SETTLE_SECONDS = 900


@dataclass(frozen=True)
class Outcome:
    drill: Drill
    #: Seconds from the fault to the next sign of work, and to the end of it all.
    went_on: float
    settled: float
    counts: Counts
    #: Purchases that the web confirmed, and those in the database.
    confirmed: int
    healthy: bool

    @property
    def lost(self) -> int:
        return self.counts["lost"]

    @property
    def doubled(self) -> int:
        return self.counts["rows"] - self.counts["done"]

    @property
    def undelivered(self) -> int:
        return self.counts["undelivered"]

    @property
    def delivered_twice(self) -> int:
        return self.counts["deliveries"] - self.counts["delivered"]

    @property
    def purchases_lost(self) -> int:
        return max(0, self.confirmed - self.counts["completed"])

    @property
    def is_good(self) -> bool:
        wrong = (
            self.lost,
            self.doubled,
            self.undelivered,
            self.delivered_twice,
            self.counts["oversold"],
            self.purchases_lost,
            self.counts["unfinished"],
            self.counts["failed"],
        )
        return self.healthy and not any(wrong)

    def cells(self) -> list[str]:
        counts = self.counts
        return [
            self.drill.text,
            f"{self.went_on:.0f}",
            f"{self.settled:.0f}",
            *map(str, (counts["published"], counts["done"], self.lost, self.doubled)),
            str(counts["ran"]),
            *map(str, (counts["owed"], counts["delivered"], self.undelivered)),
            str(self.delivered_twice),
            str(counts["oversold"]),
        ]


HEADINGS = (
    "what broke",
    "went on after (s)",
    "all done after (s)",
    "tasks published",
    "done once",
    "lost",
    "doubled",
    "runs",
    "notifications owed",
    "delivered",
    "lost",
    "doubled",
    "oversold",
)


def main() -> None:
    options = _options()
    names = list(DRILLS) if options.names == ["all"] else options.names
    with arena(options.shoppers, options.tasks) as place:
        outcomes = []
        for name in names:
            print(f"{name}: {DRILLS[name].text}", file=sys.stderr, flush=True)
            outcomes.append(run_drill(place, DRILLS[name]))
    print(table(outcomes))
    if not all(outcome.is_good for outcome in outcomes):
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
def arena(shoppers: int, tasks: int) -> Iterator[Arena]:
    """A production stack from a copy of this tree."""
    with tempfile.TemporaryDirectory(prefix="flash-promos-drill-") as folder:
        stack = Stack(copy_project(Path(folder) / "tree"), FILES)
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
            before = place.counts() or {}
            answers = drill.sign(before, buyers)
            broken_at = time.monotonic()
            drill.fault(place)
            went_on = _went_on(place, drill, buyers, answers, broken_at)
            publisher.wait(SETTLE_SECONDS)
        finally:
            publisher.kill()
    counts = _settled(place)
    return Outcome(drill, went_on, elapsed(broken_at), counts, buyers.completed, place.is_healthy())


def _went_on(place: Arena, drill: Drill, buyers: Buyers, before: int, since: float) -> float:
    place.wait(
        lambda counts: drill.sign(counts, buyers) > before,
        seconds=300,
        what="work goes on",
    )
    return elapsed(since)


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
        if is_done and place.is_idle() and place.is_healthy():
            # What came twice would have come by now: nothing waits, nothing is held.
            return place.counts() or counts or {}
        time.sleep(1)


def table(outcomes: list[Outcome]) -> str:
    rows = [outcome.cells() for outcome in outcomes]
    lines = [HEADINGS, ["---", *["--:"] * (len(HEADINGS) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
