"""scripts/upgrade: a new release in the place of the one that runs."""

import argparse
import sys

from deploy.ops import cli, health, rollout, shell
from deploy.ops.deployment import PROJECT, find

DESCRIPTION = """
Puts a new release in the place of the one that runs, without an interruption: checks, backs up,
migrates the database, restarts everything one after the other, and watches it for some seconds.
When the new release does not become healthy or does not stay so, the one before runs again.
"""

EPILOG = """
RELEASE, which may be left out:
  Compose      tag of an image that is here or can be fetched (built from this source)
  bare hosts   folder of a clone (this one)
  embedded     none: what this clone holds is what runs next

HEALTHY_WITHIN in the shell: seconds that a new process has to become healthy (300)

examples:
  git pull && scripts/upgrade        the source as it is now
  scripts/upgrade 1.4.0-3f9a2c71     an image that scripts/images loaded
  scripts/rollback                   the way back
"""


def parser() -> argparse.ArgumentParser:
    made = cli.parser("upgrade", DESCRIPTION, EPILOG)
    made.add_argument("release", metavar="RELEASE", nargs="?", help="what to go to; see below")
    made.add_argument("--no-backup", action="store_true", help="without scripts/backup first")
    rollout.add_watch(made)
    made.add_argument("--yes", action="store_true", help="don't ask")
    return made


def main() -> int | None:
    arguments = parser().parse_args()
    deployment = find(arguments.on)
    changing = rollout.of(deployment)
    cli.say(deployment.describe())
    with cli.step("Checking that it is healthy"):
        changing.check()
        health.require(deployment)
    release = changing.make(arguments.release)
    before = changing.running()
    if release == before:
        cli.say(f"{release} runs already")
        return 0
    with cli.step(f"Comparing {release} with {before}"):
        plan = changing.compare(release, changing.contract())
    cli.say(plan)
    cli.confirm(f"Go from {before} to {release}?", yes=arguments.yes)
    if not arguments.no_backup:
        back_up(deployment.way)
    rollout.go(changing, release, before=before, watch=arguments.watch)
    cli.say(f"{release} runs; back to {before}: scripts/rollback")
    return 0


def back_up(way: str) -> None:
    sys.stdout.flush()
    shell.stream([str(PROJECT / "scripts" / "backup"), "--on", way], stdout=sys.stdout.buffer)


if __name__ == "__main__":
    cli.run(main)
