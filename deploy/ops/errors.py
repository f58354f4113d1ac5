"""What ends a command with one clear line."""


class OpsError(Exception):
    """The command cannot go on; the message says why and what helps. Exit code 1."""

    code = 1


class UsageError(OpsError):
    """It was called wrongly. Exit code 2."""

    code = 2


class NotRunning(OpsError):
    """There is nothing here to work on, or not enough of it runs. Exit code 3."""

    code = 3
