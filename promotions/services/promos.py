"""The life of a promo: opened, announced, closed, cancelled, removed or archived.

Each step takes the rows that are due in batches, one transaction a batch, with `FOR UPDATE SKIP
LOCKED`: two runs at once share the rows, and a run that dies loses at most its open batch.
"""

from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import QuerySet

from promotions.exceptions import PromoClosed
from promotions.models import FlashPromo

BATCH = 1000
#: A promo is changed or cancelled in these states; later ones are history.
OPEN_TO_CHANGE = (FlashPromo.Status.SCHEDULED, FlashPromo.Status.ACTIVE)

_CLOSE = """
    UPDATE promotions_flashpromo SET status = 'EXPIRED'
    WHERE id IN (
        SELECT id FROM promotions_flashpromo
        WHERE status IN ('SCHEDULED', 'ACTIVE') AND ends_at <= now()
        ORDER BY ends_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
"""

_OPEN = """
    UPDATE promotions_flashpromo SET status = 'ACTIVE'
    WHERE id IN (
        SELECT id FROM promotions_flashpromo
        WHERE status = 'SCHEDULED' AND starts_at <= now() AND ends_at > now()
        ORDER BY starts_at LIMIT %s FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id
"""

# Sorted, so that two fan-outs to the same shoppers cannot deadlock.
_NOTIFY = """
    INSERT INTO promotions_notification (promo_id, shopper_id, local_day, channel)
    SELECT promo.id, shopper.user_id, (now() AT TIME ZONE shopper.time_zone)::date, shopper.channel
    FROM promotions_flashpromo promo
    JOIN promotions_product product ON product.id = promo.product_id
    JOIN promotions_store store ON store.id = product.store_id
    CROSS JOIN LATERAL promotions_boxes(
        store.latitude, store.longitude, promo.max_distance_km) AS near(box)
    JOIN promotions_shopperprofile shopper
        ON point(shopper.longitude, shopper.latitude) <@ near.box
    WHERE promo.id = ANY(%s)
      AND promo.status = 'ACTIVE'
      AND shopper.notifications_enabled
      AND (promo.eligible_segments = '{}' OR shopper.segment = ANY(promo.eligible_segments))
      AND promotions_distance_km(
            store.latitude, store.longitude, shopper.latitude, shopper.longitude)
          <= promo.max_distance_km
      AND EXISTS (SELECT FROM auth_user WHERE id = shopper.user_id AND is_active)
    ORDER BY shopper.user_id
    ON CONFLICT (shopper_id, local_day) DO NOTHING
"""

_PAST = """
    SELECT id, completed > 0 FROM promotions_flashpromo
    WHERE status = 'EXPIRED' AND ends_at <= now() - %s * interval '1 day' AND held = 0
    ORDER BY ends_at LIMIT %s FOR UPDATE SKIP LOCKED
"""


def promos_close() -> int:
    """Close every promo whose window is over; return how many."""
    closed = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_CLOSE, [BATCH])
            count: int = cursor.rowcount
            closed += count
            if count < BATCH:
                return closed


def promos_open() -> tuple[int, int]:
    """Open every promo whose window has begun; return how many, and how many shoppers are owed.

    A promo opens in the same transaction that writes its notifications.
    """
    opened = notified = 0
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_OPEN, [BATCH])
            ids = [row[0] for row in cursor.fetchall()]
            if ids:
                cursor.execute(_NOTIFY, [ids])
                notified += cursor.rowcount
        opened += len(ids)
        if len(ids) < BATCH:
            return opened, notified


def promo_notify(promo_id: int) -> int:
    """Write a notification for each eligible shopper of an open promo; return how many are new."""
    with connection.cursor() as cursor:
        cursor.execute(_NOTIFY, [[promo_id]])
        return int(cursor.rowcount)


def promos_cleanup() -> dict[str, int]:
    """Remove the promos that ended `PROMO_RETENTION_DAYS` ago; archive those that sold something.

    Returns `{"removed": n, "archived": n}`.
    """
    counts = {"removed": 0, "archived": 0}
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_PAST, [settings.PROMO_RETENTION_DAYS, BATCH])
            rows = cursor.fetchall()
            sold = [promo_id for promo_id, has_sales in rows if has_sales]
            unsold = [promo_id for promo_id, has_sales in rows if not has_sales]
            if sold:
                cursor.execute(
                    "UPDATE promotions_flashpromo SET status = 'ARCHIVED' WHERE id = ANY(%s)",
                    [sold],
                )
            if unsold:
                for table, key in (
                    ("promotions_notification", "promo_id"),
                    ("promotions_reservation", "promo_id"),
                    ("promotions_flashpromo", "id"),
                ):
                    cursor.execute(f"DELETE FROM {table} WHERE {key} = ANY(%s)", [unsold])
        counts["archived"] += len(sold)
        counts["removed"] += len(unsold)
        if len(rows) < BATCH:
            return counts


def promo_cancel(promo: FlashPromo) -> FlashPromo:
    """Cancel a promo that is scheduled or active; units already held may still be bought."""
    changed = FlashPromo.objects.filter(pk=promo.pk, status__in=OPEN_TO_CHANGE).update(
        status=FlashPromo.Status.CANCELLED
    )
    promo.refresh_from_db()
    if not changed and promo.status != FlashPromo.Status.CANCELLED:
        raise PromoClosed
    return promo


def promos_cancel(promos: QuerySet[FlashPromo]) -> int:
    """Cancel those of the promos that are scheduled or active; return how many."""
    return promos.filter(status__in=OPEN_TO_CHANGE).update(status=FlashPromo.Status.CANCELLED)


def promo_update(promo: FlashPromo, **changes: Any) -> None:
    """Change a promo that is scheduled or active; its other columns keep what tasks write."""
    rows = FlashPromo.objects.filter(pk=promo.pk, status__in=OPEN_TO_CHANGE)
    if not (rows.update(**changes) if changes else rows.exists()):
        raise PromoClosed
