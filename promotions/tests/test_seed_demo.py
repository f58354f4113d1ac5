"""`seed_demo`: the same demonstration each time, with something open to reserve."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.utils import timezone

from promotions.models import FlashPromo, Notification, Product, ShopperProfile, Store
from promotions.selectors import OPEN_NOW
from promotions.services.demo import SHOPPER, demo_seed
from promotions.services.promos import promos_open
from promotions.services.reservations import reservation_create

NOON = datetime(2030, 1, 1, 12, 20, tzinfo=UTC)

pytestmark = pytest.mark.django_db


def seed() -> list[str]:
    out = io.StringIO()
    call_command("seed_demo", stdout=out)
    return out.getvalue().splitlines()


def versions() -> list[Any]:
    """Every row's identity and the transaction that wrote it."""
    tables = [model._meta.db_table for model in (Store, Product, FlashPromo, User, ShopperProfile)]
    with connection.cursor() as cursor:
        cursor.execute(" UNION ALL ".join(f"SELECT xmin, ctid FROM {table}" for table in tables))
        return list(cursor.fetchall())


def test_it_makes_stores_products_promos_and_shoppers():
    demo_seed(now=NOON)
    assert (Store.objects.count(), Product.objects.count()) == (6, 24)
    assert FlashPromo.objects.count() == 24
    assert ShopperProfile.objects.count() == 300
    assert ShopperProfile.objects.values("time_zone").distinct().count() == 5
    assert ShopperProfile.objects.filter(notifications_enabled=False).count() > 20


def test_promos_open_now_soon_and_later():
    demo_seed(now=NOON)
    windows = FlashPromo.objects.values_list("starts_at", "ends_at").order_by("starts_at")
    hour = NOON.replace(minute=0)
    assert list(windows.distinct()) == [
        (hour, hour + timedelta(hours=3)),
        (hour + timedelta(hours=1), hour + timedelta(hours=4)),
        (hour + timedelta(days=1), hour + timedelta(days=1, hours=4)),
        (hour + timedelta(days=3), hour + timedelta(days=4)),
    ]


def test_a_second_run_within_the_hour_changes_nothing():
    demo_seed(now=NOON, password="a password")
    before = versions()
    demo_seed(now=NOON + timedelta(minutes=39), password="a password")
    assert versions() == before


def test_a_run_an_hour_later_adds_promos():
    demo_seed(now=NOON)
    FlashPromo.objects.filter(starts_at__lte=NOON).update(status="ACTIVE")
    demo = demo_seed(now=NOON + timedelta(hours=1))
    assert demo.catalogue.counts["promos"] == (24, 0, 0)
    assert demo.catalogue.counts["products"] == (0, 0, 24)
    assert demo.shoppers.counts["users"] == (0, 0, 300)


def test_the_demo_shopper_is_told_and_can_reserve_what_is_open_now():
    demo = demo_seed(now=timezone.now())
    opened, notified = promos_open()
    assert opened == 6
    assert notified > 50
    promo = Notification.objects.get(shopper=demo.shopper).promo
    assert promo in FlashPromo.objects.filter(OPEN_NOW, eligible_segments=[])
    assert reservation_create(promo_id=promo.pk, shopper_id=demo.shopper.pk).status == "HELD"


def test_some_shoppers_are_too_far_and_some_in_the_wrong_segment():
    demo_seed(now=timezone.now())
    promos_open()
    told = ShopperProfile.objects.filter(user__notifications__isnull=False, segment="new")
    assert 0 < told.count() < ShopperProfile.objects.filter(segment="new").count()


def test_the_variable_sets_the_demo_shoppers_password(settings):
    settings.DEMO_PASSWORD = "a password of ours"
    assert seed()[-1] == f"{SHOPPER} can log in"
    assert User.objects.get(username=SHOPPER).check_password("a password of ours")


def test_without_the_variable_the_demo_shopper_keeps_the_password(settings):
    settings.DEMO_PASSWORD = ""
    assert seed()[-1] == f"{SHOPPER} has no password: set DEMO_PASSWORD and run this again"
    user = User.objects.get(username=SHOPPER)
    user.set_password("chosen")
    user.save()
    assert seed()[-1] == f"{SHOPPER} can log in"
    assert User.objects.get(username=SHOPPER).check_password("chosen")


def test_it_prints_what_it_made():
    assert seed()[:5] == [
        "stores: 6 created, 0 updated, 0 unchanged",
        "products: 24 created, 0 updated, 0 unchanged",
        "promos: 24 created, 0 updated, 0 unchanged",
        "users: 300 created, 0 updated, 0 unchanged",
        "profiles: 300 created, 0 updated, 0 unchanged",
    ]
