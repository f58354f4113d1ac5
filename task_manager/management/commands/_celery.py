"""What the commands share that become one of Celery's programs."""

import os
import sys
from typing import NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

LEVELS = ["debug", "info", "warning", "error", "critical"]


class UsageError(CommandError):
    """The command was called wrongly; as with argparse's own, the exit code is 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, returncode=2)


class CeleryCommand(BaseCommand):
    """Becomes the program, in place: signals reach it as if it had been called itself."""

    requires_system_checks = ()  # Celery makes them

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--loglevel", type=str.lower, choices=LEVELS, default="info")
        parser.add_argument(
            "more", nargs="*", metavar="OPTION", help="further options of Celery's, after --"
        )

    def become(self, program: str, *options: str) -> NoReturn:
        self.stdout.flush()
        workdir = ["--workdir", str(settings.BASE_DIR)]
        command = [sys.executable, "-m", "celery", *workdir, "-A", "marketplace", program]
        os.execvp(sys.executable, [*command, *options])  # noqa: S606  no shell is wanted
