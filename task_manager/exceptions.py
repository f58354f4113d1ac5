"""What can go wrong for a reason that the caller may know. The docstring is the message."""

from marketplace.exceptions import Refusal


class TaskManagerError(Refusal):
    """The request cannot be fulfilled."""


class AlreadyFinished(TaskManagerError):
    """The task has ended already."""

    code = "already_finished"


class UnknownTask(TaskManagerError):
    """No task of this name is known here."""

    code = "unknown_task"


class LetterClosed(TaskManagerError):
    """The dead letter was requeued or discarded already."""

    code = "letter_closed"


class ArgumentsRefused(TaskManagerError):
    """The task does not take these arguments any more."""

    code = "arguments_refused"
