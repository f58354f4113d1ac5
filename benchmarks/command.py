"""What the commands share: their options, servers for their time, how they end."""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from benchmarks import servers
from benchmarks.rounds import progress


def parser(name: str, description: str, cases: Mapping[str, str]) -> argparse.ArgumentParser:
    """The options that each command has; `cases` says what each letter of `--only` is."""

    def chosen(text: str) -> list[str]:
        letters = text.split(",")
        if unknown := set(letters) - set(cases):
            raise argparse.ArgumentTypeError(
                f"not among {','.join(cases)}: {','.join(sorted(unknown))}"
            )
        return [case for case in cases if case in letters]

    parser = argparse.ArgumentParser(prog=f"scripts/bench {name}", description=description)
    parser.add_argument("--rounds", type=positive(int), default=5, help="default: 5")
    parser.add_argument(
        "--scale",
        type=positive(float),
        default=1.0,
        help="the share of the full sizes, such as 0.01 for a quick look; default: 1",
    )
    parser.add_argument(
        "--only",
        type=chosen,
        default=list(cases),
        metavar=",".join(cases),
        help=f"{', '.join(f'{case}: {what}' for case, what in cases.items())}; default: all",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - on disk, where /tmp is often in memory
        help="where the servers' folder is made, on a disk; default: /var/tmp",
    )
    return parser


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def run(
    options: argparse.Namespace,
    report: Callable[[servers.Processes], Iterable[str]],
    *,
    aws_endpoint: str | None = None,
) -> None:
    """Print the report's paragraphs, made while servers run that Django knows of."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    start = time.monotonic()
    try:
        with servers.running(options.folder, aws_endpoint) as running:
            _migrate()
            paragraphs = list(report(running))
    except servers.Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
    print(*paragraphs, sep="\n\n")
    progress(f"done in {time.monotonic() - start:.0f} s")


def _migrate() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    progress("migrating")
    call_command("migrate", verbosity=0)


def about(options: argparse.Namespace) -> str:
    """What the figures were taken on, without a full stop."""
    connection = servers.connect()
    server = connection.info.parameter_status("server_version")
    connection.close()
    settings = ", ".join(f"{key} {value}" for key, value in servers.POSTGRES_OPTIONS.items())
    return (
        f"Median of {options.rounds} interleaved rounds at scale {options.scale:g}, Python "
        f"{platform.python_version()}, {os.cpu_count()} CPUs; PostgreSQL {server} with {settings}"
    )
