"""The endpoints: parse, authorise, call a service or a selector, render."""

from typing import Any, cast

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import generics, mixins, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import IsAuthenticated, IsAuthenticatedOrReadOnly
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from promotions import exceptions, selectors
from promotions.api import filters, serializers
from promotions.api.errors import PromotionsErrors, refusals
from promotions.api.permissions import StoreOwnerOrReadOnly
from promotions.models import Notification, Product, Reservation, ShopperProfile, Store
from promotions.services.promos import promo_cancel
from promotions.services.reservations import (
    reservation_cancel,
    reservation_complete,
    reservation_create,
)


def caller_id(request: Request) -> int:
    """The number of the user, whom the permission has made sure of."""
    return cast(int, request.user.pk)


def documented(one: str, many: str, **described: str) -> Any:
    """Summaries for the operations of a viewset of the catalogue; `described` adds to some."""
    summaries = {
        "list": f"List {many}",
        "retrieve": f"Show a {one}",
        "create": f"Add a {one}",
        "update": f"Replace a {one}",
        "partial_update": f"Change a {one}",
        "destroy": f"Delete a {one}",
    }
    schemas = {
        name: extend_schema(summary=summary, description=described.get(name))
        for name, summary in summaries.items()
    }
    schemas["destroy"] = extend_schema(
        summary=summaries["destroy"],
        responses={
            204: None,
            409: OpenApiResponse(description=f"Something still belongs to the {one}."),
        },
    )
    return extend_schema_view(**schemas)


class CatalogueViewSet(PromotionsErrors, viewsets.ModelViewSet[Any]):
    """Read by anyone; written by the store's owner and by staff."""

    permission_classes = [IsAuthenticatedOrReadOnly, StoreOwnerOrReadOnly]
    lookup_value_converter = "int"
    #: The field that says what the row belongs to, which the caller must own as well.
    parent: str | None = None

    def check_parent(self, serializer: BaseSerializer[Any]) -> None:
        if self.parent in serializer.validated_data:
            self.check_object_permissions(self.request, serializer.validated_data[self.parent])

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        self.check_parent(serializer)
        serializer.save()

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        self.check_parent(serializer)
        serializer.save()

    def perform_destroy(self, instance: Any) -> None:
        with transaction.atomic():
            instance.delete()


@documented("store", "stores", create="The caller becomes its owner; staff may name another.")
class StoreViewSet(CatalogueViewSet):
    queryset = Store.objects.order_by("id")
    serializer_class = serializers.StoreSerializer

    def perform_create(self, serializer: BaseSerializer[Any]) -> None:
        owner = serializer.validated_data.get("owner", self.request.user)
        self.check_owner(self.request.user, owner)
        serializer.save(owner=owner)

    def perform_update(self, serializer: BaseSerializer[Any]) -> None:
        store = cast(Store, serializer.instance)
        self.check_owner(store.owner, serializer.validated_data.get("owner", store.owner))
        serializer.save()

    def check_owner(self, owner: Any, new_owner: Any) -> None:
        if new_owner != owner and not self.request.user.is_staff:
            raise PermissionDenied(_("Only staff may give a store to another owner."))


@documented("product", "products", create="In a store of the caller's own.")
class ProductViewSet(CatalogueViewSet):
    queryset = Product.objects.select_related("store").order_by("id")
    serializer_class = serializers.ProductSerializer
    filterset_class = filters.ProductFilter
    parent = "store"


CLOSED_PROMO = refusals(exceptions.PromoClosed)


@extend_schema_view(
    update=extend_schema(responses={200: serializers.PromoSerializer, **CLOSED_PROMO}),
    partial_update=extend_schema(responses={200: serializers.PromoSerializer, **CLOSED_PROMO}),
)
@documented(
    "promo",
    "promos",
    list="The newest first; the soonest to end first with `active=true`, the nearest with `near`.",
    create="For a product of the caller's own store.",
    update="While it is SCHEDULED or ACTIVE.",
    partial_update="While it is SCHEDULED or ACTIVE.",
)
class PromoViewSet(CatalogueViewSet):
    queryset = selectors.promos().order_by("-id")
    serializer_class = serializers.PromoSerializer
    filterset_class = filters.PromoFilter
    parent = "product"

    @extend_schema(
        operation_id="promos_reserve",
        summary="Reserve a unit",
        description="Holds one unit for the caller until `reserved_until`: complete it by then.",
        request=None,
        responses={
            201: serializers.ReservationSerializer,
            **refusals(
                exceptions.PromoNotActive,
                exceptions.NotEligible,
                exceptions.TooFar,
                exceptions.SoldOut,
                exceptions.AlreadyHolding,
            ),
        },
    )
    @action(detail=True, methods=["post"], permission_classes=[IsAuthenticated])
    def reserve(self, request: Request, pk: int) -> Response:
        shopper_id = caller_id(request)
        held = reservation_create(promo_id=pk, shopper_id=shopper_id)
        reservation = selectors.reservations_of(shopper_id).get(pk=held.pk)
        return Response(serializers.ReservationSerializer(reservation).data, status=201)

    @extend_schema(
        operation_id="promos_cancel",
        summary="Cancel a promo",
        description="Units already held may still be bought. Repeating it changes nothing.",
        request=None,
        responses={200: serializers.PromoSerializer, **CLOSED_PROMO},
    )
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: int) -> Response:
        promo = promo_cancel(self.get_object())
        return Response(self.get_serializer(selectors.promos().get(pk=promo.pk)).data)


CLOSED_RESERVATION = {
    200: serializers.ReservationSerializer,
    **refusals(exceptions.ReservationClosed),
}


@extend_schema_view(
    list=extend_schema(summary="List one's own reservations", description="The newest first."),
    retrieve=extend_schema(summary="Show one of one's own reservations"),
)
class ReservationViewSet(PromotionsErrors, viewsets.ReadOnlyModelViewSet[Reservation]):
    """The caller's own reservations."""

    queryset = Reservation.objects.none()
    serializer_class = serializers.ReservationSerializer
    filterset_class = filters.ReservationFilter
    lookup_value_converter = "int"

    def get_queryset(self) -> QuerySet[Reservation]:
        return selectors.reservations_of(caller_id(self.request)).order_by("-id")

    @extend_schema(
        operation_id="reservations_complete",
        summary="Buy the unit held",
        description="Before `reserved_until`. Repeating it changes nothing.",
        request=None,
        responses=CLOSED_RESERVATION,
    )
    @action(detail=True, methods=["post"])
    def complete(self, request: Request, pk: int) -> Response:
        reservation_complete(self.get_object())
        return self.retrieve(request, pk=pk)

    @extend_schema(
        operation_id="reservations_cancel",
        summary="Give the unit held back",
        description="Repeating it changes nothing.",
        request=None,
        responses=CLOSED_RESERVATION,
    )
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, pk: int) -> Response:
        reservation_cancel(self.get_object())
        return self.retrieve(request, pk=pk)


@extend_schema_view(
    list=extend_schema(
        summary="List the notifications delivered to oneself", description="The newest first."
    )
)
class NotificationViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[Notification]):
    """The caller's own notifications, once delivered."""

    queryset = Notification.objects.none()
    serializer_class = serializers.NotificationSerializer

    def get_queryset(self) -> QuerySet[Notification]:
        # At most one a day, so the day orders them, and the unique constraint's index serves.
        return selectors.notifications_of(caller_id(self.request)).order_by("-local_day")


@extend_schema_view(
    get=extend_schema(summary="Show one's own shopper profile"),
    patch=extend_schema(
        summary="Change one's own shopper profile",
        description="The segment is the marketplace's to give.",
    ),
)
class ProfileView(PromotionsErrors, generics.RetrieveUpdateAPIView[ShopperProfile]):
    """Where the caller is, and how to tell them of promos."""

    serializer_class = serializers.ProfileSerializer
    http_method_names = ["get", "patch", "head", "options"]

    def get_object(self) -> ShopperProfile:
        profile, _created = ShopperProfile.objects.get_or_create(user_id=caller_id(self.request))
        return profile
