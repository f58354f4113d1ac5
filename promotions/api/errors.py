"""What the services and the database refuse, as HTTP says it."""

from functools import partial

from django.db import DataError, IntegrityError
from rest_framework import serializers, status
from rest_framework.response import Response
from rest_framework.views import APIView

from marketplace.api import refusal_responses, refused, violated
from marketplace.exceptions import Refusal
from promotions import exceptions
from promotions.models import PROMO_PRICE_BELOW_LIST_PRICE, Product

STATUS: dict[type[Refusal], int] = {
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
        return refused(exc, STATUS)
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


refusals = partial(refusal_responses, STATUS)
