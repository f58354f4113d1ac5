"""Flash promos against bare PostgreSQL and the bare SNS/SQS server, as ratios.

Starts servers of its own, fills them, lets the bundle and a baseline take turns, prints a
Markdown table and removes everything. Nothing passes or fails by a time.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import servers, table
from benchmarks.rounds import progress

CASES = ("a", "b", "c", "d")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    start = time.monotonic()
    with servers.running(options.folder, options.aws_endpoint):
        _migrate()
        rows = [row for case in options.only for row in _cases()[case](options)]
        about = _about(options)
    print(about, table.markdown(rows), sep="\n\n")
    progress(f"done in {time.monotonic() - start:.0f} s")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench promos", description=__doc__)
    parser.add_argument("--rounds", type=_positive(int), default=5, help="default: 5")
    parser.add_argument(
        "--scale",
        type=_positive(float),
        default=1.0,
        help="the share of the full sizes, such as 0.01 for a quick look; default: 1",
    )
    parser.add_argument(
        "--only",
        type=_cases_of,
        default=list(CASES),
        metavar="a,b,c,d",
        help="a: check_active_promos, b: fan-out, c: reservations, d: SNS and SQS; default: all",
    )
    parser.add_argument(
        "--aws-endpoint",
        metavar="URL",
        help="measure d against this running server, such as LocalStack, instead of moto",
    )
    parser.add_argument(
        "--messages",
        type=_positive(int),
        default=500,
        help="how many d sends at scale 1; moto slows down with each it holds; default: 500",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - on disk, where /tmp is often in memory
        help="where the servers' folder is made, on a disk; default: /var/tmp",
    )
    return parser.parse_args()


def _positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def _cases_of(text: str) -> list[str]:
    chosen = text.split(",")
    if unknown := set(chosen) - set(CASES):
        raise argparse.ArgumentTypeError(f"not among a,b,c,d: {','.join(sorted(unknown))}")
    return [case for case in CASES if case in chosen]


def _migrate() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    progress("migrating")
    call_command("migrate", verbosity=0)


def _cases() -> dict[str, Callable[[argparse.Namespace], list[table.Row]]]:
    # These need Django's settings, and those the servers.
    from benchmarks import fan_out, messages, reservations, windows

    return {"a": windows.run, "b": fan_out.run, "c": reservations.run, "d": messages.run}


def _about(options: argparse.Namespace) -> str:
    connection = servers.connect()
    server = connection.info.parameter_status("server_version")
    connection.close()
    settings = ", ".join(f"{key} {value}" for key, value in servers.POSTGRES_OPTIONS.items())
    return (
        f"Median of {options.rounds} interleaved rounds at scale {options.scale:g}, Python "
        f"{platform.python_version()}, {os.cpu_count()} CPUs; PostgreSQL {server} with {settings}; "
        f"SNS and SQS: {options.aws_endpoint or 'moto'}."
    )


if __name__ == "__main__":
    main()
