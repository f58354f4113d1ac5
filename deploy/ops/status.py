"""`scripts/status`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from deploy.ops import cli
from deploy.ops.deployment import Service, State, find
from deploy.ops.errors import UsageError
from deploy.ops.observation import Observation, observe
from deploy.ops.problems import (
    DISK_FREE,
    MEMORY_FREE,
    QUEUE_FULL,
    WAITED_SECONDS,
    Problem,
    notes,
    problems,
)

DESCRIPTION = """
Shows each service with its version, uptime and memory, each queue with what waits in it and who
takes from it, the outbox, dead letters, when each periodic task last ticked, disk, memory and the
last backup; then what is wrong, in words, each with the command that helps. It tells what it can
while half of the system is down, and changes nothing.
"""
EPILOG = """
wrong is: a service that does not run or is unhealthy; a worker that does not answer; PostgreSQL or
Redis away; a migration that is not applied; a periodic task that is overdue; a queue that no
worker takes from, fuller than 80 % of its limit or with a message older than 5 minutes; dead
letters; promised tasks or the task history more than 5 minutes behind; a service at 95 % of its
memory limit, the host with less than 5 % of memory or a disk with less than 10 % free; in
production no backup within 26 hours (elsewhere that is a note).

examples:
  scripts/status
  scripts/status --watch 2
  scripts/status --json | jq -r '.problems[].what'
"""
CODES = """\
exit codes: 0 all is well; 1 something is wrong; 2 called wrongly; 3 there is no deployment here
"""
COLOURS = {
    State.RUNNING: cli.GREEN,
    State.STARTING: cli.YELLOW,
    State.UNHEALTHY: cli.RED,
    State.STOPPED: cli.RED,
    State.FAILED: cli.RED,
}
Colours = dict[tuple[int, int], str]


def parser() -> argparse.ArgumentParser:
    made = cli.parser("status", DESCRIPTION, EPILOG, CODES)
    made.add_argument("--json", action="store_true", help="all of it as a JSON object")
    made.add_argument(
        "--watch",
        metavar="SECONDS",
        type=float,
        nargs="?",
        const=5.0,
        help="again and again, every 5 seconds or as said, until Ctrl-C",
    )
    return made


def main() -> int:
    options = parser().parse_args()
    if options.watch is not None and not 1 <= options.watch <= 3600:
        raise UsageError(f"--watch {options.watch:g}: give 1 to 3600 seconds")
    deployment = find(options.on)
    if options.watch is None:
        return show(observe(deployment), as_json=options.json)
    try:
        while True:
            seen = observe(deployment)
            if not options.json and sys.stdout.isatty():
                print("\033[H\033[2J\033[3J", end="")
            code = show(seen, as_json=options.json)
            sys.stdout.flush()
            time.sleep(options.watch)
    except KeyboardInterrupt:
        return code


def show(seen: Observation, *, as_json: bool) -> int:
    """Its exit code."""
    wrong = problems(seen)
    if as_json:
        told = {"healthy": not wrong, "problems": [asdict(one) for one in wrong]}
        print(json.dumps(told | {"notes": notes(seen)} | seen.as_json()))
    else:
        print("\n\n".join(sections(seen, wrong)))
    return 1 if wrong else 0


def sections(seen: Observation, wrong: list[Problem]) -> Iterator[str]:
    now = datetime.now(UTC)
    yield f"{seen.deployment}, {now:%Y-%m-%d %H:%M:%S} UTC"
    if seen.services:
        yield services_table(seen.services, now)
    if queues := seen.state.get("queues"):
        yield queues_table(queues)
    if periodic := seen.state.get("periodic"):
        yield periodic_table(periodic, now)
    yield rest_table(seen, now)
    if noted := notes(seen):
        yield "\n".join(f"note: {note}" for note in noted)
    yield verdict(wrong)


def services_table(services: list[Service], now: datetime) -> str:
    rows = [("SERVICE", "INSTANCE", "STATE", "VERSION", "UPTIME", "MEMORY")]
    colours: Colours = {}
    for number, service in enumerate(services, 1):
        up = service.started_at and since(service.started_at, now)
        rows.append(
            (
                service.name,
                service.instance or "-",
                service.state.value,
                service.version or "-",
                up or "-",
                memory_of(service),
            )
        )
        colours[number, 2] = COLOURS[service.state]
    return cli.table(rows, colours)


def memory_of(service: Service) -> str:
    if service.memory is None:
        return "-"
    limit = f" of {cli.size(service.memory_limit)}" if service.memory_limit else ""
    return cli.size(service.memory) + limit


def queues_table(queues: dict[str, dict[str, Any]]) -> str:
    rows = [("QUEUE", "WAITING", "LIMIT", "OLDEST", "WORKERS")]
    colours: Colours = {}
    for number, (name, queue) in enumerate(sorted(queues.items()), 1):
        depth, limit, oldest = queue["depth"], queue["limit"], queue["oldest_seconds"]
        waits, workers = cli.duration(oldest) if depth else "-", ", ".join(queue["workers"])
        rows.append((name, str(depth), str(limit or "-"), waits, workers or "none"))
        wrong = (limit and depth > QUEUE_FULL * limit, oldest > WAITED_SECONDS, not workers)
        for column, is_wrong in zip((1, 3, 4), wrong, strict=True):
            colours[number, column] = cli.RED if is_wrong else cli.GREEN
    return cli.table(rows, colours)


def periodic_table(periodic: dict[str, dict[str, Any]], now: datetime) -> str:
    rows = [("PERIODIC TASK", "EVERY", "LAST TICK")]
    colours: Colours = {}
    for number, (name, entry) in enumerate(sorted(periodic.items()), 1):
        period, last = entry["period_seconds"], entry["last_tick_at"]
        ticked = f"{since(datetime.fromisoformat(last), now)} ago" if last else "never"
        late = ", overdue" if entry["overdue"] else ""
        rows.append((name, cli.duration(period) if period else "-", ticked + late))
        colours[number, 2] = cli.RED if late else cli.GREEN
    return cli.table(rows, colours)


def rest_table(seen: Observation, now: datetime) -> str:
    rows = [("OUTBOX AND HOST", ""), *waiting(seen.state)]
    colours: Colours = {}
    spaces = {f"Disk of {disk.name}": disk for disk in seen.disks} | {"Memory": seen.memory}
    for name, one in spaces.items():
        rows.append((name, f"{cli.size(one.free)} of {cli.size(one.total)} free"))
        if one.share < (MEMORY_FREE if one is seen.memory else DISK_FREE):
            colours[len(rows) - 1, 1] = cli.RED
    rows.append(("Last backup", f"{since(seen.backup_at, now)} ago" if seen.backup_at else "none"))
    return cli.table(rows, colours)


def waiting(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if promised := state.get("promised_tasks"):
        told = f"{promised['waiting']} wait for the broker, {promised['unfinished']} have not ended"
        yield "Promised tasks", told
    if counts := state.get("promo_notifications"):
        told = f"{counts['PENDING']} wait for SNS, {counts['PUBLISHED']} for their delivery"
        yield "Promo notifications", told
    if "task_notifications_pending" in state:
        yield "Task notifications", f"{state['task_notifications_pending']} wait"
    if "dead_letters_waiting" in state:
        yield "Dead letters", f"{state['dead_letters_waiting']} wait"
    if (telemetry := state.get("telemetry")) and telemetry["configured"]:
        lag = telemetry["lag_seconds"]
        told = "never complete yet" if lag is None else f"complete {cli.duration(lag)} ago"
        yield "Telemetry", f"{told}, {telemetry['quarantined']} in quarantine"
    if tracking := state.get("tracking"):
        yield "Task history", f"{tracking['lag_seconds']:.1f} s behind"


def since(moment: datetime, now: datetime) -> str:
    return cli.duration((now - moment).total_seconds())


def verdict(wrong: list[Problem]) -> str:
    if not wrong:
        return cli.coloured("All is well.", cli.GREEN)
    lines = [cli.coloured(f"{len(wrong)} problem{'s' if wrong[1:] else ''}:", cli.RED)]
    for problem in wrong:
        lines += [f"  {problem.what}", f"    -> {problem.help}"]
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
