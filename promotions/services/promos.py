"""The life of a promo: opened, announced, closed, cancelled, removed or archived.

Each step takes the rows that are due in batches, one transaction a batch, with `FOR UPDATE SKIP
LOCKED`: two runs at once share the rows, and a run that dies loses at most its open batch.
"""

from typing import Any, cast

from django.conf import settings
from django.db import OperationalError, connection, transaction
from django.db.models import QuerySet
from psycopg2.errors import QueryCanceled

from promotions.exceptions import PromoClosed
from promotions.models import FlashPromo

#: Promos opened or closed in one transaction: enough that a batch costs no more than its rows.
BATCH = 25_000
#: Where announcing a batch takes longer than this, as in a crowded city, a smaller one is tried.
OPEN_SECONDS = 60.0
CLEANUP_BATCH = 1000
#: A promo is changed or cancelled in these states; later ones are history.
OPEN_TO_CHANGE = (FlashPromo.Status.SCHEDULED, FlashPromo.Status.ACTIVE)

# The locked rows are found again by their place, which no other transaction can change, rather
# than by a second walk through the primary key. A row that changed between the look and the lock
# has moved: it is counted as due, left as it is, and taken by the next batch or run.
_CLOSE = """
    WITH due AS (
        SELECT ctid FROM promotions_flashpromo
        WHERE status IN ('SCHEDULED', 'ACTIVE') AND ends_at <= now()
        ORDER BY ctid LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
    ), closed AS (
        UPDATE promotions_flashpromo SET status = 'EXPIRED'
        WHERE ctid = ANY(ARRAY(SELECT ctid FROM due))
        RETURNING id
    )
    SELECT (SELECT count(*) FROM due), (SELECT count(*) FROM closed)
"""

# Sorted, so that two fan-outs to the same shoppers cannot deadlock. The inactive users are few
# and have an index: leaving them out costs less than a look at each shopper's user.
_NOTIFY = """
    INSERT INTO promotions_notification (promo_id, shopper_id, local_day, channel)
    SELECT promo.id, shopper.user_id, (now() AT TIME ZONE shopper.time_zone)::date, shopper.channel
    FROM opened promo
    JOIN promotions_product product ON product.id = promo.product_id
    JOIN promotions_store store ON store.id = product.store_id
    CROSS JOIN LATERAL promotions_boxes(
        store.latitude, store.longitude, promo.max_distance_km) AS near(box)
    JOIN promotions_shopperprofile shopper
        ON point(shopper.longitude, shopper.latitude) <@ near.box
    WHERE shopper.notifications_enabled
      AND (promo.eligible_segments = '{}' OR shopper.segment = ANY(promo.eligible_segments))
      AND promotions_distance_km(
            store.latitude, store.longitude, shopper.latitude, shopper.longitude)
          <= promo.max_distance_km
      AND NOT EXISTS (
        SELECT FROM auth_user WHERE id = shopper.user_id AND NOT is_active)
    ORDER BY shopper.user_id
    ON CONFLICT (shopper_id, local_day) DO NOTHING
"""

_OPEN = f"""
    WITH due AS (
        SELECT ctid FROM promotions_flashpromo
        WHERE status = 'SCHEDULED' AND starts_at <= now() AND ends_at > now()
        ORDER BY ctid LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
    ), opened AS (
        UPDATE promotions_flashpromo SET status = 'ACTIVE'
        WHERE ctid = ANY(ARRAY(SELECT ctid FROM due))
        RETURNING id, product_id, eligible_segments, max_distance_km
    ), notified AS (
        {_NOTIFY} RETURNING shopper_id
    )
    SELECT (SELECT count(*) FROM due), (SELECT count(*) FROM opened),
           (SELECT count(*) FROM notified)
"""

_NOTIFY_ONE = f"""
    WITH opened AS (SELECT * FROM promotions_flashpromo WHERE id = %s AND status = 'ACTIVE')
    {_NOTIFY}
"""

# For the shoppers of a fan-out, who are sorted before they are written.
_SORT_IN_MEMORY = "SET LOCAL work_mem = '64MB'"

_PAST = """
    SELECT id, completed > 0 FROM promotions_flashpromo
    WHERE status = 'EXPIRED' AND ends_at <= now() - %s * interval '1 day' AND held = 0
    ORDER BY ends_at LIMIT %s FOR UPDATE SKIP LOCKED
"""


def promos_close() -> int:
    """Close every promo whose window is over; return how many."""
    total = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_CLOSE, [BATCH])
            due, closed = cast("tuple[int, int]", cursor.fetchone())
            total += closed
            if due < BATCH:
                return total


def promos_open() -> tuple[int, int]:
    """Open every promo whose window has begun; return how many, and how many shoppers are owed.

    A promo opens in the same statement that writes its notifications.
    """
    batch = BATCH
    total_opened = total_notified = 0
    while True:
        try:
            due, opened, notified = _open(batch)
        except OperationalError as error:
            if not isinstance(error.__cause__, QueryCanceled) or batch == 1:
                raise
            batch = max(1, batch // 10)
            continue
        total_opened += opened
        total_notified += notified
        if due < batch:
            return total_opened, total_notified


def _open(batch: int) -> tuple[int, int, int]:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{OPEN_SECONDS}s"])
        cursor.execute(_SORT_IN_MEMORY)
        cursor.execute(_OPEN, [batch])
        return cast("tuple[int, int, int]", cursor.fetchone())


def promo_notify(promo_id: int) -> int:
    """Write a notification for each eligible shopper of an open promo; return how many are new."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_SORT_IN_MEMORY)
        cursor.execute(_NOTIFY_ONE, [promo_id])
        return int(cursor.rowcount)


def promos_cleanup() -> dict[str, int]:
    """Remove the promos that ended `PROMO_RETENTION_DAYS` ago; archive those that sold something.

    Returns `{"removed": n, "archived": n}`.
    """
    counts = {"removed": 0, "archived": 0}
    while True:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_PAST, [settings.PROMO_RETENTION_DAYS, CLEANUP_BATCH])
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
        if len(rows) < CLEANUP_BATCH:
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
