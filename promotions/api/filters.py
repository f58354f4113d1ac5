"""The query parameters of the listings; a wrong one says what would be right."""

from typing import Any

from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from django_filters import rest_framework as filters  # type: ignore[import-untyped]
from drf_spectacular.utils import extend_schema_field

from marketplace.filters import NumberFilter, choice_error
from promotions import selectors
from promotions.models import FlashPromo, Product, Reservation, ReservationStatus, Segment

Place = tuple[float, float]


class PlaceField(forms.Field):
    """`latitude,longitude` in degrees."""

    def to_python(self, value: str | None) -> Place | None:
        if not value:
            return None
        try:
            latitude, longitude = map(float, value.split(","))
        except ValueError:
            latitude = longitude = float("nan")
        if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):  # nan is refused here too
            raise forms.ValidationError(
                _("Use latitude,longitude in degrees, such as 19.4326,-99.1332.")
            )
        return latitude, longitude


class PlaceFilter(filters.Filter):  # type: ignore[misc]
    field_class = PlaceField


class StoreFilter(NumberFilter):
    def __init__(self, field_name: str) -> None:
        super().__init__(
            field_name,
            label=_("Store"),
            help_text=_("The number of a store."),
            min_value=1,
            error_messages=dict.fromkeys(
                ("invalid", "min_value"), _("Use the number of a store, such as 1.")
            ),
        )


class PromoFilter(filters.FilterSet):  # type: ignore[misc]
    active = extend_schema_field(
        {"type": "boolean", "description": "Open at this very moment, or not."}
    )(
        filters.ChoiceFilter(
            method="by_active",
            label=_("Active"),
            choices=[("true", "true"), ("false", "false")],
            error_messages=choice_error(["true", "false"]),
        )
    )
    segment = filters.ChoiceFilter(
        method="by_segment",
        label=_("Segment"),
        choices=Segment.choices,
        error_messages=choice_error(Segment.values),
        help_text=_("Open to shoppers of this segment."),
    )
    near = extend_schema_field(
        {
            "type": "string",
            "pattern": r"^-?(90|[1-8]?\d(\.\d+)?),-?(180|(1[0-7]\d|[1-9]?\d)(\.\d+)?)$",
            "example": "19.4326,-99.1332",
            "description": "latitude,longitude in degrees: the promos whose store is near enough "
            "to this place, by each promo's own greatest distance, nearest first.",
        }
    )(PlaceFilter(method="by_place", label=_("Near (latitude,longitude)")))
    store = StoreFilter("product__store")

    class Meta:
        model = FlashPromo
        fields: list[str] = []

    def by_active(self, promos: QuerySet[FlashPromo], name: str, value: Any) -> Any:
        return (
            selectors.promos_active(promos)
            if value == "true"
            else selectors.promos_inactive(promos)
        )

    def by_segment(self, promos: QuerySet[FlashPromo], name: str, value: Any) -> Any:
        return selectors.promos_for_segment(promos, value)

    def by_place(self, promos: QuerySet[FlashPromo], name: str, value: Any) -> Any:
        return selectors.promos_near(promos, *value)


class ProductFilter(filters.FilterSet):  # type: ignore[misc]
    store = StoreFilter("store")

    class Meta:
        model = Product
        fields: list[str] = []


class ReservationFilter(filters.FilterSet):  # type: ignore[misc]
    status = filters.ChoiceFilter(
        choices=ReservationStatus.choices,
        error_messages=choice_error(ReservationStatus.values),
    )

    class Meta:
        model = Reservation
        fields: list[str] = []
