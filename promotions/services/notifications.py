"""The outbox: rows published to SNS, drained from SQS, delivered, marked.

A row is claimed as PUBLISHED before SNS is called, in one statement for many rows, and goes back
to PENDING when SNS refuses it. What a dead process claimed, or SNS or SQS lost, is claimed
again after `NOTIFICATION_REPUBLISH_SECONDS`. So a message may come twice; a row is marked
DELIVERED once.
"""

import logging
import smtplib
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Event

from django.conf import settings
from django.core import mail
from django.core.mail.backends.base import BaseEmailBackend
from django.db import connection, transaction
from django.db.models import F, QuerySet
from django.utils import timezone, translation
from django.utils.translation import gettext

from promotions.clients.promo_queue import Message, in_tens, promo_queue
from promotions.models import Channel, Notification

logger = logging.getLogger(__name__)

#: A run ends after this many seconds and leaves the rest to the next one.
RUN_SECONDS = 50.0
BATCH = 500
OPEN = (Notification.Status.PENDING, Notification.Status.PUBLISHED)

_CLAIM = """
    UPDATE promotions_notification SET status = 'PUBLISHED', published_at = now()
    WHERE id IN (
        SELECT id FROM promotions_notification WHERE status = 'PENDING'
        ORDER BY id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id
"""

_GIVE_BACK = """
    UPDATE promotions_notification
    SET status = 'PENDING', published_at = NULL, last_error = failed.reason
    FROM unnest(%s::bigint[], %s::text[]) AS failed(id, reason)
    WHERE promotions_notification.id = failed.id AND status = 'PUBLISHED'
"""

_REQUEUE_STALE = """
    UPDATE promotions_notification SET status = 'PENDING', published_at = NULL
    WHERE id IN (
        SELECT id FROM promotions_notification
        WHERE status = 'PUBLISHED' AND published_at <= now() - %s * interval '1 second'
        FOR NO KEY UPDATE SKIP LOCKED)
"""


class PublishError(Exception):
    """SNS took some notifications not; they wait in the outbox for the next run."""


def notifications_publish(*, seconds: float = RUN_SECONDS) -> int:
    """Publish what is pending, in tens, several calls at once; return how many SNS took.

    Raises PublishError when SNS refuses any: those are PENDING again, with the reason.
    """
    deadline = time.monotonic() + seconds
    published = 0
    with ThreadPoolExecutor(settings.SNS_PUBLISHERS) as pool:
        while time.monotonic() < deadline:
            with connection.cursor() as cursor:
                cursor.execute(_CLAIM, [BATCH])
                claimed = sorted(row[0] for row in cursor.fetchall())
            if not claimed:
                break
            failures = _publish(pool, claimed)
            published += len(claimed) - len(failures)
            if failures:
                reason = next(iter(failures.values()))
                raise PublishError(
                    f"{len(failures)} notifications were not published and wait for the next "
                    f"run; {published} were. The first reason: {reason}"
                )
    return published


def _publish(pool: ThreadPoolExecutor, claimed: list[int]) -> dict[int, str]:
    unconfirmed = dict.fromkeys(claimed, "The publisher was interrupted.")
    refused = Event()

    def publish(batch: list[int]) -> dict[int, str]:
        # While SNS is away each call costs its time-out, so the rest of the claim is spared.
        if refused.is_set():
            return dict.fromkeys(batch, "An earlier call failed.")
        failures = queue.publish(batch)
        if len(failures) == len(batch):
            refused.set()
        return failures

    try:
        queue = promo_queue()
        batches = list(in_tens(claimed))
        for batch, failures in zip(batches, pool.map(publish, batches), strict=True):
            for pk in batch:
                if pk in failures:
                    unconfirmed[pk] = failures[pk]
                else:
                    del unconfirmed[pk]
    except Exception as error:
        unconfirmed = dict.fromkeys(unconfirmed, str(error))
        raise
    finally:
        if unconfirmed:
            with connection.cursor() as cursor:
                cursor.execute(_GIVE_BACK, [list(unconfirmed), list(unconfirmed.values())])
    return unconfirmed


def notifications_requeue_stale() -> int:
    """Make PENDING again what was published too long ago without an outcome; return how many."""
    with connection.cursor() as cursor:
        cursor.execute(_REQUEUE_STALE, [settings.NOTIFICATION_REPUBLISH_SECONDS])
        return int(cursor.rowcount)


def notifications_retry(notifications: QuerySet[Notification]) -> int:
    """Make PENDING again those that failed for good; return how many."""
    return notifications.filter(status=Notification.Status.FAILED).update(
        status=Notification.Status.PENDING, published_at=None
    )


@dataclass
class Outcome:
    """What becomes of a batch of messages."""

    delivered: int = 0
    failed: int = 0
    delete: list[Message] = field(default_factory=list)
    postpone: list[tuple[Message, int]] = field(default_factory=list)


def queue_drain(*, seconds: float = RUN_SECONDS) -> dict[str, int]:
    """Deliver what the queue holds until it is empty or time is up.

    Several receivers long-poll at once; this thread alone talks to the database. Returns
    `{"delivered": n, "failed": n}`, counting rows delivered and deliveries that failed.
    """
    queue = promo_queue()
    deadline = time.monotonic() + seconds
    counts = {"delivered": 0, "failed": 0}

    def turn(outcome: Outcome) -> list[Message]:
        queue.delete(outcome.delete)
        queue.postpone(outcome.postpone)
        return queue.receive(settings.SQS_WAIT_SECONDS) if time.monotonic() < deadline else []

    with ThreadPoolExecutor(settings.SQS_RECEIVERS) as pool:
        turns: set[Future[list[Message]]] = {
            pool.submit(turn, Outcome()) for _ in range(settings.SQS_RECEIVERS)
        }
        while turns:
            done, turns = wait(turns, return_when=FIRST_COMPLETED)
            for received in done:
                if messages := received.result():
                    outcome = _handle(messages)
                    counts["delivered"] += outcome.delivered
                    counts["failed"] += outcome.failed
                    turns.add(pool.submit(turn, outcome))
    return counts


def _handle(messages: list[Message]) -> Outcome:
    outcome = Outcome()
    readable: dict[int, list[Message]] = {}
    for message in messages:
        if message.notification_id is None:
            logger.error("Unreadable message, left for the dead-letter queue: %.200r", message.body)
            outcome.failed += 1
            outcome.postpone.append((message, 0))
        else:
            readable.setdefault(message.notification_id, []).append(message)
    with transaction.atomic():
        rows = list(
            Notification.objects.filter(pk__in=readable, status__in=OPEN)
            .select_related("shopper", "promo__product__store")
            .order_by("pk")
            .select_for_update(skip_locked=True, of=("self",), no_key=True)
        )
        errors = _send([row for row in rows if row.channel == Channel.EMAIL])
        delivered = [row.pk for row in rows if row.pk not in errors]
        now = timezone.now()
        outcome.delivered = Notification.objects.filter(pk__in=delivered).update(
            status=Notification.Status.DELIVERED, delivered_at=now, last_error=""
        )
        for pk, reason in errors.items():
            last = max(message.receive_count for message in readable[pk])
            final = last >= settings.NOTIFICATION_MAX_ATTEMPTS
            Notification.objects.filter(pk=pk).update(
                status=Notification.Status.FAILED if final else Notification.Status.PUBLISHED,
                attempts=F("attempts") + 1,
                published_at=now,
                last_error=reason,
            )
            outcome.failed += 1
            outcome.postpone += [
                (message, 0 if final else _delay(message)) for message in readable[pk]
            ]
    # Another process holds the rest, or they are closed and the message is a repetition.
    rest = readable.keys() - {row.pk for row in rows}
    held = set(
        Notification.objects.filter(pk__in=rest, status__in=OPEN).values_list("pk", flat=True)
    )
    for pk in delivered:
        outcome.delete += readable[pk]
    for pk in rest:
        if pk in held:
            outcome.postpone += [(message, _delay(message)) for message in readable[pk]]
        else:
            outcome.delete += readable[pk]
    return outcome


def _delay(message: Message) -> int:
    """Seconds until the next try: doubled each time."""
    return int(settings.NOTIFICATION_RETRY_SECONDS * 2 ** (message.receive_count - 1))


def _send(rows: Iterable[Notification]) -> dict[int, str]:
    """Send an e-mail for each row; return the reason for each that failed."""
    rows = list(rows)
    if not rows:
        return {}
    backend: BaseEmailBackend = mail.get_connection()
    try:
        backend.open()
    except (OSError, smtplib.SMTPException) as error:
        return {row.pk: f"The mail server refused: {error}" for row in rows}
    errors = {}
    try:
        for row in rows:
            if not row.shopper.email:
                errors[row.pk] = "The shopper has no e-mail address."
                continue
            try:
                _email(row, backend).send()
            except (OSError, smtplib.SMTPException) as error:
                errors[row.pk] = f"The mail server refused: {error}"
    finally:
        backend.close()
    return errors


def _email(row: Notification, backend: BaseEmailBackend) -> mail.EmailMessage:
    product = row.promo.product
    with translation.override(settings.LANGUAGE_CODE):
        subject = gettext("%(product)s for %(price)s at %(store)s")
        body = gettext(
            "%(product)s is %(price)s instead of %(list_price)s at %(store)s, "
            "until %(ends_at)s UTC or while units last."
        )
    values = {
        "product": product.name,
        "price": row.promo.promo_price,
        "list_price": product.list_price,
        "store": product.store.name,
        "ends_at": f"{row.promo.ends_at:%Y-%m-%d %H:%M}",
    }
    return mail.EmailMessage(
        # A newline in a name must not become a header.
        subject=" ".join((subject % values).split()),
        body=body % values,
        to=[row.shopper.email],
        connection=backend,
    )
