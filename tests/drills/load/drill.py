"""What runs inside the containers of a drill: its task, and `python -m drill COMMAND`.

prepare N      tables, and N shoppers around one store
reset          forget the last round; one promo that tells every shopper, one that buyers reserve
publish N WAY  publish the tasks 1 to N that were not yet, again and again until each is taken;
               WAY: `enqueue` promises each, `both` publishes every other one by `delay()`
flood SECONDS  publish without end; prints how many were taken and how many refused
tokens         of the buyers, one a line
broker         what waits and what is held, as JSON
"""

import json
import sys
import time
from datetime import timedelta

from celery import shared_task
from django.db import Error, connection

PUBLISH_SECONDS = 40
UNITS = 300
BUYERS = 8

TABLES = """
    CREATE TABLE drill_order (
        number integer PRIMARY KEY, way text, published boolean, done boolean);
    CREATE TABLE drill_run (number integer, at timestamptz DEFAULT now());
    CREATE TABLE drill_row (number integer, at timestamptz DEFAULT now());
    CREATE TABLE drill_delivery (notification bigint, at timestamptz DEFAULT now());
    CREATE FUNCTION drill_deliver() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO drill_delivery VALUES (NEW.id); RETURN NEW; END $$;
    CREATE TRIGGER drill_deliver AFTER UPDATE ON promotions_notification FOR EACH ROW
        WHEN (NEW.status = 'DELIVERED') EXECUTE FUNCTION drill_deliver();
"""
# No constraint keeps a row from being there twice: the guarded state alone does.
LEAVE_ROW = """
    WITH due AS (UPDATE drill_order SET done = true WHERE number = %s AND NOT done RETURNING number)
    INSERT INTO drill_row SELECT number FROM due
"""


PUBLISHED = "UPDATE drill_order SET published = true WHERE number = %s"


# PostgreSQL may be away while it runs.
@shared_task(name="drill.leave_row", autoretry_for=(Error,), retry_backoff=1, max_retries=9)
def leave_row(number):
    """Leave one row, however often this runs."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO drill_run VALUES (%s)", [number])
        time.sleep(0.05)
        cursor.execute(LEAVE_ROW, [number])


@shared_task(name="drill.nothing")
def nothing(text):
    """What the flood is made of."""


def prepare(count):
    from django.contrib.auth.models import User

    from promotions.models import Product, ShopperProfile, Store

    with connection.cursor() as cursor:
        cursor.execute(TABLES)
    users = User.objects.bulk_create(User(username=f"drill-{n}") for n in range(int(count)))
    ShopperProfile.objects.bulk_create(
        ShopperProfile(
            user=user, latitude=19.4, longitude=-99.1, segment="frequent" if n < BUYERS else "new"
        )
        for n, user in enumerate(users)
    )
    store = Store.objects.create(name="drill", latitude=19.4, longitude=-99.1)
    for name in ("told", "sold"):
        Product.objects.create(store=store, name=name, list_price=100)


def reset():
    from django.utils import timezone

    from promotions.models import FlashPromo, Product

    with connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE drill_order, drill_run, drill_row, drill_delivery, promotions_notification, "
            "promotions_reservation, promotions_flashpromo"
        )
    now = timezone.now()
    for product in Product.objects.filter(store__name="drill"):
        FlashPromo.objects.create(
            product=product,
            promo_price=60,
            quantity=UNITS,
            starts_at=now,
            ends_at=now + timedelta(hours=2),
            eligible_segments=["frequent"] if product.name == "sold" else [],
        )


def publish(count, way):
    """A number is taken once `delay()` or the commit has returned."""
    for number in range(1, int(count) + 1):
        promised = way == "enqueue" or number % 2 == 0
        while not _published(number, promised):
            time.sleep(0.5)
        time.sleep(PUBLISH_SECONDS / int(count))


def _published(number, promised):
    from django.db import transaction

    from task_manager.utils import enqueue

    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT FROM drill_order WHERE number = %s AND published", [number])
            if cursor.rowcount:
                return True
            cursor.execute(
                "INSERT INTO drill_order VALUES (%s, %s, false, false) ON CONFLICT DO NOTHING",
                [number, "enqueue" if promised else "delay"],
            )
            with transaction.atomic():
                if promised:
                    enqueue(leave_row, [number])
                else:
                    leave_row.delay(number)
                cursor.execute(
                    "UPDATE drill_order SET published = true WHERE number = %s", [number]
                )
    except Exception as error:
        print(f"{number}: {error!r}", file=sys.stderr, flush=True)
        connection.close()
        return False
    return True


def flood(seconds):
    from redis import RedisError

    from marketplace.broker import QueueFull

    taken = refused = 0
    deadline = time.monotonic() + float(seconds)
    while time.monotonic() < deadline:
        try:
            nothing.apply_async(("x" * 1000,), queue="low_priority")
            taken += 1
        except (QueueFull, RedisError):
            refused += 1
    print(json.dumps({"taken": taken, "refused": refused}))


def tokens():
    from django.contrib.auth.models import User
    from rest_framework_simplejwt.tokens import AccessToken

    for user in User.objects.filter(username__startswith="drill-").order_by("id")[:BUYERS]:
        token = AccessToken.for_user(user)
        token.set_exp(lifetime=timedelta(hours=6))
        print(token)


def broker():
    from task_manager.clients.broker import broker

    with broker() as messages:
        depths = {queue: messages.depth(queue) for queue in messages.queues()}
        held = [message.headers["task"] for message in messages.held()]
        print(json.dumps({"waiting": depths, "held": held}))


if __name__ == "__main__":
    import django

    django.setup()
    import drill

    from marketplace.celery import app

    app.set_default()
    getattr(drill, sys.argv[1])(*sys.argv[2:])
