"""Tables, states and the constraints that make an invalid row impossible.

The migrations add what Django cannot say: triggers that keep `FlashPromo.held` and `completed`
equal to its reservations and a promo's price below the product's list price, and the SQL
functions `promotions_distance_km` and `promotions_boxes`.
"""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GistIndex
from django.db import models
from django.db.models import F, Func, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

PROMO_PRICE_BELOW_LIST_PRICE = "promo_price_below_list_price"


class Segment(models.TextChoices):
    NEW = "new", _("new")
    FREQUENT = "frequent", _("frequent")
    REGULAR = "regular", _("regular")


class Channel(models.TextChoices):
    IN_APP = "in_app", _("in-app")
    EMAIL = "email", _("e-mail")


class PromoStatus(models.TextChoices):
    SCHEDULED = "SCHEDULED", _("scheduled")
    ACTIVE = "ACTIVE", _("active")
    EXPIRED = "EXPIRED", _("expired")
    CANCELLED = "CANCELLED", _("cancelled")
    ARCHIVED = "ARCHIVED", _("archived")


class ReservationStatus(models.TextChoices):
    HELD = "HELD", _("held")
    COMPLETED = "COMPLETED", _("completed")
    EXPIRED = "EXPIRED", _("expired")
    CANCELLED = "CANCELLED", _("cancelled")


class NotificationStatus(models.TextChoices):
    PENDING = "PENDING", _("pending")
    PUBLISHED = "PUBLISHED", _("published")
    DELIVERED = "DELIVERED", _("delivered")
    FAILED = "FAILED", _("failed")


def _choices(field: str, choices: type[models.TextChoices], name: str) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=Q(**{f"{field}__in": choices.values}),
        name=name,
        violation_error_message=_("Not one of the known values."),
    )


def _degrees(field: str, limit: int, name: str) -> models.CheckConstraint:
    message = {
        90: _("The latitude must be between -90 and 90 degrees."),
        180: _("The longitude must be between -180 and 180 degrees."),
    }[limit]
    return models.CheckConstraint(
        condition=Q(**{f"{field}__gte": -limit, f"{field}__lte": limit}),
        name=name,
        violation_error_message=message,
    )


def _point_index(name: str, condition: Q | None = None) -> GistIndex:
    """The spatial index: core PostgreSQL's GiST on points, searched with `promotions_boxes`."""
    point = Func(F("longitude"), F("latitude"), function="point", output_field=models.Field())
    return GistIndex(point, name=name, condition=condition)


class Store(models.Model):
    name = models.CharField(_("name"), max_length=200)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("owner"),
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="stores",
        help_text=_("Who may change the store and its promos; staff may always."),
    )
    latitude = models.FloatField(_("latitude"), help_text=_("Degrees north, -90 to 90."))
    longitude = models.FloatField(_("longitude"), help_text=_("Degrees east, -180 to 180."))

    class Meta:
        verbose_name = _("store")
        verbose_name_plural = _("stores")
        constraints = [
            _degrees("latitude", 90, "store_latitude_in_range"),
            _degrees("longitude", 180, "store_longitude_in_range"),
            models.UniqueConstraint(
                fields=["name", "latitude", "longitude"],
                name="store_name_and_place_unique",
                violation_error_message=_("A store of this name exists at this place."),
            ),
        ]
        indexes = [_point_index("store_point")]

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    store = models.ForeignKey(
        Store, verbose_name=_("store"), on_delete=models.PROTECT, related_name="products"
    )
    name = models.CharField(_("name"), max_length=200)
    list_price = models.DecimalField(_("list price"), max_digits=12, decimal_places=2)
    stock = models.IntegerField(
        _("stock"),
        default=0,
        db_default=0,
        help_text=_("Units in the store. A promo's quantity is an allotment of its own."),
    )

    class Meta:
        verbose_name = _("product")
        verbose_name_plural = _("products")
        constraints = [
            models.UniqueConstraint(
                fields=["store", "name"],
                name="product_name_unique_in_store",
                violation_error_message=_("The store has a product of this name."),
            ),
            models.CheckConstraint(
                # The upper end keeps NaN out, which PostgreSQL sorts above every number.
                condition=Q(list_price__gt=0, list_price__lt=10**10),
                name="product_list_price_positive",
                violation_error_message=_("The list price must be above 0."),
            ),
            models.CheckConstraint(
                condition=Q(stock__gte=0),
                name="product_stock_not_negative",
                violation_error_message=_("The stock cannot be below 0."),
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ShopperProfile(models.Model):
    """What promotions know of a user; each user has one from the start."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        primary_key=True,
        on_delete=models.CASCADE,
        related_name="shopper_profile",
    )
    segment = models.CharField(
        _("segment"),
        max_length=10,
        choices=Segment.choices,
        default=Segment.NEW,
        db_default=Segment.NEW,
    )
    latitude = models.FloatField(_("latitude"), null=True, blank=True)
    longitude = models.FloatField(_("longitude"), null=True, blank=True)
    phone = models.CharField(_("phone"), max_length=30, blank=True, default="", db_default="")
    notifications_enabled = models.BooleanField(
        _("notifications"), default=True, db_default=True, help_text=_("Told of flash promos.")
    )
    channel = models.CharField(
        _("channel"),
        max_length=10,
        choices=Channel.choices,
        default=Channel.IN_APP,
        db_default=Channel.IN_APP,
    )
    time_zone = models.CharField(
        _("time zone"),
        max_length=64,
        default="UTC",
        db_default="UTC",
        help_text=_("IANA name, such as America/Mexico_City."),
    )

    class Meta:
        verbose_name = _("shopper profile")
        verbose_name_plural = _("shopper profiles")
        constraints = [
            _choices("segment", Segment, "shopper_segment_known"),
            _choices("channel", Channel, "shopper_channel_known"),
            _degrees("latitude", 90, "shopper_latitude_in_range"),
            _degrees("longitude", 180, "shopper_longitude_in_range"),
            models.CheckConstraint(
                condition=Q(latitude__isnull=True, longitude__isnull=True)
                | Q(latitude__isnull=False, longitude__isnull=False),
                name="shopper_place_whole",
                violation_error_message=_("Give both latitude and longitude, or neither."),
            ),
        ]
        # Only a fan-out searches shoppers by place, and it passes over those who want no news.
        indexes = [_point_index("shopper_point", Q(notifications_enabled=True))]

    def __str__(self) -> str:
        return str(self.user)


class FlashPromo(models.Model):
    Status = PromoStatus

    product = models.ForeignKey(
        Product,
        verbose_name=_("product"),
        on_delete=models.PROTECT,
        related_name="promos",
        db_index=False,  # the unique constraint's index serves
    )
    promo_price = models.DecimalField(_("promo price"), max_digits=12, decimal_places=2)
    starts_at = models.DateTimeField(_("starts at"))
    ends_at = models.DateTimeField(_("ends at"))
    quantity = models.IntegerField(_("quantity"), help_text=_("Units on offer."))
    eligible_segments = ArrayField(
        models.CharField(max_length=10, choices=Segment.choices),
        verbose_name=_("eligible segments"),
        default=list,
        blank=True,
        help_text=_("Empty means all."),
    )
    max_distance_km = models.FloatField(
        _("greatest distance in km"),
        default=2.0,
        db_default=2.0,
        help_text=_("Between shopper and store, along the great circle."),
    )
    status = models.CharField(
        _("status"),
        max_length=10,
        choices=PromoStatus.choices,
        default=PromoStatus.SCHEDULED,
        db_default=PromoStatus.SCHEDULED,
    )
    # Kept by a trigger on the reservations.
    held = models.IntegerField(_("held"), default=0, db_default=0, editable=False)
    completed = models.IntegerField(_("completed"), default=0, db_default=0, editable=False)

    class Meta:
        verbose_name = _("flash promo")
        verbose_name_plural = _("flash promos")
        constraints = [
            models.CheckConstraint(
                condition=Q(promo_price__gt=0),
                name="promo_price_positive",
                violation_error_message=_("The promo price must be above 0."),
            ),
            models.CheckConstraint(
                condition=Q(ends_at__gt=F("starts_at")),
                name="promo_ends_after_start",
                violation_error_message=_("The end must come after the start."),
            ),
            models.CheckConstraint(
                condition=Q(quantity__gte=1),
                name="promo_quantity_at_least_one",
                violation_error_message=_("The quantity must be at least 1."),
            ),
            models.CheckConstraint(
                condition=Q(max_distance_km__gt=0, max_distance_km__lte=20_100),
                name="promo_distance_in_range",
                violation_error_message=_("The distance must be above 0 and at most 20100 km."),
            ),
            models.CheckConstraint(
                condition=Q(eligible_segments__contained_by=Segment.values),
                name="promo_segments_known",
                violation_error_message=_("Segments must be among: new, frequent, regular."),
            ),
            _choices("status", PromoStatus, "promo_status_known"),
            models.CheckConstraint(
                condition=Q(
                    held__gte=0, completed__gte=0, quantity__gte=F("held") + F("completed")
                ),
                name="promo_units_within_quantity",
                violation_error_message=_("More units are held or sold than the quantity."),
            ),
            models.UniqueConstraint(
                fields=["product", "starts_at", "ends_at", "eligible_segments"],
                name="promo_unique",
                violation_error_message=_(
                    "The product has a promo with this window and these segments."
                ),
            ),
        ]
        indexes = [
            models.Index("starts_at", name="promo_due_to_open", condition=Q(status="SCHEDULED")),
            models.Index(
                "ends_at",
                name="promo_due_to_close",
                condition=Q(status__in=["SCHEDULED", "ACTIVE"]),
            ),
            models.Index("ends_at", name="promo_past", condition=Q(status="EXPIRED")),
        ]

    def __str__(self) -> str:
        return f"{self.product}: {self.promo_price}"


class Reservation(models.Model):
    Status = ReservationStatus

    promo = models.ForeignKey(
        FlashPromo, verbose_name=_("promo"), on_delete=models.PROTECT, related_name="reservations"
    )
    shopper = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("shopper"),
        on_delete=models.PROTECT,
        related_name="reservations",
    )
    status = models.CharField(
        _("status"),
        max_length=10,
        choices=ReservationStatus.choices,
        default=ReservationStatus.HELD,
        db_default=ReservationStatus.HELD,
    )
    reserved_until = models.DateTimeField(_("reserved until"))
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)
    completed_at = models.DateTimeField(_("completed at"), null=True, blank=True)

    class Meta:
        verbose_name = _("reservation")
        verbose_name_plural = _("reservations")
        constraints = [
            _choices("status", ReservationStatus, "reservation_status_known"),
            models.UniqueConstraint(
                fields=["promo", "shopper"],
                condition=Q(status="HELD"),
                name="reservation_one_hold_a_shopper",
                violation_error_message=_("The shopper already holds a unit of this promo."),
            ),
        ]
        indexes = [
            models.Index(
                "promo", "reserved_until", name="reservation_holds", condition=Q(status="HELD")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.promo_id} / {self.shopper_id}: {self.status}"


class Notification(models.Model):
    """One shopper told of one promo: first the outbox, later the log."""

    Status = NotificationStatus

    promo = models.ForeignKey(
        FlashPromo, verbose_name=_("promo"), on_delete=models.CASCADE, related_name="notifications"
    )
    shopper = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("shopper"),
        on_delete=models.CASCADE,
        related_name="notifications",
        db_index=False,  # the unique constraint's index serves
    )
    local_day = models.DateField(_("day"), help_text=_("In the shopper's own time zone."))
    channel = models.CharField(_("channel"), max_length=10, choices=Channel.choices)
    status = models.CharField(
        _("status"),
        max_length=10,
        choices=NotificationStatus.choices,
        default=NotificationStatus.PENDING,
        db_default=NotificationStatus.PENDING,
    )
    attempts = models.IntegerField(
        _("attempts"), default=0, db_default=0, help_text=_("Failed deliveries.")
    )
    last_error = models.TextField(_("last error"), blank=True, default="", db_default="")
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)
    published_at = models.DateTimeField(_("published at"), null=True, blank=True)
    delivered_at = models.DateTimeField(_("delivered at"), null=True, blank=True)

    class Meta:
        verbose_name = _("notification")
        verbose_name_plural = _("notifications")
        constraints = [
            _choices("status", NotificationStatus, "notification_status_known"),
            _choices("channel", Channel, "notification_channel_known"),
            models.UniqueConstraint(
                fields=["shopper", "local_day"],
                name="notification_one_a_day",
                violation_error_message=_("The shopper was told of a promo on this day."),
            ),
        ]
        indexes = [
            models.Index("id", name="notification_pending", condition=Q(status="PENDING")),
            models.Index(
                "published_at", name="notification_published", condition=Q(status="PUBLISHED")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.promo_id} / {self.shopper_id}: {self.status}"
