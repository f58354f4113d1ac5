"""The endpoints: parse, authorise, call a service or a selector, render."""

from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.db import transaction
from django.utils.translation import gettext_lazy as _
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import generics, mixins, status, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from promotions import exceptions, selectors
from promotions.api import filters, serializers
from promotions.api.errors import PromotionsErrors, refusals
from promotions.api.permissions import StoreOwnerOrReadOnly
from promotions.models import FlashPromo, Notification, Product, Reservation, ShopperProfile, Store
from promotions.services.promos import promo_cancel
from promotions.services.reservations import (
    reservation_cancel,
    reservation_complete,
    reservation_create,
)

STILL_USED = {status.HTTP_204_NO_CONTENT: None, status.HTTP_409_CONFLICT: {"description": "x"}}


class CatalogueViewSet(PromotionsErrors, viewsets.ModelViewSet[Any]):
    """Read by anyone, written by a store's owner and by staff."""

    permission_classes = [StoreOwnerOrReadOnly]

    def perform_destroy(self, instance: Any) -> None:
        with transaction.atomic():
            instance.delete()


@extend_schema_view(
    list=extend_schema(summary="Stores"),
    retrieve=extend_schema(summary="A store"),
    create=extend_schema(summary="Open a store", description="The caller becomes its owner."),
    update=extend_schema(summary="Change a store"),
    partial_update=extend_schema(summary="Change some of a store"),
    destroy=extend_schema(summary="Delete a store", description="409 while it has products."),
)
class StoreViewSet(CatalogueViewSet):
    queryset = Store.objects.order_by("id")
    serializer_class = serializers.StoreSerializer
