"""What services refuse for a reason that the caller may know."""

from django.utils.translation import gettext


class Refusal(Exception):
    """The request cannot be fulfilled."""

    # The docstring of each class is its message.
    code = "error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or gettext(self.__doc__ or type(self).__name__))
