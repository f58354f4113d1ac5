"""`scripts/logs`."""

import argparse
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from deploy.ops import cli
from deploy.ops.deployment import Deployment, Service, find
from deploy.ops.errors import NotRunning, OpsError, UsageError

DESCRIPTION = """
Shows the log of one service, or of all of them interleaved by time, each line behind the name of
its process. SERVICE is web, worker, beat, flower or a server that runs here, or one process as
scripts/status names it, such as worker-2. With --task, only the lines of that task, from whichever
process wrote them, with the tracebacks that belong to them.
"""
EPILOG = """
examples:
  scripts/logs worker --follow
  scripts/logs --since 15m
  scripts/logs --task 6c0e3f7e-0a4d-4f3c-9f0e-3a3a0f1f2b1c
"""
#: Lines of each log without --lines.
LINES = 50
#: Seconds within which lines of several logs are put in their order.
TOGETHER = 0.3

_ISO = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6}))?")
#: Redis: `23 Nov 2026 04:26:49.123`; an HTTP server: `23/Nov/2026:04:26:49`.
_WORDED = re.compile(r"(\d\d)[ /]([A-Z][a-z]{2})[ /](\d{4})[ :](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?")
#: Characters within which a line that begins an entry has its time.
_HEAD = 80
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parser() -> argparse.ArgumentParser:
    made = cli.parser("logs", DESCRIPTION, EPILOG)
    made.add_argument("service", metavar="SERVICE", nargs="?", help="one of them alone (all)")
    made.add_argument(
        "-f", "--follow", action="store_true", help="go on as they grow, until Ctrl-C"
    )
    made.add_argument(
        "-n",
        "--lines",
        type=int,
        metavar="N",
        help=f"look at the last N of each log ({LINES}; with --task or --since at all there are)",
    )
    made.add_argument("--task", metavar="ID", help="the lines of this task alone")
    made.add_argument(
        "--since",
        metavar="TIME",
        help="from then on: 90s, 15m, 2h, 1d ago, or 2026-11-23T04:00 UTC",
    )
    return made


def main() -> int | None:
    options = parser().parse_args()
    if options.lines is not None and options.lines < 0:
        raise UsageError(f"--lines {options.lines}: give a number from 0 on")
    if options.task is not None and len(options.task) < 8:
        raise UsageError(f"--task {options.task}: give the task's id, or its first 8 characters")
    since = moment(options.since) if options.since else None
    deployment = find(options.on)
    lines = options.lines
    if lines is None and not (options.task or since):
        lines = LINES
    logs = [
        Log(
            service.instance,
            deployment.log_command(service, lines=lines, follow=options.follow, since=since),
        )
        for service in chosen(deployment, options.service)
    ]
    entries = merged(logs, deployment.environment(), follow=options.follow)
    found = 0
    for entry in entries:
        if (since and entry.at < since) or (options.task and options.task not in entry.text):
            continue
        found += 1
        show(entry, [log.name for log in logs])
    if options.task and not found:
        raise OpsError(f"no line names the task {options.task}")
    return None


def moment(text: str) -> datetime:
    """`15m` ago, or a date and time of UTC."""
    if match := re.fullmatch(r"(\d+)([smhd])", text):
        return datetime.now(UTC) - timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        message = f"--since {text}: give 90s, 15m, 2h or 1d, or a time such as 2026-11-23T04:00"
        raise UsageError(message) from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def chosen(deployment: Deployment, name: str | None) -> list[Service]:
    services = [service for service in deployment.services() if service.instance]
    found = [one for one in services if name in (None, one.name, one.instance)]
    if found:
        return found
    if not services:
        raise NotRunning("nothing has a log here yet")
    names = dict.fromkeys(name for one in services for name in (one.name, one.instance))
    raise UsageError(f"no service is called {name}; there are {', '.join(names)}")


# --- Entries -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Log:
    name: str
    command: list[str]


@dataclass
class Entry:
    """A line with a time, and those without that follow it, such as a traceback."""

    at: datetime
    log: str
    text: str


NEVER = datetime.min.replace(tzinfo=UTC)


def merged(logs: list[Log], environment: dict[str, str] | None, *, follow: bool) -> Iterator[Entry]:
    """In the order of their times; while they grow, as far as lines come together."""
    lines: queue.Queue[tuple[str, str | None]] = queue.Queue()
    processes = [read(log, lines, environment) for log in logs]
    try:
        yield from ordered(lines, len(logs), seconds=TOGETHER if follow else None)
    finally:
        for process in processes:
            process.terminate()


def read(
    log: Log, lines: "queue.Queue[tuple[str, str | None]]", environment: dict[str, str] | None
) -> "subprocess.Popen[str]":
    """Put its lines into the queue, None at the end."""
    process = subprocess.Popen(
        log.command,
        env=environment and os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )

    def run() -> None:
        for line in process.stdout or ():
            lines.put((log.name, line.rstrip("\n")))
        lines.put((log.name, None))

    threading.Thread(target=run, daemon=True).start()
    return process


def ordered(
    lines: "queue.Queue[tuple[str, str | None]]", running: int, *, seconds: float | None
) -> Iterator[Entry]:
    """What comes within so many seconds, sorted; None: all there is. Until all have ended."""
    times: dict[str, datetime] = {}
    while running:
        together: list[Entry] = []
        latest: dict[str, Entry] = {}
        deadline: float | None = None
        while running:
            try:
                left = deadline and max(0.0, deadline - time.monotonic())
                name, text = lines.get(timeout=left)
            except queue.Empty:
                break
            if seconds and deadline is None:
                deadline = time.monotonic() + seconds
            if text is None:
                running -= 1
            elif (at := time_of(text)) is None and name in latest:
                latest[name].text += f"\n{text}"
            else:
                times[name] = at or times.get(name, NEVER)
                latest[name] = Entry(times[name], name, text)
                together.append(latest[name])
        yield from sorted(together, key=lambda entry: entry.at)


def time_of(line: str) -> datetime | None:
    """When an entry was written, which its first line says; logs are in UTC."""
    if match := _ISO.search(line[:_HEAD]):
        year, month, day, clock, fraction = match.groups()
        text = f"{year}-{month}-{day} {clock}"
        form = "%Y-%m-%d %H:%M:%S"
    elif match := _WORDED.search(line[:_HEAD]):
        day, month, year, clock, fraction = match.groups()
        text, form = f"{day} {month} {year} {clock}", "%d %b %Y %H:%M:%S"
    else:
        return None
    try:
        at = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None
    return at + timedelta(microseconds=int((fraction or "0").ljust(6, "0")))


# --- The screen ----------------------------------------------------------------------------------
COLOURS = ("36", "33", "35", "32", "34", "96", "93", "95", "92", "94")


def show(entry: Entry, names: list[str]) -> None:
    if len(names) == 1:
        print(entry.text)
    else:
        width = max(map(len, names))
        colour = COLOURS[names.index(entry.log) % len(COLOURS)]
        prefix = cli.coloured(f"{entry.log:<{width}} |", colour)
        for line in entry.text.split("\n"):
            print(prefix, line)
    sys.stdout.flush()


if __name__ == "__main__":
    cli.run(main)
