"""The addresses under `/api/` of stores, products, promos and what shoppers have of them."""

from django.urls import path
from rest_framework.permissions import AllowAny
from rest_framework.routers import APIRootView, DefaultRouter

from promotions.api import views


class Root(APIRootView):
    """Flash promos near the shopper: browse, reserve, complete."""

    permission_classes = [AllowAny]


class Router(DefaultRouter):
    APIRootView = Root
    include_format_suffixes = False


router = Router(use_regex_path=False)
router.register("stores", views.StoreViewSet)
router.register("products", views.ProductViewSet)
router.register("promos", views.PromoViewSet)
router.register("reservations", views.ReservationViewSet)
router.register("notifications", views.NotificationViewSet)

urlpatterns = [path("profile/", views.ProfileView.as_view(), name="profile"), *router.urls]
