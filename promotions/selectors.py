"""What reads the state: querysets for the API, and why a shopper may not reserve."""

import zoneinfo
from functools import cache
from typing import Any

from django.db.models import (
    BooleanField,
    Case,
    ExpressionWrapper,
    F,
    FloatField,
    Func,
    Model,
    Q,
    QuerySet,
    Value,
    When,
)
from django.db.models.expressions import RawSQL
from django.db.models.functions import Now

from promotions.exceptions import (
    LIST_PRICE_TOO_LOW,
    PROMO_PRICE_TOO_HIGH,
    TIME_ZONE_UNKNOWN,
    NotEligible,
    PromoNotActive,
    PromotionsError,
    TooFar,
)
from promotions.models import FlashPromo, Notification, Product, Reservation, ShopperProfile

OPEN_NOW = Q(status=FlashPromo.Status.ACTIVE, starts_at__lte=Now(), ends_at__gt=Now())


def distance_km(latitude: Any, longitude: Any) -> Func:
    """SQL for the great-circle distance in km between a promo's store and a place."""
    return Func(
        F("product__store__latitude"),
        F("product__store__longitude"),
        latitude,
        longitude,
        function="promotions_distance_km",
        output_field=FloatField(),
    )


def promos() -> QuerySet[FlashPromo]:
    """Each promo with its product and store, and `is_open`: open at this very moment."""
    return FlashPromo.objects.select_related("product__store").annotate(
        is_open=Case(When(OPEN_NOW, then=True), default=False, output_field=BooleanField())
    )


def promos_active(queryset: QuerySet[FlashPromo]) -> QuerySet[FlashPromo]:
    """The promos that are open at this very moment, those that end first in front."""
    # In the order of the index `promo_due_to_close`, which leads straight to them.
    return queryset.filter(OPEN_NOW).order_by("ends_at", "id")


def promos_inactive(queryset: QuerySet[FlashPromo]) -> QuerySet[FlashPromo]:
    return queryset.exclude(OPEN_NOW)


def promos_for_segment(queryset: QuerySet[FlashPromo], segment: str) -> QuerySet[FlashPromo]:
    return queryset.filter(Q(eligible_segments=[]) | Q(eligible_segments__contains=[segment]))


# Promos reach a few kilometres, so the stores around a place lead to most of the promos that
# may be near; those that reach farther are few. Each path has its index, together they have none.
_MAY_BE_NEAR = """
    SELECT promo.id FROM promotions_boxes(%s, %s, %s) AS near(box)
    JOIN promotions_store store ON point(store.longitude, store.latitude) <@ near.box
    JOIN promotions_product product ON product.store_id = store.id
    JOIN promotions_flashpromo promo ON promo.product_id = product.id
    WHERE promo.max_distance_km <= %s
    UNION ALL
    SELECT id FROM promotions_flashpromo WHERE max_distance_km > %s
"""
USUAL_REACH_KM = 10.0


def promos_near(queryset: QuerySet[FlashPromo], latitude: float, longitude: float) -> Any:
    """The promos that a shopper at this place is near enough for, nearest first.

    Each has `distance_km`.
    """
    reach = [USUAL_REACH_KM] * 3
    return (
        queryset.annotate(distance_km=distance_km(Value(latitude), Value(longitude)))
        .filter(
            id__in=RawSQL(_MAY_BE_NEAR, [latitude, longitude, *reach]),  # noqa: S611
            distance_km__lte=F("max_distance_km"),
        )
        .order_by("distance_km", "id")
    )


def promos_for_shopper(shopper_id: int) -> Any:
    """Each promo with `in_segment` and `in_reach` for this shopper."""
    shopper = ShopperProfile.objects.filter(pk=shopper_id).first() or ShopperProfile(
        user_id=shopper_id
    )
    return promos().annotate(
        in_segment=ExpressionWrapper(
            Q(eligible_segments=[]) | Q(eligible_segments__contains=[shopper.segment]),
            output_field=BooleanField(),
        ),
        shopper_distance_km=distance_km(
            Value(shopper.latitude, output_field=FloatField()),
            Value(shopper.longitude, output_field=FloatField()),
        ),
    )


def ineligibility(promo: Any) -> PromotionsError | None:
    """Why the shopper may not reserve; `promo` comes from `promos_for_shopper`."""
    if not promo.is_open:
        return PromoNotActive()
    if not promo.in_segment:
        return NotEligible()
    if promo.shopper_distance_km is None or promo.shopper_distance_km > promo.max_distance_km:
        return TooFar()
    return None


@cache
def time_zones() -> frozenset[str]:
    """The IANA names that a profile may give; PostgreSQL has the last word."""
    return frozenset(zoneinfo.available_timezones())


def broken_rules(row: Model) -> dict[str, Any]:
    """By field, what the database would refuse without a constraint of the model to say why."""
    match row:
        case FlashPromo() if row.promo_price >= row.product.list_price:
            return {"promo_price": PROMO_PRICE_TOO_HIGH}
        case Product() if row.pk and _has_promo_at_or_above(row):
            return {"list_price": LIST_PRICE_TOO_LOW}
        case ShopperProfile() if row.time_zone not in time_zones():
            return {"time_zone": TIME_ZONE_UNKNOWN}
    return {}


def _has_promo_at_or_above(product: Product) -> bool:
    return FlashPromo.objects.filter(
        product=product,
        status__in=[FlashPromo.Status.SCHEDULED, FlashPromo.Status.ACTIVE],
        promo_price__gte=product.list_price,
    ).exists()


def reservations_of(user_id: int) -> QuerySet[Reservation]:
    return Reservation.objects.filter(shopper_id=user_id).select_related("promo__product__store")


def notifications_of(user_id: int) -> QuerySet[Notification]:
    """A shopper's delivered notifications."""
    return Notification.objects.filter(
        shopper_id=user_id, status=Notification.Status.DELIVERED
    ).select_related("promo__product__store")


def outbox() -> dict[str, int]:
    """How many notifications wait for SNS, and how many for their delivery."""
    waiting = (Notification.Status.PENDING, Notification.Status.PUBLISHED)
    return {status: Notification.objects.filter(status=status).count() for status in waiting}
