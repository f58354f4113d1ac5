"""What all endpoints of tasks share: who is trusted, and what services refuse as HTTP says it."""

from functools import partial

from kombu.exceptions import OperationalError as BrokerError
from redis import RedisError
from rest_framework import status
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework_simplejwt.authentication import JWTAuthentication

from marketplace.api import Unavailable, refusal_responses, refused
from marketplace.exceptions import Refusal
from task_manager import exceptions
from task_manager.api.authentication import SameOriginSessionAuthentication

STATUS: dict[type[Refusal], int] = {
    exceptions.AlreadyFinished: status.HTTP_409_CONFLICT,
    exceptions.UnknownTask: status.HTTP_409_CONFLICT,
    exceptions.LetterClosed: status.HTTP_409_CONFLICT,
    exceptions.ArgumentsRefused: status.HTTP_409_CONFLICT,
}


def translated(exc: Exception) -> Exception:
    match exc:
        case exceptions.TaskManagerError():
            return refused(exc, STATUS)
        case RedisError() | BrokerError():
            return Unavailable()
    return exc


class TaskManagerView(APIView):
    """A view of tasks."""

    # JWT first: its WWW-Authenticate header makes an anonymous call a 401.
    authentication_classes = [JWTAuthentication, SameOriginSessionAuthentication]

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(translated(exc))


refusals = partial(refusal_responses, STATUS)
