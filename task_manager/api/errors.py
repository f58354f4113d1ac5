"""What all endpoints of tasks share: who is trusted, and what services refuse as HTTP says it."""

from typing import Any

from drf_spectacular.utils import OpenApiResponse
from kombu.exceptions import OperationalError as BrokerError
from redis import RedisError
from rest_framework import status
from rest_framework.exceptions import APIException
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_simplejwt.authentication import JWTAuthentication

from marketplace.api import Unavailable
from task_manager import exceptions
from task_manager.api.authentication import SameOriginSessionAuthentication

STATUS: dict[type[exceptions.TaskManagerError], int] = {
    exceptions.AlreadyFinished: status.HTTP_409_CONFLICT,
    exceptions.UnknownTask: status.HTTP_409_CONFLICT,
    exceptions.LetterClosed: status.HTTP_409_CONFLICT,
    exceptions.ArgumentsRefused: status.HTTP_409_CONFLICT,
}


def translated(exc: Exception) -> Exception:
    match exc:
        case exceptions.TaskManagerError():
            refusal = APIException(str(exc), code=exc.code)
            refusal.status_code = STATUS[type(exc)]
            return refusal
        case RedisError() | BrokerError():
            return Unavailable()
    return exc


class TaskManagerView(APIView):
    """A view of tasks."""

    # JWT first: its WWW-Authenticate header makes an anonymous call a 401.
    authentication_classes = [JWTAuthentication, SameOriginSessionAuthentication]

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(translated(exc))


def refusals(*errors: type[exceptions.TaskManagerError]) -> dict[int, Any]:
    """OpenAPI responses for these errors, each with its docstring."""
    texts: dict[int, list[str]] = {}
    for error in errors:
        texts.setdefault(STATUS[error], []).append(f"`{error.code}`: {error.__doc__}")
    return {code: OpenApiResponse(description="\n\n".join(lines)) for code, lines in texts.items()}
