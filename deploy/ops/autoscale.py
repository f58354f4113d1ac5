"""`scripts/autoscale`."""

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any

from deploy.ops import cli
from deploy.ops.deployment import Deployment, find
from deploy.ops.errors import OpsError, UsageError

DESCRIPTION = """
Runs more workers on this host while tasks wait for too long, and fewer once nothing waits: looks at
the queues again and again until Ctrl-C. A worker that is stopped finishes its tasks first.
"""
EPILOG = """
more: the next task of some queue has waited for longer than --wait, and no less long than at the
last look: half as many again, at least one. fewer: nothing has waited for --calm seconds: one less.
While Redis or PostgreSQL does not answer nothing changes.

examples:
  scripts/autoscale --max 4
  scripts/autoscale --min 2 --max 8 --wait 10 --calm 600
  scripts/autoscale --max 4 --once --dry-run
"""


@dataclass(frozen=True)
class Rules:
    minimum: int
    maximum: int
    #: Seconds that the next task of a queue may wait, and without anything waiting before one less.
    wait: float
    calm: float


@dataclass(frozen=True)
class Look:
    """At all queues; seconds."""

    depth: int
    oldest: float
    #: How long nothing has waited by now.
    calm: float


def decide(now: Look, before: Look, workers: int, rules: Rules) -> int:
    """How many workers should run."""
    wanted = workers
    if now.oldest > rules.wait and now.oldest >= before.oldest:
        wanted += max(1, workers // 2)
    elif now.calm >= rules.calm:
        wanted -= 1
    return max(rules.minimum, min(rules.maximum, wanted))


def look(state: dict[str, Any], calm: float) -> Look:
    """`calm`: how long nothing has waited, if nothing does now."""
    queues = state["queues"].values()
    depth = sum(queue["depth"] for queue in queues)
    oldest = max((queue["oldest_seconds"] for queue in queues), default=0.0)
    return Look(depth, oldest, 0.0 if depth else calm)


def parser() -> argparse.ArgumentParser:
    made = cli.parser("autoscale", DESCRIPTION, EPILOG)
    made.add_argument("--min", type=int, default=1, metavar="N", help="workers at least (1)")
    made.add_argument("--max", type=int, required=True, metavar="N", help="workers at most")
    made.add_argument(
        "--wait",
        type=float,
        default=30,
        metavar="SECONDS",
        help="that a task may wait before there are more (30)",
    )
    made.add_argument(
        "--calm",
        type=float,
        default=300,
        metavar="SECONDS",
        help="without a waiting task before there are fewer (300)",
    )
    made.add_argument(
        "--every", type=float, default=15, metavar="SECONDS", help="between two looks (15)"
    )
    made.add_argument("--once", action="store_true", help="look once and end")
    made.add_argument("--dry-run", action="store_true", help="say what it would do")
    return made


def main() -> None:
    options = parser().parse_args()
    if not 1 <= options.min <= options.max:
        raise UsageError(f"--min {options.min} --max {options.max}: give 1 <= min <= max")
    if not options.every >= 1:
        raise UsageError(f"--every {options.every:g}: give at least 1 second")
    scaler = Scaler(
        find(options.on),
        Rules(options.min, options.max, options.wait, options.calm),
        dry=options.dry_run,
    )
    scaler.step()
    while not options.once:
        time.sleep(options.every)
        try:
            scaler.step()
        except OpsError as error:  # it may be over at the next look
            cli.warn(str(error))


class Scaler:
    def __init__(self, deployment: Deployment, rules: Rules, *, dry: bool) -> None:
        self.deployment, self.rules, self.dry = deployment, rules, dry
        self._before = Look(0, 0.0, 0.0)
        self._calm_since = time.monotonic()

    def step(self) -> None:
        """Look at the queues, and scale where the rules say so."""
        state = json.loads(self.deployment.manage("system_state"))
        if state["errors"]:
            reasons = "; ".join(f"{name}: {why}" for name, why in state["errors"].items())
            raise OpsError(f"nothing is changed while something does not answer: {reasons}")
        now = look(state, time.monotonic() - self._calm_since)
        if now.depth:
            self._calm_since = time.monotonic()
        workers = len(self.deployment.running("worker"))
        wanted = decide(now, self._before, workers, self.rules)
        self._before = now
        seen = f"{now.depth} wait, the oldest for {cli.duration(now.oldest)}"
        if wanted == workers:
            cli.say(f"{seen}: {workers} workers stay")
            return
        # The next one goes after as long again.
        self._calm_since = time.monotonic()
        with cli.step(f"{seen}: {workers} -> {wanted} workers"):
            if not self.dry:
                self.deployment.scale_workers(wanted)


if __name__ == "__main__":
    cli.run(main)
