"""The admin: everything to see, and to change only what no task, service or trigger owns."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Field, QuerySet
from django.http import HttpRequest
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from marketplace.api import BoundedPaginator
from promotions import selectors
from promotions.exceptions import PromoClosed
from promotions.models import (
    FlashPromo,
    Notification,
    Product,
    Reservation,
    Segment,
    ShopperProfile,
    Store,
)
from promotions.services.notifications import notifications_retry
from promotions.services.promos import OPEN_TO_CHANGE, promo_update, promos_cancel

admin.site.site_header = admin.site.site_title = "Flash Promos"


class RuledForm(forms.ModelForm):  # type: ignore[type-arg]
    """Checks the whole row, the fields that the form does not show included."""

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            self.instance.validate_constraints()
            if broken := selectors.broken_rules(self.instance):
                raise ValidationError(broken)
        except ValidationError as error:
            self.add_error(None, error)


class PromotionsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Listings that stay fast on millions of rows."""

    form = RuledForm
    ordering = ("-pk",)
    paginator = BoundedPaginator
    show_full_result_count = False


class ReadOnlyAdmin(PromotionsAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Store)
class StoreAdmin(PromotionsAdmin):
    list_display = ("name", "owner", "latitude", "longitude")
    list_select_related = ("owner",)
    search_fields = ("name", "owner__username")
    autocomplete_fields = ("owner",)


@admin.register(Product)
class ProductAdmin(PromotionsAdmin):
    list_display = ("name", "store", "list_price", "stock")
    list_select_related = ("store",)
    search_fields = ("name", "store__name")
    autocomplete_fields = ("store",)


@admin.register(ShopperProfile)
class ShopperProfileAdmin(PromotionsAdmin):
    list_display = ("user", "segment", "channel", "notifications_enabled", "time_zone")
    list_select_related = ("user",)
    list_filter = ("segment", "channel", "notifications_enabled")
    search_fields = ("user__username", "user__email", "phone")
    readonly_fields = ("user",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # each user has one from the start


class FlashPromoForm(RuledForm):
    def clean_eligible_segments(self) -> list[str]:
        return sorted(self.cleaned_data["eligible_segments"])


@admin.register(FlashPromo)
class FlashPromoAdmin(PromotionsAdmin):
    form = FlashPromoForm
    list_display = (
        "product",
        "store",
        "status",
        "promo_price",
        "starts_at",
        "ends_at",
        "quantity",
        "held",
        "completed",
    )
    list_select_related = ("product__store",)
    list_filter = ("status",)
    search_fields = ("product__name", "product__store__name")
    autocomplete_fields = ("product",)
    readonly_fields = ("status", "held", "completed")
    actions = ("cancel",)

    @admin.display(description=_("store"))
    def store(self, promo: FlashPromo) -> Store:
        return promo.product.store

    def formfield_for_dbfield(
        self, db_field: "Field[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> Any:
        if db_field.name != "eligible_segments":
            return super().formfield_for_dbfield(db_field, request, **kwargs)
        return forms.MultipleChoiceField(
            label=capfirst(db_field.verbose_name),
            help_text=db_field.help_text,
            choices=Segment.choices,
            widget=forms.CheckboxSelectMultiple,
            required=False,
        )

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        closed = obj is not None and obj.status not in OPEN_TO_CHANGE
        return not closed and super().has_change_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: FlashPromo, form: Any, change: bool) -> None:
        if not change:
            obj.save()
            return
        try:
            promo_update(obj, **{name: form.cleaned_data[name] for name in form.changed_data})
        except PromoClosed as error:  # since the request began
            raise PermissionDenied from error

    @admin.action(description=_("Cancel the selected promos"), permissions=["change"])
    def cancel(self, request: HttpRequest, promos: QuerySet[FlashPromo]) -> None:
        count = promos_cancel(promos)
        message = ngettext("%(count)d promo cancelled.", "%(count)d promos cancelled.", count)
        messages.success(request, message % {"count": count})


@admin.register(Reservation)
class ReservationAdmin(ReadOnlyAdmin):
    list_display = ("promo", "shopper", "status", "reserved_until", "created_at", "completed_at")
    list_select_related = ("promo__product", "shopper")
    list_filter = ("status",)
    search_fields = ("shopper__username", "promo__product__name")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # no sale is ever lost


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    list_display = (
        "promo",
        "shopper",
        "status",
        "local_day",
        "channel",
        "attempts",
        "published_at",
        "delivered_at",
    )
    list_select_related = ("promo__product", "shopper")
    list_filter = ("status", "channel")
    search_fields = ("shopper__username", "promo__product__name")
    actions = ("publish_again",)

    def has_publish_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("promotions.change_notification")

    @admin.action(description=_("Publish the failed ones again"), permissions=["publish"])
    def publish_again(self, request: HttpRequest, notifications: QuerySet[Notification]) -> None:
        count = notifications_retry(notifications)
        message = ngettext(
            "%(count)d notification will be published again.",
            "%(count)d notifications will be published again.",
            count,
        )
        messages.success(request, message % {"count": count})
