"""Tables of what set-top boxes and players told PanAccess, and of what was merged of it.

All but the admin's pages write by SQL, in batches: `services.sync` and `services.merge`.
"""

from typing import Any

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

#: Characters of a text: an index takes 2704 bytes a row.
TEXT_LENGTH = 500


def _text(name: Any, **options: Any) -> "models.CharField[str, str]":
    return models.CharField(
        name, max_length=TEXT_LENGTH, blank=True, default="", db_default="", **options
    )


def _number(name: Any, **options: Any) -> "models.BigIntegerField[Any, Any]":
    return models.BigIntegerField(name, null=True, blank=True, **options)


def _listing(prefix: str) -> list[models.Index]:
    """What the listings' order and filters need; an export goes along the first."""
    return [
        models.Index("date", "timestamp", "record_id", name=f"{prefix}_by_time"),
        models.Index("subscriber_code", "date", name=f"{prefix}_by_subscriber"),
        models.Index("device_id", "date", name=f"{prefix}_by_device"),
        models.Index("data_service_id", "date", name=f"{prefix}_by_service"),
    ]


class Telemetry(models.Model):
    """What a record and a merged record have in common."""

    record_id = models.BigIntegerField(_("record"), primary_key=True)
    subscriber_code = _text(_("subscriber"))
    device_id = _text(_("device"))
    smartcard_id = _text(_("smart card"))
    profile_id = _number(_("profile"))
    timestamp = models.DateTimeField(_("time"))
    date = models.DateField(_("date"), help_text=_("In the source's time zone."))
    hour = models.SmallIntegerField(_("hour"), help_text=_("In the source's time zone, 0 to 23."))
    data_service_id = _number(_("service"))
    data_id = _number(_("channel's number"))
    data_name = _text(_("channel"))
    data_duration = _number(_("duration"), help_text=_("Seconds."))
    whois_country = _text(_("country"))

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return str(self.record_id)


class TelemetryRecordEntry(Telemetry):
    """One record, as PanAccess has it."""

    anonymized = models.BooleanField(_("anonymized"), null=True, blank=True)
    action_id = _number(_("action's number"))
    action_key = _text(_("action"))
    manual = models.BooleanField(_("manual"), null=True, blank=True)
    reason_id = _number(_("reason's number"))
    reason_key = _text(_("reason"))
    data_net_id = _number(_("network"))
    data_ts_id = _number(_("transport stream"))
    data_price = models.DecimalField(
        _("price"), max_digits=20, decimal_places=6, null=True, blank=True
    )
    whois_isp = _text(_("internet provider"))
    ip_id = _number(_("address's number"))
    ip = _text(_("IP address"))
    created = models.DateTimeField(_("created"), null=True, blank=True)
    extra = models.JSONField(
        _("other fields"), null=True, blank=True, help_text=_("What PanAccess sent beside these.")
    )
    # Of the sync's page that brought or changed the row: so the merge finds what is new to it.
    revision = models.BigIntegerField(editable=False)

    class Meta:
        verbose_name = _("telemetry record")
        verbose_name_plural = _("telemetry records")
        indexes = [
            *_listing("telemetry_record"),
            models.Index("revision", name="telemetry_record_revision"),
            # The merge's two sides.
            models.Index(
                "data_id",
                "timestamp",
                "record_id",
                name="telemetry_record_named",
                condition=Q(action_id=7) & ~Q(data_name=""),
            ),
            models.Index(
                "data_id",
                "timestamp",
                "revision",
                name="telemetry_record_views",
                condition=Q(action_id=8),
            ),
        ]


class MergedTelemetricOTT(Telemetry):
    """One view: a record of action 8, with the channel's name that one of action 7 told."""

    class Meta:
        verbose_name = _("merged OTT record")
        verbose_name_plural = _("merged OTT records")
        indexes = _listing("telemetry_merged")


class QuarantinedRecord(models.Model):
    """What PanAccess sent as a record and cannot be one."""

    # Of the payload: fetched again it is the same row.
    digest = models.BinaryField(unique=True, editable=False, max_length=32)
    record_id = models.BigIntegerField(
        _("record"), null=True, blank=True, db_index=True, help_text=_("Where it can be read.")
    )
    reason = models.TextField(_("reason"))
    payload = models.TextField(_("payload"), help_text=_("JSON, of ASCII alone."))
    created_at = models.DateTimeField(_("created at"), db_default=Now(), editable=False)

    class Meta:
        verbose_name = _("quarantined record")
        verbose_name_plural = _("quarantined records")

    def __str__(self) -> str:
        return f"{self.record_id}: {self.reason}"


class SyncState(models.Model):
    """How far sync and merge are: the only row is written together with what it tells of."""

    id = models.SmallIntegerField(primary_key=True, default=1, db_default=1)
    highest_id = models.BigIntegerField(
        _("highest record"), default=0, db_default=0, help_text=_("Stored or in quarantine.")
    )
    # Where the record after the highest was in PanAccess' list, when it was last seen.
    next_offset = models.BigIntegerField(default=0, db_default=0)
    #: Of the last page stored, and up to which the merge is done.
    revision = models.BigIntegerField(default=0, db_default=0)
    merged_revision = models.BigIntegerField(default=0, db_default=0)
    # The chain that is at work, by its root's task id, and until when that is taken for granted.
    holder = models.CharField(max_length=255, blank=True, default="", db_default="")
    held_until = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(_("last sync's start"), null=True, blank=True)
    finished_at = models.DateTimeField(_("last sync's end"), null=True, blank=True)
    complete_at = models.DateTimeField(
        _("complete up to"),
        null=True,
        blank=True,
        help_text=_("When the last sync that came to the list's end had begun."),
    )
    merged_at = models.DateTimeField(_("last merge's end"), null=True, blank=True)
    error = models.TextField(_("error"), blank=True, default="", db_default="")

    class Meta:
        verbose_name = _("state of the sync")
        verbose_name_plural = _("state of the sync")
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="telemetry_sync_state_single"),
            models.CheckConstraint(
                condition=Q(merged_revision__lte=F("revision")), name="telemetry_merged_stored"
            ),
        ]

    def __str__(self) -> str:
        return f"up to {self.highest_id}"

    @property
    def is_held(self) -> bool:
        return bool(self.holder and self.held_until and self.held_until >= timezone.now())
