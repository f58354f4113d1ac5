"""What one host holds, everything on it: servers, workers and a web of its own.

Starts PostgreSQL, Redis and an SNS/SQS server, each durable as in production, measures one thing
after the other, prints a Markdown table and removes everything. The figures are this machine's at
this moment: run it when nothing else does.
"""

import argparse
from collections.abc import Callable, Iterator

from benchmarks import command, servers, table

CASES = {
    "t": "tasks",
    "p": "promos",
    "s": "shoppers told",
    "r": "reservations",
    "n": "notifications through SNS and SQS",
    "w": "live clients",
}
Cells = tuple[str, str, str]


def main() -> None:
    parser = command.parser("capacity", __doc__ or "", CASES)
    parser.add_argument(
        "--aws-endpoint",
        metavar="URL",
        help="measure n against this running server, such as LocalStack, instead of moto",
    )
    options = parser.parse_args()
    command.run(
        options, lambda running: report(options, running), aws_endpoint=options.aws_endpoint
    )


def report(options: argparse.Namespace, running: servers.Processes) -> Iterator[str]:
    # These need Django's settings, and those the servers.
    from benchmarks import capacity_cases

    cases: dict[str, Callable[[argparse.Namespace, servers.Processes], list[Cells]]] = {
        "t": capacity_cases.tasks,
        "p": capacity_cases.promos,
        "s": capacity_cases.shoppers,
        "r": capacity_cases.reserve,
        "n": capacity_cases.messages_through,
        "w": capacity_cases.clients,
    }
    rows = [row for case in options.only for row in cases[case](options, running)]
    yield f"{command.about(options)}; SNS and SQS: {options.aws_endpoint or 'moto'}."
    yield table.markdown(("what", "measured", "how"), rows, texts={"what", "how"})


if __name__ == "__main__":
    main()
