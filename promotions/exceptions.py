"""What can go wrong for a reason that the caller may know. The docstring is the message."""

from django.utils.translation import gettext_lazy

from marketplace.exceptions import Refusal

# What the database refuses without a constraint of a model that could say why.
PROMO_PRICE_TOO_HIGH = gettext_lazy("The promo price must be below the product's list price.")
LIST_PRICE_TOO_LOW = gettext_lazy(
    "The list price must be above the price of each promo that is scheduled or active."
)
TIME_ZONE_UNKNOWN = gettext_lazy("Use the IANA name of a time zone, such as America/Mexico_City.")


class PromotionsError(Refusal):
    """The request cannot be fulfilled."""


class PromoNotActive(PromotionsError):
    """The promo is not active."""

    code = "promo_not_active"


class NotEligible(PromotionsError):
    """The promo is not open to your segment."""

    code = "not_eligible"


class TooFar(PromotionsError):
    """You are too far from the store, or your profile gives no place."""

    code = "too_far"


class SoldOut(PromotionsError):
    """Every unit of the promo is held or sold."""

    code = "sold_out"


class AlreadyHolding(PromotionsError):
    """You already hold a unit of this promo."""

    code = "already_holding"


class ReservationClosed(PromotionsError):
    """The reservation is no longer held."""

    code = "reservation_closed"


class PromoClosed(PromotionsError):
    """The promo is over."""

    code = "promo_closed"
