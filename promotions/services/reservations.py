"""Holding, buying and giving back one unit of a promo.

The database counts: a trigger keeps `held` and `completed` of the promo equal to its
reservations, and a check constraint refuses the unit too many. A hold whose time is over counts
as free at once: whoever finds the promo full first releases those.
"""

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, connection, transaction

from promotions import selectors
from promotions.exceptions import AlreadyHolding, ReservationClosed, SoldOut
from promotions.models import FlashPromo, Reservation, ReservationStatus

BATCH = 5000

# One statement, planned once a connection: it checks, counts and holds. No row means no, for a
# reason found out afterwards.
_HOLD = "SELECT * FROM promotions_hold(%s, %s, %s)"

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
    if not 0 < promo_id < 2**63:  # no key that the database could have
        raise FlashPromo.DoesNotExist
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
        with _undone_if_refused(), connection.cursor() as cursor:
            cursor.execute(_HOLD, [promo_id, shopper_id, settings.RESERVATION_HOLD_SECONDS])
            row: tuple[int, datetime, datetime] | None = cursor.fetchone()
            return row
    except IntegrityError as error:
        if _violated(error) == "promo_units_within_quantity":  # another took the last unit
            return None
        raise


def _undone_if_refused() -> AbstractContextManager[None]:
    """A savepoint inside a caller's transaction; alone, a statement is a transaction already."""
    return transaction.atomic() if connection.in_atomic_block else nullcontext()


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
