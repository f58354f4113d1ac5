"""`scripts/dead-letters`: the tasks that failed for good."""

import argparse
import sys

from deploy.ops import cli, deployment

DESCRIPTION = """\
The tasks that used up their retries or took down their workers, kept with all it takes to run them
again.
"""
EPILOG = """\
examples:
  scripts/dead-letters list --task promotions.tasks.notify_shoppers
  scripts/dead-letters requeue 41 42
  scripts/dead-letters discard --all
"""


def parser() -> argparse.ArgumentParser:
    root = cli.parser("dead-letters", DESCRIPTION, EPILOG)
    actions = root.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    listing = actions.add_parser("list", help="show them, the oldest first")
    listing.add_argument(
        "--status",
        type=str.upper,
        choices=["WAITING", "REQUEUED", "DISCARDED", "ANY"],
        help="those of this status (WAITING)",
    )
    listing.add_argument("--json", action="store_true", help="as a JSON list, with everything")
    requeue = actions.add_parser("requeue", help="run their tasks again")
    discard = actions.add_parser("discard", help="give them up; asks before it does")
    discard.add_argument("--yes", action="store_true", help="do not ask")
    for action in (requeue, discard):
        action.add_argument(
            "ids", nargs="*", metavar="ID", help="a dead letter's number, or its task's id"
        )
        action.add_argument("--all", action="store_true", help="all that wait")
    for action in (listing, requeue, discard):
        action.add_argument("--task", metavar="NAME", help="all of this task")
    return root


def main() -> None:
    options = parser().parse_args()
    found = deployment.find(options.on)
    found.become_manage("dead_letters", *cli.without_on(sys.argv[1:]))


if __name__ == "__main__":
    cli.run(main)
