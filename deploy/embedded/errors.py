"""What ends a command with one clear line."""


class QuickstartError(Exception):
    """The command cannot go on; the message says why and what helps."""


class ProgramError(QuickstartError):
    """A step failed and the log of `program` tells more."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(message)
        self.program = program
