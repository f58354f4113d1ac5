"""What the services and the database refuse, as HTTP says it."""

from typing import Any

from django.db import DataError, IntegrityError
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers, status
from rest_framework.exceptions import APIException
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.api import violated
from promotions import exceptions
from promotions.models import PROMO_PRICE_BELOW_LIST_PRICE, Product

STATUS: dict[type[exceptions.PromotionsError], int] = {
    exceptions.PromoNotActive: status.HTTP_400_BAD_REQUEST,
    exceptions.NotEligible: status.HTTP_403_FORBIDDEN,
    exceptions.TooFar: status.HTTP_403_FORBIDDEN,
    exceptions.SoldOut: status.HTTP_409_CONFLICT,
    exceptions.AlreadyHolding: status.HTTP_409_CONFLICT,
    exceptions.ReservationClosed: status.HTTP_409_CONFLICT,
    exceptions.PromoClosed: status.HTTP_409_CONFLICT,
}


def translated(exc: Exception) -> Exception:
    if isinstance(exc, exceptions.PromotionsError):
        refusal = APIException(str(exc), code=exc.code)
        refusal.status_code = STATUS[type(exc)]
        return refusal
    sqlstate, table, constraint = violated(exc)
    if isinstance(exc, IntegrityError) and constraint == PROMO_PRICE_BELOW_LIST_PRICE:
        if table == Product._meta.db_table:
            return serializers.ValidationError({"list_price": [exceptions.LIST_PRICE_TOO_LOW]})
        return serializers.ValidationError({"promo_price": [exceptions.PROMO_PRICE_TOO_HIGH]})
    if isinstance(exc, DataError) and sqlstate == "22023":  # the check of the time zone's name
        return serializers.ValidationError({"time_zone": [exceptions.TIME_ZONE_UNKNOWN]})
    return exc


class PromotionsErrors(APIView):
    """A view whose services may refuse."""

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(translated(exc))


def refusals(*errors: type[exceptions.PromotionsError]) -> dict[int, Any]:
    """OpenAPI responses for these errors, each with its docstring."""
    texts: dict[int, list[str]] = {}
    for error in errors:
        texts.setdefault(STATUS[error], []).append(f"`{error.code}`: {error.__doc__}")
    return {code: OpenApiResponse(description="\n\n".join(lines)) for code, lines in texts.items()}
