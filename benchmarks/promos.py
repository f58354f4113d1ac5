"""Flash promos against bare PostgreSQL and the bare SNS/SQS server, as ratios.

Starts servers of its own, fills them, lets the bundle and a baseline take turns, prints a
Markdown table and removes everything. Nothing passes or fails by a time.
"""

import argparse
from collections.abc import Callable, Iterator

from benchmarks import command, table

CASES = {
    "a": "check_active_promos",
    "b": "fan-out",
    "c": "reservations",
    "d": "SNS and SQS",
}


def main() -> None:
    options = _options()
    command.run(options, lambda _: _report(options), aws_endpoint=options.aws_endpoint)


def _options() -> argparse.Namespace:
    parser = command.parser("promos", __doc__ or "", CASES)
    parser.add_argument(
        "--aws-endpoint",
        metavar="URL",
        help="measure d against this running server, such as LocalStack, instead of moto",
    )
    parser.add_argument(
        "--messages",
        type=command.positive(int),
        default=500,
        help="how many d sends at scale 1; moto slows down with each it holds; default: 500",
    )
    return parser.parse_args()


def _report(options: argparse.Namespace) -> Iterator[str]:
    rows = [row for case in options.only for row in _cases()[case](options)]
    yield f"{command.about(options)}; SNS and SQS: {options.aws_endpoint or 'moto'}."
    yield table.ratios(rows)


def _cases() -> dict[str, Callable[[argparse.Namespace], list[table.Row]]]:
    # These need Django's settings, and those the servers.
    from benchmarks import fan_out, messages, reservations, windows

    return {"a": windows.run, "b": fan_out.run, "c": reservations.run, "d": messages.run}


if __name__ == "__main__":
    main()
