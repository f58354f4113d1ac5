"""(a) `check_active_promos` against two bare UPDATEs that open and close the same promos."""

import argparse
from functools import partial

from django.db import connection as django_connection

from benchmarks import data
from benchmarks.rounds import interleave, progress, seconds
from benchmarks.servers import calm, connect, execute
from benchmarks.table import Row
from promotions.tasks import check_active_promos

PROMOS = 1_000_000

# Of twenty, one is due to open and one to close; six wait, six are open, six are past.
# The windows are in no order and the kinds take turns, so the due ones lie all over the table.
_PROMOS = """
    INSERT INTO promotions_flashpromo (id, product_id, promo_price, quantity, eligible_segments,
                                       status, starts_at, ends_at)
    SELECT n, (%(products)s::bigint[])[1 + n %% cardinality(%(products)s::bigint[])], 60, 100, '{}',
           CASE WHEN kind = 0 OR kind BETWEEN 2 AND 7 THEN 'SCHEDULED'
                WHEN kind = 1 THEN CASE WHEN n %% 200 = 1 THEN 'SCHEDULED' ELSE 'ACTIVE' END
                WHEN kind BETWEEN 8 AND 13 THEN 'ACTIVE'
                WHEN kind BETWEEN 14 AND 17 THEN 'EXPIRED'
                WHEN kind = 18 THEN 'CANCELLED'
                ELSE 'ARCHIVED' END,
           begins + shift,
           CASE WHEN kind = 1 OR kind >= 14 THEN begins + shift + interval '2 hours'
                ELSE begins + shift + interval '10 days' END
    FROM (SELECT n, n %% 20 AS kind,
                 (n * 7919 %% 1000003) * interval '1 millisecond' AS shift,
                 now() - interval '1 day'
                 + CASE WHEN n %% 20 BETWEEN 2 AND 7 THEN interval '3 days'
                        ELSE interval '0' END AS begins
          FROM generate_series(1::bigint, %(promos)s) n) promo
"""

_RESTORE = """
    UPDATE promotions_flashpromo
    SET status = CASE WHEN id %% 20 = 0 OR id %% 200 = 1 THEN 'SCHEDULED' ELSE 'ACTIVE' END
    WHERE id %% 20 <= 1
""".replace("%%", "%")

_CLOSE = """
    UPDATE promotions_flashpromo SET status = 'EXPIRED'
    WHERE status IN ('SCHEDULED', 'ACTIVE') AND ends_at <= now()
"""
_OPEN = """
    UPDATE promotions_flashpromo SET status = 'ACTIVE'
    WHERE status = 'SCHEDULED' AND starts_at <= now() AND ends_at > now()
"""


def run(options: argparse.Namespace) -> list[Row]:
    shoppers = data.shoppers_make(options.scale)
    due = data.scaled(PROMOS, options.scale, 400) // 20
    promos_make(due * 20, data.products_make(options.scale))
    measured = interleave(
        "(a) promos due",
        options.rounds,
        {"task": partial(check_due, due), "two UPDATEs": partial(_bare, due)},
    )
    return [
        Row(
            f"(a) `check_active_promos`: {due:,} of {due * 20:,} promos open and {due:,} close, "
            f"{shoppers:,} shoppers, none near / two bare UPDATEs",
            measured["task"],
            measured["two UPDATEs"],
            "s",
            "at most 1.3",
        )
    ]


def promos_make(count: int, products: list[int]) -> None:
    progress(f"making {count:,} promos")
    # The trigger looks up each product's price: minutes for a million rows known to be right.
    execute("ALTER TABLE promotions_flashpromo DISABLE TRIGGER check_promo_price")
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute(_PROMOS, {"promos": count, "products": products})
        cursor.execute("SELECT setval('promotions_flashpromo_id_seq', %s)", [count])
    connection.close()
    execute("ALTER TABLE promotions_flashpromo ENABLE TRIGGER check_promo_price")
    calm("promotions_flashpromo")


def _restore() -> None:
    """The same statuses in the same places: an UPDATE back alone would move the rows about."""
    execute(_RESTORE, "CLUSTER promotions_flashpromo USING promotions_flashpromo_pkey")
    calm("promotions_flashpromo")


def check_due(due: int) -> float:
    _restore()
    django_connection.ensure_connection()
    results: list[dict[str, int]] = []
    duration = seconds(lambda: results.append(check_active_promos()))
    expected = {"closed": due, "opened": due, "notified": 0, "published": 0}
    if results != [expected]:
        raise RuntimeError(f"the task did {results}, not {expected}")
    return duration


def _bare(due: int) -> float:
    _restore()
    connection = connect()
    with connection.cursor() as cursor:

        def update() -> list[int]:
            return [cursor.execute(statement) or cursor.rowcount for statement in (_CLOSE, _OPEN)]

        counts: list[int] = []
        duration = seconds(lambda: counts.extend(update()))
    connection.close()
    if counts != [due, due]:
        raise RuntimeError(f"the UPDATEs changed {counts}, not {[due, due]}")
    return duration
