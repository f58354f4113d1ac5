"""Holding, buying and giving back one unit of a promo.

The database counts: a trigger keeps `held` and `completed` of the promo equal to its
reservations, and a check constraint refuses the unit too many. A hold whose time is over counts
as free at once: whoever finds the promo full first releases those.
"""

from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from promotions import selectors
from promotions.exceptions import AlreadyHolding, ReservationClosed, SoldOut
from promotions.models import Reservation, ReservationStatus

BATCH = 5000

# One statement: it checks, counts and holds. No row means no, for a reason found out afterwards.
_HOLD = """
    INSERT INTO promotions_reservation (promo_id, shopper_id, status, reserved_until)
    SELECT promo.id, shopper.user_id, 'HELD', now() + %s * interval '1 second'
    FROM promotions_flashpromo promo
    JOIN promotions_product product ON product.id = promo.product_id
    JOIN promotions_store store ON store.id = product.store_id
    JOIN promotions_shopperprofile shopper ON shopper.user_id = %s
    WHERE promo.id = %s
      AND promo.status = 'ACTIVE' AND promo.starts_at <= now() AND promo.ends_at > now()
      AND promo.held + promo.completed < promo.quantity
      AND (promo.eligible_segments = '{}' OR shopper.segment = ANY(promo.eligible_segments))
      AND promotions_distance_km(
            store.latitude, store.longitude, shopper.latitude, shopper.longitude)
          <= promo.max_distance_km
    ON CONFLICT (promo_id, shopper_id) WHERE status = 'HELD' DO NOTHING
    RETURNING id, reserved_until, created_at
"""

_RELEASE = """
    UPDATE promotions_reservation SET status = 'EXPIRED'
    WHERE id IN (
        SELECT id FROM promotions_reservation
        WHERE status = 'HELD' AND reserved_until <= now()
          AND (%(promo)s IS NULL OR promo_id = %(promo)s)
        ORDER BY promo_id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED)
"""


def reservation_create(*, promo_id: int, shopper_id: int) -> Reservation:
    """Hold one unit for `RESERVATION_HOLD_SECONDS`.

    Raises PromoNotActive, NotEligible, TooFar, SoldOut or AlreadyHolding, and
    `FlashPromo.DoesNotExist`.
    """
    held = _hold(promo_id, shopper_id)
    if held is None and reservations_release(promo_id=promo_id):
        held = _hold(promo_id, shopper_id)
    if held is None:
        raise _refusal(promo_id, shopper_id)
    reservation_id, reserved_until, created_at = held
    return Reservation(
        id=reservation_id,
        promo_id=promo_id,
        shopper_id=shopper_id,
        reserved_until=reserved_until,
        created_at=created_at,
    )


def _hold(promo_id: int, shopper_id: int) -> tuple[int, datetime, datetime] | None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_HOLD, [settings.RESERVATION_HOLD_SECONDS, shopper_id, promo_id])
            row: tuple[int, datetime, datetime] | None = cursor.fetchone()
            return row
    except IntegrityError as error:
        if _violated(error) == "promo_units_within_quantity":  # another took the last unit
            return None
        raise


def _violated(error: IntegrityError) -> str | None:
    name: str | None = getattr(getattr(error.__cause__, "diag", None), "constraint_name", None)
    return name


def _refusal(promo_id: int, shopper_id: int) -> Exception:
    promo = selectors.promos_for_shopper(shopper_id).get(pk=promo_id)
    reason = selectors.ineligibility(promo)
    if reason is not None:
        return reason
    if Reservation.objects.filter(
        promo_id=promo_id, shopper_id=shopper_id, status=Reservation.Status.HELD
    ).exists():
        return AlreadyHolding()
    return SoldOut()


def reservations_release(*, promo_id: int | None = None) -> int:
    """Free the units whose hold is over, of one promo or of all; return how many."""
    released = 0
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_RELEASE, {"promo": promo_id, "limit": BATCH})
            count: int = cursor.rowcount
            released += count
            if count < BATCH:
                return released


def reservation_complete(reservation: Reservation) -> Reservation:
    """Turn a hold into a sale. A repeated call changes nothing; a hold that is over cannot."""
    return _close(
        reservation,
        "status = 'COMPLETED', completed_at = now()",
        "reserved_until > now()",
        Reservation.Status.COMPLETED,
    )


def reservation_cancel(reservation: Reservation) -> Reservation:
    """Give a held unit back. A repeated call changes nothing."""
    return _close(reservation, "status = 'CANCELLED'", "true", Reservation.Status.CANCELLED)


def _close(
    reservation: Reservation, change: str, condition: str, wanted: ReservationStatus
) -> Reservation:
    with connection.cursor() as cursor:
        cursor.execute(
            f"UPDATE promotions_reservation SET {change} "
            f"WHERE id = %s AND status = 'HELD' AND {condition}",
            [reservation.pk],
        )
    reservation.refresh_from_db()
    if reservation.status != wanted:
        raise ReservationClosed
    return reservation
