"""What the services and the database refuse, as HTTP says it."""

from typing import Any

from django.db import DataError, IntegrityError
from django.utils.translation import gettext_lazy as _
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

PROMO_PRICE_TOO_HIGH = _("The promo price must be below the product's list price.")
LIST_PRICE_TOO_LOW = _("The list price must be above the price of each promo to come or open.")
TIME_ZONE_UNKNOWN = _("Use the IANA name of a time zone, such as America/Mexico_City.")


def translated(exc: Exception) -> Exception:
    if isinstance(exc, exceptions.PromotionsError):
        refusal = APIException(str(exc), code=exc.code)
        refusal.status_code = STATUS[type(exc)]
        return refusal
    sqlstate, table, constraint = violated(exc)
    if isinstance(exc, IntegrityError) and constraint == PROMO_PRICE_BELOW_LIST_PRICE:
        if table == Product._meta.db_table:
            return serializers.ValidationError({"list_price": [LIST_PRICE_TOO_LOW]})
        return serializers.ValidationError({"promo_price": [PROMO_PRICE_TOO_HIGH]})
    if isinstance(exc, DataError) and sqlstate == "22023":  # the check of the time zone's name
        return serializers.ValidationError({"time_zone": [TIME_ZONE_UNKNOWN]})
    return exc


class PromotionsErrors(APIView):
    """A view whose services may refuse."""

    def handle_exception(self, exc: Exception) -> Response:
        return super().handle_exception(translated(exc))


def refusals(*errors: type[exceptions.PromotionsError]) -> dict[int, Any]:
    """OpenAPI responses for these errors, each with its docstring."""
    from drf_spectacular.utils import OpenApiResponse

    texts: dict[int, list[str]] = {}
    for error in errors:
        texts.setdefault(STATUS[error], []).append(f"`{error.code}`: {error.__doc__}")
    return {
        code: OpenApiResponse(description="\n\n".join(lines)) for code, lines in texts.items()
    }
