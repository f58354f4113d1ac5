"""JSON Web Tokens for programs; people sign in by session."""

from typing import Any

from django.core.exceptions import ObjectDoesNotExist
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework_simplejwt import views
from rest_framework_simplejwt.exceptions import InvalidToken
from rest_framework_simplejwt.serializers import TokenObtainPairSerializer, TokenRefreshSerializer


@extend_schema(
    summary="Get a token",
    description="Send it as `Authorization: Bearer …`. It lasts for 15 minutes.",
    responses={
        200: TokenObtainPairSerializer,
        401: OpenApiResponse(description="No active account has this name and password."),
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
    },
)
class TokenRefreshView(views.TokenRefreshView):
    def post(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        try:
            return super().post(request, *args, **kwargs)
        except ObjectDoesNotExist:  # the user was deleted, which simplejwt does not expect
            raise InvalidToken from None
