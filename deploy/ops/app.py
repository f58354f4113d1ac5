"""`scripts/app`: any command with the application's code and variables."""

import argparse

from deploy.ops import cli, deployment, shell
from deploy.ops.errors import UsageError

DESCRIPTION = """\
Runs a command where the application runs, with its code, packages and variables: in a container of
it under Compose, as its user on a bare host, with its own Python everywhere.
"""
EPILOG = """\
examples:
  scripts/app python manage.py shell
  scripts/app celery -A marketplace inspect active
  scripts/app python manage.py createsuperuser
"""
CODES = "exit codes: the command's own; 2 called wrongly; 3 nothing runs here"


def parser() -> argparse.ArgumentParser:
    root = cli.parser("app", DESCRIPTION, EPILOG, CODES)
    root.add_argument("command", metavar="COMMAND", help="python, celery or another program")
    root.add_argument("arguments", metavar="…", nargs=argparse.REMAINDER, help="of the command")
    return root


def main() -> None:
    options = parser().parse_args()
    if options.command.startswith("-"):
        raise UsageError(f"{options.command}: expected a command, as in scripts/app python …")
    found = deployment.find(options.on)
    command = found.application(options.command, *options.arguments, interactive=True)
    shell.become(command, found.environment())


if __name__ == "__main__":
    cli.run(main)
