"""`scripts/run-task`: a task, now."""

import argparse
import sys

from deploy.ops import cli, deployment

DESCRIPTION = """\
Publishes a task, which the next free worker of its queue runs, and prints its id. A name or
arguments that the task does not take are refused before.
"""
EPILOG = """\
examples:
  scripts/run-task promotions.tasks.check_active_promos --wait 60
  scripts/run-task shop.tasks.wrap --args '[1, "two"]' --kwargs '{"colour": "red"}'

A wrong name is answered with the names like it, or with all of them.
"""


def parser() -> argparse.ArgumentParser:
    root = cli.parser("run-task", DESCRIPTION, EPILOG)
    root.add_argument("name", metavar="NAME", help="Celery's, or the one given by track_task")
    root.add_argument("--args", metavar="JSON", help="its arguments, a list")
    root.add_argument("--kwargs", metavar="JSON", help="its named arguments, an object")
    root.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        nargs="?",
        help="wait for its result and print it, at most this long; without a number until it comes",
    )
    return root


def main() -> None:
    options = parser().parse_args()
    deployment.find(options.on).become_manage("run_task", *cli.without_on(sys.argv[1:]))


if __name__ == "__main__":
    cli.run(main)
