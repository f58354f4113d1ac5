"""(b) The fan-out of one promo against a bare INSERT ... SELECT of as many notifications."""

import argparse
from functools import partial

from django.db import connection as django_connection

from benchmarks import data
from benchmarks.rounds import interleave, seconds
from benchmarks.servers import calm, connect, execute
from benchmarks.table import Row
from promotions.services.promos import promo_notify

_INSERT = """
    INSERT INTO promotions_notification (promo_id, shopper_id, local_day, channel)
    SELECT %s, user_id, current_date, channel FROM promotions_shopperprofile WHERE user_id <= %s
"""


def run(options: argparse.Namespace) -> list[Row]:
    shoppers = data.shoppers_make(options.scale)
    eligible = shoppers // 5
    promo_id = data.promo_make("fan-out")
    measured = interleave(
        "(b) fan-out",
        options.rounds,
        {
            "promo_notify": partial(fan_out_once, promo_id, eligible),
            "INSERT ... SELECT": partial(_bare, promo_id, eligible),
        },
    )
    execute("TRUNCATE promotions_notification")
    return [
        Row(
            f"(b) fan-out of one promo to {shoppers:,} shoppers, {eligible:,} eligible / bare "
            f"INSERT … SELECT of {eligible:,} rows",
            measured["promo_notify"],
            measured["INSERT ... SELECT"],
            "s",
            "at most 1.3",
        )
    ]


def _restore() -> None:
    execute("TRUNCATE promotions_notification")
    calm("promotions_notification")


def fan_out_once(promo_id: int, eligible: int) -> float:
    _restore()
    django_connection.ensure_connection()
    counts: list[int] = []
    duration = seconds(lambda: counts.append(promo_notify(promo_id)))
    if counts != [eligible]:
        raise RuntimeError(f"the fan-out wrote {counts[0]} notifications, not {eligible}")
    return duration


def _bare(promo_id: int, eligible: int) -> float:
    _restore()
    connection = connect()
    with connection.cursor() as cursor:
        duration = seconds(lambda: cursor.execute(_INSERT, [promo_id, eligible]))
    connection.close()
    return duration
