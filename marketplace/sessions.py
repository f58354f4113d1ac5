"""Whom a session stands for, also when a former key of Django's signed it.

Django's own way gives such a session a new id, which a request beside it or a WebSocket does not
learn, and that of Channels ends it: either would sign people out after scripts/rotate-secrets. Here
it goes on as it is, for as long as the former key is among DJANGO_SECRET_KEY_FALLBACKS.
"""

from functools import partial
from typing import Any

from asgiref.sync import sync_to_async
from channels.auth import AuthMiddleware
from channels.db import database_sync_to_async
from channels.sessions import CookieMiddleware, SessionMiddleware
from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
    load_backend,
    middleware,
)
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare
from django.utils.functional import SimpleLazyObject


def user_of(session: SessionBase) -> AbstractBaseUser | AnonymousUser:
    """The user who signed in; a session that a new password ended is emptied."""
    try:
        user_id = get_user_model()._meta.pk.to_python(session[SESSION_KEY])
        backend_path = session[BACKEND_SESSION_KEY]
    except KeyError:
        return AnonymousUser()
    if backend_path not in settings.AUTHENTICATION_BACKENDS:
        return AnonymousUser()
    user: AbstractBaseUser | None = load_backend(backend_path).get_user(user_id)
    if user is None:
        return AnonymousUser()
    held = session.get(HASH_SESSION_KEY, "")
    hashes = user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()
    if not any(constant_time_compare(held, known) for known in hashes):
        session.flush()
        return AnonymousUser()
    return user


class AuthenticationMiddleware(middleware.AuthenticationMiddleware):
    def process_request(self, request: HttpRequest) -> None:
        session: Any = request.session
        user: Any = SimpleLazyObject(lambda: user_of(session))
        request.user = user
        auser: Any = partial(sync_to_async(user_of), session)
        request.auser = auser


class LiveAuthMiddleware(AuthMiddleware):  # type: ignore[misc]
    """The same for WebSockets."""

    async def resolve_scope(self, scope: Any) -> None:
        scope["user"]._wrapped = await database_sync_to_async(user_of)(scope["session"])


def live(inner: Any) -> Any:
    """Cookies, session and user around a WebSocket's application."""
    return CookieMiddleware(SessionMiddleware(LiveAuthMiddleware(inner)))
