"""What every command has: its options, its errors, its questions and its tables."""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from deploy.ops.errors import OpsError, UsageError

WAYS = ("compose", "systemd", "supervisor", "embedded")

EXIT_CODES = """\
exit codes: 0 done; 1 failed, the reason is on standard error; 2 called wrongly; 3 nothing runs here
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(
            prog, max_help_position=28, width=min(shutil.get_terminal_size().columns, 100)
        )


def parser(
    command: str, description: str, epilog: str = "", codes: str = EXIT_CODES
) -> argparse.ArgumentParser:
    """With --on, which every command has; `command` is the script's name."""
    made = argparse.ArgumentParser(
        prog=f"scripts/{command}",
        description=description.strip(),
        epilog="\n".join(filter(None, (epilog.strip(), codes.strip()))),
        formatter_class=Formatter,
    )
    made.add_argument(
        "--on",
        choices=WAYS,
        metavar="WAY",
        default=os.environ.get("FLASH_PROMOS_ON") or None,
        help=f"which deployment, when several are here: {', '.join(WAYS)} (found out)",
    )
    return made


def without_on(words: Sequence[str]) -> list[str]:
    """The command line as it is passed on to another program, which knows no --on."""
    kept: list[str] = []
    for number, word in enumerate(words):
        is_its_value = number > 0 and words[number - 1] == "--on"
        if word != "--on" and not word.startswith("--on=") and not is_its_value:
            kept.append(word)
    return kept


def run(main: Callable[[], int | None]) -> NoReturn:
    """Be the command: its exit code, an OpsError as one clear message, an interrupt as 130."""
    # As an interrupt, so that what was begun is taken back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = main() or 0
        sys.stdout.flush()
    except OpsError as error:
        sys.stdout.flush()
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    except BrokenPipeError:  # nobody reads on, as after `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def confirm(question: str, *, yes: bool) -> None:
    """Go on only when somebody says so; `yes` is the option --yes."""
    if yes:
        return
    try:
        answer = input(f"{question} [y/N] ").strip().lower()
    except EOFError:
        raise UsageError("nobody answers; --yes does not ask") from None
    if answer not in ("y", "yes"):
        raise OpsError("nothing was changed")


def say(text: str) -> None:
    print(text, flush=True)


def warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """One line for what takes a while, with the seconds it took; a failed one says so."""
    started = time.monotonic()
    live = sys.stdout.isatty()
    print(f"{text} …", end="" if live else "\n", flush=True)
    try:
        yield
    except BaseException:
        if live:
            print(" failed", flush=True)
        raise
    seconds = time.monotonic() - started
    if live:
        print(f"\r\033[K{text}: {seconds:.1f} s", flush=True)


# --- Tables ------------------------------------------------------------------------------------
GREEN, YELLOW, RED, BOLD, DIM = "32", "33", "31", "1", "2"


def coloured(text: str, colour: str) -> str:
    """For a terminal that wants colours (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{colour}m{text}\033[0m"


def table(rows: Sequence[Sequence[str]], colours: dict[tuple[int, int], str] | None = None) -> str:
    """Columns side by side, the first row in bold; `colours` by row and column."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for number, row in enumerate(rows):
        cells = []
        for column, cell in enumerate(row):
            padded = cell.ljust(widths[column]) if column < len(row) - 1 else cell
            colour = BOLD if number == 0 else (colours or {}).get((number, column))
            cells.append(coloured(padded, colour) if colour else padded)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h 20 min`, `12 d 4 h`."""
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(octets: float) -> str:
    """`512 B`, `12.3 MB`; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        if octets < 1000:
            return f"{octets:.0f} {unit}" if unit == "B" else f"{octets:.1f} {unit}"
        octets /= 1000
    return f"{octets:.1f} TB"
