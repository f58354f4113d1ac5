"""Rows as JSON, and JSON as rows that pass every constraint."""

from typing import Any, TypeVar

from django.contrib.auth import get_user_model
from django.db.models import Model
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from marketplace.api import ConstrainedSerializer, key_field
from promotions import selectors
from promotions.exceptions import PromoClosed
from promotions.models import FlashPromo, Notification, Product, Reservation, ShopperProfile, Store
from promotions.services.promos import OPEN_TO_CHANGE, promo_update

M = TypeVar("M", bound=Model)


class RuledSerializer(ConstrainedSerializer[M]):
    """Checks the row against every constraint, and the rules that only the database has."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        attrs = super().validate(attrs)
        if broken := selectors.broken_rules(self.merged(attrs)):
            raise serializers.ValidationError(broken)
        return attrs


class StoreSerializer(ConstrainedSerializer[Store]):
    """A place that sells."""

    owner = key_field(
        get_user_model()._default_manager.all(),
        required=False,
        allow_null=True,
        help_text=_("The number of the user who may change the store; only staff may set it."),
    )

    class Meta:
        model = Store
        fields = ("id", "name", "owner", "latitude", "longitude")
        validators = ()


class ProductSerializer(RuledSerializer[Product]):
    """What a store sells."""

    store = key_field(Store.objects.all())

    class Meta:
        model = Product
        fields = ("id", "store", "name", "list_price", "stock")
        validators = ()


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "Twenty units for two hours, for regular shoppers within 3 km",
            request_only=True,
            value={
                "product": 1,
                "promo_price": "59.90",
                "starts_at": "2030-05-01T17:00:00Z",
                "ends_at": "2030-05-01T19:00:00Z",
                "quantity": 20,
                "eligible_segments": ["regular"],
                "max_distance_km": 3,
            },
        )
    ]
)
class PromoSerializer(RuledSerializer[FlashPromo]):
    """A product at a lower price for a while, near its store."""

    product = key_field(Product.objects.select_related("store"))
    product_name = serializers.CharField(source="product.name", read_only=True)
    list_price = serializers.DecimalField(
        source="product.list_price", max_digits=12, decimal_places=2, read_only=True
    )
    store = serializers.IntegerField(source="product.store_id", read_only=True)
    store_name = serializers.CharField(source="product.store.name", read_only=True)
    is_open = serializers.BooleanField(
        read_only=True, help_text=_("Whether it can be reserved at this very moment.")
    )
    distance_km = serializers.FloatField(
        read_only=True,
        allow_null=True,
        help_text=_("From the place given as `near`; null without one."),
    )

    class Meta:
        model = FlashPromo
        fields = (
            "id",
            "product",
            "product_name",
            "store",
            "store_name",
            "list_price",
            "promo_price",
            "starts_at",
            "ends_at",
            "quantity",
            "held",
            "completed",
            "eligible_segments",
            "max_distance_km",
            "status",
            "is_open",
            "distance_km",
        )
        read_only_fields = ("status", "held", "completed")
        validators = ()

    def validate_eligible_segments(self, value: list[str]) -> list[str]:
        return sorted(set(value))

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance and self.instance.status not in OPEN_TO_CHANGE:
            raise PromoClosed
        return super().validate(attrs)

    def create(self, validated_data: dict[str, Any]) -> FlashPromo:
        return selectors.promos().get(pk=super().create(validated_data).pk)

    def update(self, instance: FlashPromo, validated_data: dict[str, Any]) -> FlashPromo:
        promo_update(instance, **validated_data)
        return selectors.promos().get(pk=instance.pk)


class ProfileSerializer(RuledSerializer[ShopperProfile]):
    """What promotions know of a shopper."""

    class Meta:
        model = ShopperProfile
        fields = (
            "segment",
            "latitude",
            "longitude",
            "phone",
            "notifications_enabled",
            "channel",
            "time_zone",
        )
        read_only_fields = ("segment",)
        validators = ()


class ReservationSerializer(serializers.ModelSerializer[Reservation]):
    """A unit held for a shopper, and what became of it."""

    product_name = serializers.CharField(source="promo.product.name")
    store_name = serializers.CharField(source="promo.product.store.name")
    promo_price = serializers.DecimalField(
        source="promo.promo_price", max_digits=12, decimal_places=2
    )

    class Meta:
        model = Reservation
        fields = (
            "id",
            "promo",
            "product_name",
            "store_name",
            "promo_price",
            "status",
            "reserved_until",
            "created_at",
            "completed_at",
        )
        read_only_fields = fields


class NotificationSerializer(serializers.ModelSerializer[Notification]):
    """A promo that the shopper was told of."""

    product_name = serializers.CharField(source="promo.product.name")
    store_name = serializers.CharField(source="promo.product.store.name")
    list_price = serializers.DecimalField(
        source="promo.product.list_price", max_digits=12, decimal_places=2
    )
    promo_price = serializers.DecimalField(
        source="promo.promo_price", max_digits=12, decimal_places=2
    )
    ends_at = serializers.DateTimeField(source="promo.ends_at")

    class Meta:
        model = Notification
        fields = (
            "id",
            "promo",
            "product_name",
            "store_name",
            "list_price",
            "promo_price",
            "ends_at",
            "local_day",
            "channel",
            "delivered_at",
        )
        read_only_fields = fields
