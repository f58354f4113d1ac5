"""Every address of the site."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from marketplace.api import unknown_address
from marketplace.metrics import metrics
from marketplace.tokens import TokenRefreshView, TokenView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="api-root")),
    path("admin/", admin.site.urls),
    path("metrics", metrics, name="metrics"),
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/schema/swagger/", SpectacularSwaggerSplitView.as_view(), name="swagger"),
    path("api/auth/", include("rest_framework.urls")),
    path("api/token/", TokenView.as_view(), name="token"),
    path("api/token/refresh/", TokenRefreshView.as_view(), name="token-refresh"),
    path("api/tasks/", include("task_manager.api.urls")),
    path("api/telemetry/", include("telemetry.api.urls")),
    path("api/", include("promotions.api.urls")),
    re_path(r"^api(/|$)", unknown_address),
]

handler400 = "marketplace.api.bad_request"
handler500 = "marketplace.api.server_error"
