"""Many buyers at one moment, over HTTP, against the real web server."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from django.contrib.auth.models import User
from django.db import connection
from rest_framework_simplejwt.tokens import AccessToken

from deploy.embedded.servers import free_port, listens
from promotions.models import FlashPromo, Reservation, ShopperProfile

ROOT = Path(__file__).parents[2]
BUYERS = 200
UNITS = 50


@pytest.fixture
def web(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """The address of gunicorn, as in production, on the database of the test."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--config", "deploy/gunicorn.conf.py"]
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "DJANGO_STATIC_ROOT": str(tmp_path),
        "POSTGRES_DB": connection.settings_dict["NAME"],
        "WEB_BIND": f"127.0.0.1:{port}",
    }
    with (tmp_path / "web.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "marketplace.asgi"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 60
        while not listens(port):
            assert process.poll() is None, (tmp_path / "web.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "web.log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def buyers(make_shopper) -> list[User]:
    """Many shoppers at the store; made at once."""
    users = User.objects.bulk_create(User(username=f"buyer-{n}") for n in range(BUYERS))
    place = ShopperProfile.objects.filter(user=make_shopper()).values("latitude", "longitude")[0]
    ShopperProfile.objects.bulk_create(ShopperProfile(user=user, **place) for user in users)
    return users


def at_once(web: str, users: list[User], address: str) -> Counter[tuple[int, str]]:
    """Each user posts to the address at the same moment; counts the statuses and codes."""
    answers: Counter[tuple[int, str]] = Counter()
    gate = threading.Barrier(len(users))

    def post(user: User) -> None:
        headers = {"Authorization": f"Bearer {AccessToken.for_user(user)}"}
        with requests.Session() as session:
            session.get(f"{web}/healthz", timeout=60)  # the connection stands
            gate.wait(60)
            response = session.post(f"{web}{address}", headers=headers, timeout=60)
        body = response.json()
        answers[response.status_code, body.get("error", body).get("code", "")] += 1

    threads = [threading.Thread(target=post, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_200_buyers_of_50_units_hold_exactly_50(web, make_promo, buyers):
    promo = make_promo(quantity=UNITS)
    answers = at_once(web, buyers, f"/api/promos/{promo.pk}/reserve/")
    assert answers == {(201, ""): UNITS, (409, "sold_out"): BUYERS - UNITS}
    promo.refresh_from_db()
    assert (promo.held, promo.completed) == (UNITS, 0)
    assert Reservation.objects.filter(promo=promo, status="HELD").count() == UNITS


def test_one_shopper_who_clicks_many_times_holds_one(web, make_promo, buyers):
    promo = make_promo(quantity=UNITS)
    answers = at_once(web, buyers[:1] * 40, f"/api/promos/{promo.pk}/reserve/")
    assert answers == {(201, ""): 1, (409, "already_holding"): 39}
    assert FlashPromo.objects.get(pk=promo.pk).held == 1
