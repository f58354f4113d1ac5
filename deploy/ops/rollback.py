"""scripts/rollback: a release that ran before in the place of the one that runs."""

import argparse

from deploy.ops import cli, rollout
from deploy.ops.deployment import find
from deploy.ops.errors import OpsError, UsageError

DESCRIPTION = """
Goes back to the release that ran before, without an interruption, and watches it for some seconds.
The code alone goes back. The database stays as the newer release made it, which the one before
lives with (docs/upgrading.md); scripts/restore brings older data back.
"""

EPILOG = """
examples:
  scripts/rollback --list
  scripts/rollback
  scripts/rollback flash-promos:1.3.0-81bc04d2
"""


def parser() -> argparse.ArgumentParser:
    made = cli.parser("rollback", DESCRIPTION, EPILOG)
    made.add_argument("release", metavar="RELEASE", nargs="?", help="the one before by default")
    made.add_argument("--list", action="store_true", help="the releases that ran, and nothing else")
    rollout.add_watch(made)
    made.add_argument("--yes", action="store_true", help="don't ask")
    return made


def main() -> int | None:
    arguments = parser().parse_args()
    deployment = find(arguments.on)
    changing = rollout.of(deployment)
    names = changing.history.read()
    if arguments.list:
        show(names)
        return 0
    changing.check()
    release = chosen(names, arguments.release)
    changing.require(release)
    before = changing.running()
    if release == before:
        raise UsageError(f"{release} is what runs")
    cli.confirm(f"Go back from {before} to {release}?", yes=arguments.yes)
    rollout.go(changing, release, before=before, watch=arguments.watch)
    cli.say(f"{release} runs")
    return 0


def show(names: list[str]) -> None:
    if not names:
        cli.say("scripts/upgrade has put no release here yet")
    for name in names:
        cli.say(f"{name}{'  runs' if name == names[-1] else ''}")


def chosen(names: list[str], wanted: str | None) -> str:
    if len(names) < 2:
        raise OpsError("there is no release to go back to: scripts/upgrade has put none here yet")
    if wanted is None:
        return names[-2]
    matching = [name for name in names if wanted in (name, name.rpartition(":")[2])]
    if not matching:
        raise UsageError(f"{wanted} did not run here; these did: {', '.join(names)}")
    return matching[0]


if __name__ == "__main__":
    cli.run(main)
