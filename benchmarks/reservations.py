"""(c) Reservations through the service against the bare conditional UPDATE through psycopg2."""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from threading import Barrier, Thread

from django.db import connection as django_connection

from benchmarks import data
from benchmarks.rounds import deal, interleave
from benchmarks.servers import calm, connect, execute
from benchmarks.table import Row
from promotions.services.reservations import reservation_create

CALLS = 4_000
PROMOS = 8
#: (threads, promos)
SHAPES = ((1, 1), (8, 1), (8, PROMOS))

_HOLD = """
    UPDATE promotions_flashpromo SET held = held + 1 WHERE id = %s AND held + completed < quantity
"""
# No reservation of these would be found, and the counters go with the rows.
_RESTORE = (
    "DELETE FROM promotions_reservation",
    "UPDATE promotions_flashpromo SET held = 0 WHERE held > 0",
)

Buy = Callable[[int, int], object]


def run(options: argparse.Namespace) -> list[Row]:
    shoppers = data.shoppers_make(options.scale)
    calls = min(data.scaled(CALLS, options.scale, 80), shoppers // 5) // 8 * 8
    promos = [data.promo_make(f"reservations {n}", quantity=10 * CALLS) for n in range(PROMOS)]
    buyers = eligible(calls)
    return [_compare(options.rounds, threads, promos[:count], buyers) for threads, count in SHAPES]


def eligible(count: int) -> list[int]:
    with closing(connect()) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT user_id FROM promotions_shopperprofile WHERE user_id %% 10 <= 1 "
            "ORDER BY user_id LIMIT %s",
            [count],
        )
        return [row[0] for row in cursor.fetchall()]


def _compare(rounds: int, threads: int, promos: list[int], buyers: list[int]) -> Row:
    where = f"{threads} thread{'s' * (threads > 1)}, {len(promos)} promo{'s' * (len(promos) > 1)}"
    measured = interleave(
        f"(c) {where}",
        rounds,
        {
            "reservation_create": partial(rate, reserve, threads, promos, buyers),
            "UPDATE": partial(rate, _bare, threads, promos, buyers),
        },
    )
    return Row(
        f"(c) `reservation_create`, {where}, {len(buyers):,} calls / bare conditional UPDATE",
        measured["reservation_create"],
        measured["UPDATE"],
        "/s",
        "at least 0.5",
    )


def rate(
    work: Callable[[Barrier, Sequence[tuple[int, int]]], None],
    threads: int,
    promos: list[int],
    buyers: list[int],
) -> float:
    """Calls a second, from the moment when every thread has its connection."""
    execute(*_RESTORE)
    calm("promotions_reservation", "promotions_flashpromo")
    calls = [(promos[n % len(promos)], buyer) for n, buyer in enumerate(buyers)]
    shares = deal(calls, threads)
    barrier = Barrier(threads + 1)
    workers = [Thread(target=work, args=(barrier, share)) for share in shares]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    duration = time.perf_counter() - start
    _check(len(calls))
    return len(calls) / duration


def reserve(barrier: Barrier, calls: Sequence[tuple[int, int]]) -> None:
    try:
        django_connection.ensure_connection()
        barrier.wait()
        for promo_id, shopper_id in calls:
            reservation_create(promo_id=promo_id, shopper_id=shopper_id)
    finally:
        django_connection.close()


def _bare(barrier: Barrier, calls: Sequence[tuple[int, int]]) -> None:
    with closing(connect()) as connection, connection.cursor() as cursor:
        barrier.wait()
        for promo_id, _ in calls:
            cursor.execute(_HOLD, [promo_id])


def _check(expected: int) -> None:
    with closing(connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT sum(held) FROM promotions_flashpromo")
        if cursor.fetchone() != (expected,):
            raise RuntimeError(f"not every one of {expected} calls held a unit")
