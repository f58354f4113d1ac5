"""Tables of the task history, its templates, notifications, dead letters and statistics.

Rows of `TaskExecution` are written by `services.executions` alone, in batches; a row only moves
forward, by `position`.
"""

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from marketplace.context import MAX_LENGTH


class TaskStatus(models.TextChoices):
    PENDING = "PENDING", _("pending")
    STARTED = "STARTED", _("started")
    RETRY = "RETRY", _("waiting for a retry")
    SUCCESS = "SUCCESS", _("success")
    FAILURE = "FAILURE", _("failure")
    REVOKED = "REVOKED", _("revoked")


#: A task in one of these runs no more.
FINISHED = (TaskStatus.SUCCESS, TaskStatus.FAILURE, TaskStatus.REVOKED)
UNFINISHED = (TaskStatus.PENDING, TaskStatus.STARTED, TaskStatus.RETRY)


class TaskExecution(models.Model):
    """One task, from its publication to its end, over all its attempts."""

    Status = TaskStatus

    task_id = models.CharField(_("task id"), max_length=255, primary_key=True)
    task_name = models.CharField(
        _("task"), max_length=255, help_text=_("The name given by track_task, or Celery's.")
    )
    celery_name = models.CharField(_("Celery's name"), max_length=255)
    task_module = models.CharField(_("module"), max_length=100)
    description = models.TextField(_("description"), blank=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="task_executions",
        db_index=False,
    )
    status = models.CharField(
        _("status"), max_length=10, choices=TaskStatus.choices, default=TaskStatus.PENDING
    )
    previous_status = models.CharField(max_length=10, blank=True, default="", editable=False)
    position = models.BigIntegerField(
        _("position"), help_text=_("How far the task has come: a row moves to a higher one only.")
    )
    changed_at = models.DateTimeField(_("changed at"))
    progress = models.SmallIntegerField(_("progress"), default=0, help_text=_("0 to 100."))
    message = models.TextField(_("message"), blank=True)
    parameters = models.JSONField(_("parameters"), default=dict, blank=True)
    result = models.JSONField(_("result"), null=True, blank=True)
    error = models.TextField(_("error"), blank=True)
    traceback = models.TextField(_("traceback"), blank=True)
    worker = models.CharField(_("worker"), max_length=255, blank=True)
    queue = models.CharField(_("queue"), max_length=255, blank=True)
    retries = models.IntegerField(_("retries"), default=0)
    created_at = models.DateTimeField(_("created at"))
    started_at = models.DateTimeField(_("started at"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished at"), null=True, blank=True)
    duration = models.FloatField(
        _("duration"), null=True, blank=True, help_text=_("Seconds of the last attempt.")
    )
    cancelled_at = models.DateTimeField(_("cancelled at"), null=True, blank=True)

    class Meta:
        verbose_name = _("task execution")
        verbose_name_plural = _("task executions")
        ordering = ["-created_at", "-task_id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(progress__gte=0, progress__lte=100), name="task_progress_0_to_100"
            ),
            models.CheckConstraint(
                condition=Q(status__in=TaskStatus.values), name="task_status_known"
            ),
        ]
        indexes = [
            models.Index(F("created_at").desc(), F("task_id").desc(), name="task_created"),
            models.Index(
                "user",
                F("created_at").desc(),
                condition=Q(user__isnull=False),
                name="task_user_created",
            ),
            models.Index("task_module", F("created_at").desc(), name="task_module_created"),
            models.Index("task_name", F("created_at").desc(), name="task_name_created"),
            # Most rows are a SUCCESS: the index of creation finds those.
            models.Index(
                "status",
                F("created_at").desc(),
                condition=~Q(status="SUCCESS"),
                name="task_status_created",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task_name} {self.task_id}"

    @property
    def id(self) -> str:
        """The task's id: a row needs no other."""
        return self.task_id

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED


class OutboxTask(models.Model):
    """A task that was promised and has not ended, with all that it takes to publish it again."""

    task_id = models.CharField(_("task id"), max_length=255, primary_key=True)
    celery_name = models.CharField(_("Celery's name"), max_length=255)
    body = models.TextField(_("body"), help_text=_("Its arguments, as JSON."))
    queue = models.CharField(_("queue"), max_length=255, blank=True)
    eta = models.DateTimeField(_("not before"), null=True, blank=True)
    expires = models.DateTimeField(_("expires"), null=True, blank=True)
    created_at = models.DateTimeField(_("created at"), db_default=Now())
    published_at = models.DateTimeField(
        _("published at"),
        null=True,
        blank=True,
        help_text=_("Empty: the broker did not take it."),
    )
    publications = models.PositiveSmallIntegerField(_("publications"), default=0, db_default=0)
    request_id = models.CharField(
        _("request id"), max_length=MAX_LENGTH, blank=True, default="", db_default=""
    )

    class Meta:
        verbose_name = _("promised task")
        verbose_name_plural = _("promised tasks")
        indexes = [
            models.Index(
                "task_id", condition=Q(published_at__isnull=True), name="outbox_task_waiting"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.celery_name} {self.task_id}"


class TaskTemplate(models.Model):
    """A task with its usual parameters, and whom to tell of its runs."""

    name = models.CharField(_("name"), max_length=100, unique=True)
    task_name = models.CharField(_("task"), max_length=255, db_index=True)
    module = models.CharField(_("module"), max_length=100)
    description = models.TextField(_("description"), blank=True)
    default_parameters = models.JSONField(_("default parameters"), default=dict, blank=True)
    estimated_duration = models.PositiveIntegerField(
        _("estimated duration"), null=True, blank=True, help_text=_("Seconds.")
    )
    notification_settings = models.JSONField(_("notification settings"), default=dict, blank=True)
    created_at = models.DateTimeField(_("created at"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated at"), auto_now=True)

    class Meta:
        verbose_name = _("task template")
        verbose_name_plural = _("task templates")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class NotificationEvent(models.TextChoices):
    START = "start", _("start")
    PROGRESS = "progress", _("progress")
    COMPLETE = "complete", _("complete")
    ERROR = "error", _("error")
    ALERT = "alert", _("alert")


class NotificationChannel(models.TextChoices):
    IN_APP = "in_app", _("in-app")
    EMAIL = "email", _("e-mail")
    WEBHOOK = "webhook", _("webhook")
    ADMINS = "admins", _("administrators")


class DeliveryStatus(models.TextChoices):
    PENDING = "PENDING", _("pending")
    DELIVERED = "DELIVERED", _("delivered")
    FAILED = "FAILED", _("failed")


class TaskNotification(models.Model):
    """The outbox of what a task's user, a webhook or the administrators are told."""

    Event = NotificationEvent
    Channel = NotificationChannel
    Status = DeliveryStatus

    task_id = models.CharField(_("task id"), max_length=255)
    task_name = models.CharField(_("task"), max_length=255)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        verbose_name=_("user"),
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="task_notifications",
        db_index=False,
    )
    event = models.CharField(_("event"), max_length=10, choices=NotificationEvent.choices)
    channel = models.CharField(_("channel"), max_length=10, choices=NotificationChannel.choices)
    progress = models.SmallIntegerField(_("progress"), default=0)
    message = models.TextField(_("message"), blank=True)
    address = models.CharField(
        _("address"), max_length=500, blank=True, help_text=_("Of a webhook.")
    )
    status = models.CharField(
        _("status"), max_length=10, choices=DeliveryStatus.choices, default=DeliveryStatus.PENDING
    )
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0, db_default=0)
    next_attempt_at = models.DateTimeField(_("next attempt at"), null=True, blank=True)
    last_error = models.TextField(_("last error"), blank=True, db_default="")
    created_at = models.DateTimeField(_("created at"))
    delivered_at = models.DateTimeField(_("delivered at"), null=True, blank=True)
    read_at = models.DateTimeField(_("read at"), null=True, blank=True)

    class Meta:
        verbose_name = _("task notification")
        verbose_name_plural = _("task notifications")
        ordering = ["-created_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["task_id", "event", "channel", "progress", "address"],
                name="task_notification_once",
            )
        ]
        indexes = [
            models.Index("user", F("created_at").desc(), name="task_notification_user"),
            models.Index(F("created_at").desc(), name="task_notification_created"),
            models.Index(
                "channel",
                "next_attempt_at",
                condition=Q(status="PENDING"),
                name="task_notification_pending",
            ),
            # When the administrators were last told of a task.
            models.Index(
                "task_name",
                "delivered_at",
                condition=Q(channel="admins"),
                name="task_notification_alerts",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.event} {self.task_name} {self.task_id}"


class DeadLetterStatus(models.TextChoices):
    WAITING = "WAITING", _("waiting")
    REQUEUED = "REQUEUED", _("requeued")
    DISCARDED = "DISCARDED", _("discarded")


class DeadLetter(models.Model):
    """A task that used up its retries, with all that it takes to run it again."""

    Status = DeadLetterStatus

    task_id = models.CharField(_("task id"), max_length=255, unique=True)
    task_name = models.CharField(_("task"), max_length=255)
    celery_name = models.CharField(_("Celery's name"), max_length=255)
    # As they were given, secrets included: shown masked, since only a requeue needs them whole.
    args = models.JSONField(_("arguments"), default=list)
    kwargs = models.JSONField(_("keyword arguments"), default=dict)
    queue = models.CharField(_("queue"), max_length=255, blank=True)
    error = models.TextField(_("error"), blank=True)
    traceback = models.TextField(_("traceback"), blank=True)
    retries = models.IntegerField(_("retries"), default=0)
    status = models.CharField(
        _("status"),
        max_length=10,
        choices=DeadLetterStatus.choices,
        default=DeadLetterStatus.WAITING,
    )
    created_at = models.DateTimeField(_("created at"))
    closed_at = models.DateTimeField(_("closed at"), null=True, blank=True)
    requeued_task_id = models.CharField(_("requeued as"), max_length=255, blank=True, default="")

    class Meta:
        verbose_name = _("dead letter")
        verbose_name_plural = _("dead letters")
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index("status", F("created_at").desc(), name="dead_letter_status"),
        ]

    def __str__(self) -> str:
        return f"{self.task_name} {self.task_id}"


class TaskStatistic(models.Model):
    """How many executions of a task ended how, by hour, and in all where `hour` is empty.

    `bucket` is a step of durations, `2 ** (bucket / 4)` seconds its upper end; so a percentile is
    right within a tenth.
    """

    hour = models.DateTimeField(_("hour"), null=True, blank=True)
    task_name = models.CharField(_("task"), max_length=255)
    task_module = models.CharField(_("module"), max_length=100)
    status = models.CharField(_("status"), max_length=10, choices=TaskStatus.choices)
    bucket = models.SmallIntegerField(_("bucket"))
    count = models.BigIntegerField(_("count"))
    seconds = models.FloatField(_("seconds"))

    class Meta:
        verbose_name = _("task statistic")
        verbose_name_plural = _("task statistics")
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "task_name", "task_module", "status", "bucket"],
                name="task_statistic_key",
                nulls_distinct=False,
            )
        ]

    def __str__(self) -> str:
        return f"{self.task_name} {self.status} {self.hour}"
