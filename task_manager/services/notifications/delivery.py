"""Sends what is due: e-mails, webhooks, and alerts to the administrators.

A row is claimed by setting its next attempt behind the lease, so what a dead process claimed is
due again: a message may come twice and is never lost.
"""

import json
import logging
import smtplib
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ParamSpec

from django.conf import settings
from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connection, transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Now
from django.utils import timezone, translation
from django.utils.translation import gettext, ngettext

from task_manager.clients import webhooks
from task_manager.models import (
    DeliveryStatus,
    NotificationChannel,
    NotificationEvent,
    TaskExecution,
    TaskNotification,
    TaskStatus,
)
from task_manager.services.notifications.texts import title

logger = logging.getLogger(__name__)

P = ParamSpec("P")

#: A run ends after this many seconds and leaves the rest to the next one.
RUN_SECONDS = 50.0
#: Rows claimed at a time for each channel.
BATCH = 50
#: Webhooks called at once.
CALLS = 8
#: Seconds for which a claimed row is the claimer's; well above a run.
LEASE_SECONDS = 300
#: Seconds until the second try; doubled at each further one, up to about an hour.
RETRY_SECONDS = 60
#: Attempts of what is kept until it is told, as alerts are.
WITHOUT_END = 32_767
#: Errors that a mail to the administrators quotes.
QUOTED = 5

_CLAIM = """
    UPDATE task_manager_tasknotification
    SET next_attempt_at = statement_timestamp() + %s * interval '1 second'
    WHERE id IN (
        SELECT id FROM task_manager_tasknotification
        WHERE status = 'PENDING' AND channel = %s AND next_attempt_at <= statement_timestamp()
        ORDER BY next_attempt_at, id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id
"""

# One claimer at a time: the alerts of a task are claimed together, and none while some of them
# are claimed, wait after a failure, or were told within the pause.
_LOCK_ALERTS = "SELECT pg_advisory_xact_lock(hashtext('task_manager.alerts'))"
_CLAIM_ALERTS = """
    UPDATE task_manager_tasknotification
    SET next_attempt_at = statement_timestamp() + %s * interval '1 second'
    WHERE status = 'PENDING' AND channel = 'admins' AND task_name IN (
        SELECT task_name FROM task_manager_tasknotification alert
        WHERE status = 'PENDING' AND channel = 'admins'
        GROUP BY task_name
        HAVING max(next_attempt_at) <= statement_timestamp() AND NOT EXISTS (
            SELECT FROM task_manager_tasknotification told
            WHERE told.channel = 'admins' AND told.task_name = alert.task_name
                AND told.delivered_at > statement_timestamp() - %s * interval '1 second'))
    RETURNING id, task_name
"""

_FAILED = """
    UPDATE task_manager_tasknotification
    SET attempts = attempts + 1, last_error = %s,
        status = CASE WHEN attempts + 1 >= %s THEN 'FAILED' ELSE 'PENDING' END,
        next_attempt_at = statement_timestamp()
            + %s * 2 ^ least(attempts, 6) * interval '1 second'
    WHERE id = ANY(%s) AND status = 'PENDING'
"""

#: In `Run.away`, what stands for the mail server.
MAIL = "mail"


class Undelivered(Exception):
    """It was tried in vain; the message says why."""


class Undeliverable(Undelivered):
    """No further try will help."""


class NotTried(Exception):
    """The time of the run was up."""


@dataclass
class Run:
    """What a run of `notifications_deliver` knows and did."""

    deadline: float
    mail: BaseEmailBackend
    #: Why a webhook's address, or the mail server, does not answer: it is not tried again.
    away: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"delivered": 0, "failed": 0})

    def check(self, address: str) -> None:
        """Raise unless a try makes sense."""
        if reason := self.away.get(address):
            raise Undelivered(reason)
        if time.monotonic() >= self.deadline:
            raise NotTried


def notifications_deliver(*, seconds: float = RUN_SECONDS) -> dict[str, int]:
    """Send what is due until nothing is or time is up.

    Returns `{"delivered": n, "failed": n}`, counting notifications told and tries in vain. One
    try of an address that does not answer counts for all that is due there.
    """
    with _run(seconds) as run, ThreadPoolExecutor(CALLS) as pool:
        _deliver_alerts(run)
        while time.monotonic() < run.deadline:
            mails = _claim(NotificationChannel.EMAIL)
            calls = _claim(NotificationChannel.WEBHOOK)
            if not mails and not calls:
                break
            called = {pool.submit(_call, run, row): row.pk for row in calls}
            for row in mails:
                _settle(run, [row.pk], _try(_mail, run, row))
            for future in as_completed(called):
                _settle(run, [called[future]], future.exception())
    return run.counts


@contextmanager
def _run(seconds: float) -> Iterator[Run]:
    run = Run(time.monotonic() + seconds, mail.get_connection())
    try:
        yield run
    finally:
        run.mail.close()


def _claim(channel: str) -> list[TaskNotification]:
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, [LEASE_SECONDS, channel, BATCH])
        claimed = [row[0] for row in cursor.fetchall()]
    reached = TaskExecution.objects.filter(pk=OuterRef("task_id")).values("progress")
    rows = TaskNotification.objects.filter(pk__in=claimed).select_related("user").order_by("pk")
    return list(rows.annotate(reached=Subquery(reached)))


def _try(send: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> Exception | None:
    try:
        send(*args, **kwargs)
    except Exception as error:
        return error
    return None


def _settle(
    run: Run, ids: list[int], error: BaseException | None, *, attempts: int | None = None
) -> None:
    """Note what became of claimed rows; after so many attempts one has failed for good."""
    rows = TaskNotification.objects.filter(pk__in=ids, status=DeliveryStatus.PENDING)
    if error is None:
        run.counts["delivered"] += rows.update(
            status=DeliveryStatus.DELIVERED, delivered_at=Now(), last_error=""
        )
        return
    if isinstance(error, NotTried):
        rows.update(next_attempt_at=Now())
        return
    if not isinstance(error, Undelivered):
        logger.error("Notifications %s were not delivered", ids, exc_info=error)
    if isinstance(error, Undeliverable):
        attempts = 0
    elif attempts is None:
        attempts = settings.TASK_NOTIFICATION_MAX_ATTEMPTS
    with connection.cursor() as cursor:
        cursor.execute(_FAILED, [str(error) or repr(error), attempts, RETRY_SECONDS, ids])
        run.counts["failed"] += cursor.rowcount


def notifications_retry(notifications: QuerySet[TaskNotification]) -> int:
    """Make PENDING again those that failed for good; return how many."""
    return notifications.filter(status=DeliveryStatus.FAILED).update(
        status=DeliveryStatus.PENDING, attempts=0, next_attempt_at=Now()
    )


# --- Webhooks -------------------------------------------------------------------------------------
_STATUS = {
    NotificationEvent.START: TaskStatus.STARTED,
    NotificationEvent.PROGRESS: TaskStatus.STARTED,
    NotificationEvent.COMPLETE: TaskStatus.SUCCESS,
    NotificationEvent.ERROR: TaskStatus.FAILURE,
}


def _call(run: Run, row: TaskNotification) -> None:
    """On a thread, which must not touch the database."""
    run.check(row.address)
    # Told from the news itself, so that a receiver knows a repetition.
    delivery_id = uuid.uuid5(uuid.NAMESPACE_URL, f"{row.task_id}/{row.event}/{row.progress}")
    try:
        webhooks.post(row.address, _body(row), delivery_id=str(delivery_id))
    except webhooks.WebhookRefused as error:
        raise Undeliverable(str(error)) from error
    except webhooks.WebhookUnreachable as error:
        run.away[row.address] = str(error)
        raise Undelivered(str(error)) from error
    except webhooks.WebhookError as error:
        raise Undelivered(str(error)) from error


def _body(row: Any) -> bytes:
    return json.dumps(
        {
            "event": row.event,
            "task_id": row.task_id,
            "task_name": row.task_name,
            "status": _STATUS[row.event],
            "progress": row.progress or row.reached or 0,
            "message": row.message,
            "sent_at": timezone.now().isoformat(),
        },
        ensure_ascii=False,
    ).encode()


# --- E-mail ---------------------------------------------------------------------------------------
def _mail(run: Run, row: TaskNotification) -> None:
    if not row.user or not row.user.email:
        raise Undeliverable("The user has no e-mail address.")
    with translation.override(settings.LANGUAGE_CODE):
        subject = title(row.event) % {"task": row.task_name, "progress": row.progress}
        when = gettext("Task %(task_id)s, %(when)s UTC")
    message = mail.EmailMessage(
        subject=_one_line(subject),
        body=f"{row.message}\n\n{when % {'task_id': row.task_id, 'when': _when(row)}}\n",
        to=[row.user.email],
        connection=run.mail,
    )
    _send(run, message.send)


def _one_line(text: str) -> str:
    """A newline in a name must not become a header."""
    return " ".join(text.split())


def _when(row: TaskNotification) -> str:
    return f"{row.created_at:%Y-%m-%d %H:%M:%S}"


def _send(run: Run, send: Callable[[], Any]) -> None:
    """Send over the run's one connection."""
    run.check(MAIL)
    try:
        run.mail.open()
        send()
    except (
        smtplib.SMTPRecipientsRefused,
        smtplib.SMTPSenderRefused,
        smtplib.SMTPDataError,
        ValueError,
    ) as error:
        raise Undelivered(f"The mail server refused: {error}") from error
    except OSError as error:
        run.away[MAIL] = f"The mail server does not answer: {error}"
        raise Undelivered(run.away[MAIL]) from error


# --- Alerts ---------------------------------------------------------------------------------------
def _deliver_alerts(run: Run) -> None:
    """One mail a task name, with all its alerts since the last one, however many.

    Without ADMINS nobody is mailed: staff see the alerts in the application.
    """
    pause = settings.TASK_ALERT_SECONDS if settings.ADMINS else 0
    claimed: dict[str, list[int]] = {}
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_LOCK_ALERTS)
        cursor.execute(_CLAIM_ALERTS, [LEASE_SECONDS, pause])
        for pk, task_name in cursor.fetchall():
            claimed.setdefault(task_name, []).append(pk)
    for task_name, ids in claimed.items():
        error = _try(_mail_admins, run, task_name, ids) if settings.ADMINS else None
        _settle(run, ids, error, attempts=WITHOUT_END)


def _mail_admins(run: Run, task_name: str, ids: list[int]) -> None:
    alerts = TaskNotification.objects.filter(pk__in=ids)
    last = list(alerts.order_by("-created_at", "-id")[:QUOTED])
    first = alerts.order_by("created_at", "id")[0]
    with translation.override(settings.LANGUAGE_CODE):
        subject = ngettext(
            "%(task)s has failed critically",
            "%(task)s has failed critically %(count)d times",
            len(ids),
        ) % {"task": task_name, "count": len(ids)}
        since = gettext("Since %(when)s UTC. The last errors:") % {"when": _when(first)}
        pause = gettext(
            "Further alerts of this task wait for %(seconds)d s, then come in one mail."
        )
    quoted = [f"{_when(row)} {row.task_id}\n{row.message}" for row in last]
    body = [subject, since, *quoted, pause % {"seconds": settings.TASK_ALERT_SECONDS}]
    _send(
        run,
        lambda: mail.mail_admins(_one_line(subject), "\n\n".join(body) + "\n", connection=run.mail),
    )
