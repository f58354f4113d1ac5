"""Who may write: a store's owner, and staff."""

from typing import Any

from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from promotions.models import FlashPromo, Product, Store


def store_of(row: Store | Product | FlashPromo) -> Store:
    if isinstance(row, FlashPromo):
        return row.product.store
    return row.store if isinstance(row, Product) else row


class StoreOwnerOrReadOnly(BasePermission):
    """Anyone reads a row; its store's owner and staff write it."""

    def has_object_permission(self, request: Request, view: APIView, obj: Any) -> bool:
        if request.method in SAFE_METHODS or request.user.is_staff:
            return True
        return store_of(obj).owner_id == request.user.pk
