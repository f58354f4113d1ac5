"""JSON Web Tokens for programs; people sign in by session."""

from contextlib import suppress
from typing import Any

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt import serializers, tokens, views
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.exceptions import InvalidToken, TokenBackendError
from rest_framework_simplejwt.serializers import TokenObtainPairSerializer
from rest_framework_simplejwt.settings import api_settings

from marketplace.logins import Attempt, address_of

TOO_MANY = OpenApiResponse(description="Too many failed attempts; `Retry-After` says when again.")


class Backend(TokenBackend):
    """Signs with Django's key, and knows what former ones signed."""

    def decode(self, token: Any, verify: bool = True) -> dict[str, Any]:
        try:
            return super().decode(token, verify)
        except TokenBackendError:
            for key in settings.SECRET_KEY_FALLBACKS:
                with suppress(TokenBackendError):
                    return TokenBackend(self.algorithm, key).decode(token, verify)
            raise


backend = Backend(api_settings.ALGORITHM, api_settings.SIGNING_KEY)


class AccessToken(tokens.AccessToken):
    _token_backend = backend


class RefreshToken(tokens.RefreshToken):
    _token_backend = backend
    access_token_class = AccessToken


class TokenRefreshSerializer(serializers.TokenRefreshSerializer):
    token_class = RefreshToken


@extend_schema(
    summary="Get a token",
    description="Send it as `Authorization: Bearer …`. It lasts for 15 minutes.",
    responses={
        200: TokenObtainPairSerializer,
        401: OpenApiResponse(description="No active account has this name and password."),
        429: TOO_MANY,
    },
)
class TokenView(views.TokenObtainPairView):
    pass


@extend_schema(
    summary="Get a new token by the refresh token",
    description="Without the password, for a day after the first one.",
    responses={
        200: TokenRefreshSerializer,
        401: OpenApiResponse(description="The refresh token is not valid, or not any more."),
        429: TOO_MANY,
    },
)
class TokenRefreshView(views.TokenRefreshView):
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        address = address_of(request)
        attempt = Attempt.by_token(address)
        attempt.check(address)
        try:
            return super().post(request, *args, **kwargs)
        except AuthenticationFailed:
            attempt.failed()
            raise
        except ObjectDoesNotExist:  # the user was deleted, which simplejwt does not expect
            raise InvalidToken from None
