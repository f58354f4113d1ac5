"""`scripts/queues`: what waits in the broker."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.ops import cli, deployment
from deploy.ops.deployment import Deployment, manage_error
from deploy.ops.errors import OpsError, UsageError

DESCRIPTION = """\
What waits in the queues of the broker: shown, taken out with a copy that can be put back, or moved
to other workers. What a worker holds already is never touched.
"""
EPILOG = """\
examples:
  scripts/queues list
  scripts/queues peek default -n 3
  scripts/queues purge low_priority --task promotions.tasks.cleanup_expired_promos
  scripts/queues restore low_priority-20261123-101500.jsonl
  scripts/queues move default high_priority
"""
PURGE = """\
Takes messages out of a queue. Each is written to a file before it is gone, which `restore` reads;
the history says REVOKED. Killed in the middle it loses nothing: `restore` puts back what was out.
"""
RESTORE = """\
Puts back what a purge took out: the same messages, in front of their queue, in their order. Each is
put back once, however often this runs; for 30 days after the purge, Redis knows which are out.
"""
MOVE = """\
Moves messages behind those of another queue, for instance one whose workers have nothing to do. A
target without room (QUEUE_LIMIT) is refused; what was moved until then stays there.
"""
#: Seconds for a queue of QUEUE_LIMIT messages on a slow machine.
TIMEOUT = 600


def parser() -> argparse.ArgumentParser:
    root = cli.parser("queues", DESCRIPTION, EPILOG)
    actions = root.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    listing = actions.add_parser("list", help="how much waits where, how long, and who takes it")
    peek = actions.add_parser("peek", help="show the next messages, without taking them")
    peek.add_argument("-n", type=int, default=10, dest="count", metavar="N", help="how many (10)")
    purge = actions.add_parser("purge", help="take messages out, with a copy", description=PURGE)
    restore = actions.add_parser("restore", help="put a purge's back", description=RESTORE)
    restore.add_argument("file", metavar="FILE", help="that the purge named")
    restore.add_argument(
        "--all",
        action="store_true",
        help="also what Redis does not know as taken out, unless it waits or a worker holds it",
    )
    move = actions.add_parser("move", help="move messages to another queue", description=MOVE)
    for action in (peek, purge):
        action.add_argument("queue", metavar="QUEUE")
    move.add_argument("queue", metavar="FROM")
    move.add_argument("target", metavar="TO")
    for action in (purge, move):
        action.add_argument("--task", metavar="NAME", help="messages of this task alone")
    purge.add_argument("--yes", action="store_true", help="do not ask")
    for action in (listing, peek):
        action.add_argument("--json", action="store_true", help="as JSON")
    return root


def main() -> None:
    options = parser().parse_args()
    found = deployment.find(options.on)
    actions = {"list": show, "peek": peek, "purge": purge, "restore": restore, "move": move}
    actions[options.action](found, options)


# --- Looking -------------------------------------------------------------------------------------
def show(found: Deployment, options: argparse.Namespace) -> None:
    state = json.loads(found.manage("system_state"))
    if "queues" not in state:
        raise OpsError(f"the broker does not answer: {state['errors'].get('broker')}")
    if options.json:
        cli.say(json.dumps(state["queues"], indent=2))
        return
    rows = [("QUEUE", "WAITING", "OLDEST", "LIMIT", "WORKERS")]
    colours = {}
    for name, facts in state["queues"].items():
        if facts["depth"] and not facts["workers"]:
            colours[len(rows), 4] = cli.RED
        if facts["limit"] and facts["depth"] >= 0.8 * facts["limit"]:
            colours[len(rows), 1] = cli.YELLOW
        oldest = cli.duration(facts["oldest_seconds"]) if facts["depth"] else "-"
        workers = ", ".join(facts["workers"]) or "none"
        rows.append((name, str(facts["depth"]), oldest, str(facts["limit"] or "none"), workers))
    cli.say(cli.table(rows, colours))
    cli.say(f"held by workers: {state['messages_held']}")


def peek(found: Deployment, options: argparse.Namespace) -> None:
    text = found.manage("queues", "peek", options.queue, "-n", str(options.count))
    shown = json.loads(text)
    if options.json:
        cli.say(json.dumps(shown, indent=2, ensure_ascii=False))
    elif not shown:
        cli.say(f"nothing waits in {options.queue}")
    else:
        cli.say(cli.table([("ID", "TASK", "PRIORITY", "AGE", "ARGUMENTS"), *map(_row, shown)]))


def _row(message: dict[str, Any]) -> tuple[str, ...]:
    if message["id"] is None:
        return ("-", "no task", str(message["priority"]), "-", message["unreadable"])
    age = message["age_seconds"]
    arguments = json.dumps(message["arguments"], ensure_ascii=False)
    return (
        message["id"],
        message["task"],
        str(message["priority"]),
        "-" if age is None else cli.duration(age),
        arguments if len(arguments) <= 200 else f"{arguments[:199]}…",
    )


# --- Purging -------------------------------------------------------------------------------------
def purge(found: Deployment, options: argparse.Namespace) -> None:
    name = f"{re.sub(r'[^A-Za-z0-9_.-]', '_', options.queue)}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    task = ["--task", options.task] if options.task else []
    file = found.data / "purged" / f"{name}.jsonl"
    with Conversation.of(found, "queues", "purge", options.queue, "--name", name, *task) as talk:
        count = json.loads(talk.line())["messages"]
        of_task = f" of {options.task}" if options.task else ""
        if not count:
            cli.say(f"nothing{of_task} waits in {options.queue}")
            return
        cli.confirm(
            f"Take {count} messages{of_task} out of {options.queue}? A copy goes to {file}.",
            yes=options.yes,
        )
        kept = _keep(talk, file, count)
    cli.say(
        f"{kept} messages are out of {options.queue}: "
        f"scripts/queues restore {file.name} puts them back."
    )


def _keep(talk: "Conversation", file: Path, count: int) -> int:
    """Write down each batch before it is taken out of the queue; how many messages."""
    kept = 0
    descriptor = _create(file)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as output:
            while lines := talk.batch():
                output.writelines(lines)
                output.flush()
                os.fsync(descriptor)
                kept += len(lines)
                if sys.stdout.isatty():
                    print(f"\r\033[K{kept} of {count} messages", end="", flush=True)
    except BaseException:
        cli.warn(f"stopped: scripts/queues restore {file.name} puts back what is out of the queue")
        raise
    finally:
        if sys.stdout.isatty():
            print("\r\033[K", end="", flush=True)
    return kept


def _create(file: Path) -> int:
    """Its descriptor; for its owner alone, as arguments may hold secrets."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except FileExistsError:
        raise OpsError(f"{file} is there already: try again in a second") from None
    except OSError as error:
        raise OpsError(f"{file} cannot be written: {error.strerror}") from error
    return descriptor


@dataclass
class Conversation:
    """With a `manage.py` that prints batches of lines and waits for an answer to each."""

    process: "subprocess.Popen[str]"
    arguments: tuple[str, ...]
    errors: Any
    is_asked: bool = False

    @classmethod
    @contextmanager
    def of(cls, found: Deployment, *arguments: str) -> Iterator["Conversation"]:
        with (
            tempfile.TemporaryFile("w+") as errors,
            subprocess.Popen(
                found.application("python", "manage.py", *arguments),
                env=found.environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
            ) as process,
        ):
            talk = cls(process, arguments, errors)
            try:
                yield talk
            finally:
                with suppress(BrokenPipeError):
                    process.stdin.close()  # type: ignore[union-attr]

    def line(self) -> str:
        """The next one; an OpsError when there is none for a reason."""
        text = self.process.stdout.readline()  # type: ignore[union-attr]
        if not text and self.process.wait():
            self.errors.seek(0)
            words = self.errors.read()
            done = subprocess.CompletedProcess([], self.process.returncode, "", words)
            raise manage_error(self.arguments, done)
        return text

    def batch(self) -> list[str]:
        """The lines up to an empty one, after an answer for those before; [] at the end."""
        with suppress(BrokenPipeError):
            self.process.stdin.write("\n")  # type: ignore[union-attr]
            self.process.stdin.flush()  # type: ignore[union-attr]
        lines = []
        while (line := self.line()) not in ("", "\n"):
            lines.append(line)
        return lines


# --- Restoring and moving ------------------------------------------------------------------------
def restore(found: Deployment, options: argparse.Namespace) -> None:
    file = _purged(found, options.file)
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        del lines[-1]  # whose writer was killed: never taken out
    # Each goes in front of those before, so the last in turn goes first.
    text = "".join(reversed(lines))
    more = ["--all"] if options.all else []
    done = found.manage(
        "queues", "restore", "--name", file.stem, *more, input=text, timeout=TIMEOUT
    )
    count = json.loads(done)["restored"]
    rest = len(lines) - count
    others = f"; {rest} others were not out of their queue" if rest else ""
    cli.say(f"{count} messages were put back{others}.")


def _purged(found: Deployment, name: str) -> Path:
    folder = found.data / "purged"
    for file in (Path(name), folder / name, folder / f"{name}.jsonl"):
        if file.is_file():
            return file
    there = sorted(file.name for file in folder.glob("*.jsonl"))
    listed = f"in {folder} are {', '.join(there[-5:])}" if there else f"{folder} holds none"
    raise UsageError(f"there is no copy {name}; {listed}")


def move(found: Deployment, options: argparse.Namespace) -> None:
    task = ["--task", options.task] if options.task else []
    words = ("queues", "move", options.queue, options.target, *task)
    count = json.loads(found.manage(*words, timeout=TIMEOUT))["moved"]
    cli.say(f"{count} messages were moved from {options.queue} to {options.target}.")


if __name__ == "__main__":
    cli.run(main)
