"""The proof that it works: a promo opens, shoppers are told, a reservation holds the price."""

import time
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from deploy.embedded.api import Api
from deploy.embedded.errors import ProgramError
from deploy.embedded.screen import Step
from deploy.embedded.supervisor import Supervisor

SHOPPER = "demo-shopper"
#: Statuses with which a reservation is refused for a reason of the promo's: 409 when sold out.
REFUSALS = {400, 403, 409}
READY_SECONDS = 60
DELIVERY_SECONDS = 180


@dataclass(frozen=True)
class Promo:
    """An open promo and how far its shoppers are told."""

    pk: int
    product: str
    store: str
    price: Decimal
    list_price: Decimal
    told: int
    delivered: int


def wait_until_ready(api: Api, supervisor: Supervisor) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        status, answer = api.call("GET", "/readyz")
        if status == 200:
            return
        supervisor.check()
        if time.monotonic() > deadline:
            checks = answer.get("checks", {}) if isinstance(answer, dict) else {}
            failing = [f"{name}: {text}" for name, text in checks.items() if text != "ok"]
            raise ProgramError(
                "web", f"web is not ready after {READY_SECONDS} s ({'; '.join(failing) or status})"
            )
        time.sleep(0.1)


def wait_for_delivery(supervisor: Supervisor, step: Step) -> Promo:
    """Wait until beat and the worker opened what is due and delivered all notifications.

    A shopper is told once a day, so on a later run the deliveries may be of an earlier promo.
    """
    from django.db.models.functions import Now

    from promotions.models import FlashPromo, Notification

    status = Notification.Status
    due = FlashPromo.objects.filter(
        status=FlashPromo.Status.SCHEDULED, starts_at__lte=Now(), ends_at__gt=Now()
    )
    outstanding = Notification.objects.filter(status__in=[status.PENDING, status.PUBLISHED])
    delivered = Notification.objects.filter(status=status.DELIVERED)
    deadline = time.monotonic() + DELIVERY_SECONDS
    while True:
        opening, waiting, done = due.exists(), outstanding.count(), delivered.count()
        promo = best_promo()  # last, so that it shows no less than what the counts saw
        if promo and promo.delivered == promo.told and done and not waiting and not opening:
            return promo
        supervisor.check()
        if time.monotonic() > deadline:
            raise ProgramError(
                "worker",
                f"after {DELIVERY_SECONDS} s {'no' if promo is None else 'a'} promo is open, "
                f"{done} notifications are delivered and {waiting} are not",
            )
        step.update(
            f"Promo open, notifications: {done} of {done + waiting} delivered"
            if promo
            else "Waiting for beat and the worker to open a promo"
        )
        time.sleep(0.2)


def best_promo() -> Promo | None:
    """The open promo of which most shoppers were told."""
    from django.db.models import Count, Q

    from promotions import selectors
    from promotions.models import FlashPromo, Notification

    row = (
        FlashPromo.objects.filter(selectors.OPEN_NOW)
        .select_related("product__store")
        .annotate(
            told=Count("notifications"),
            delivered=Count(
                "notifications", filter=Q(notifications__status=Notification.Status.DELIVERED)
            ),
        )
        .order_by("-delivered", "-starts_at", "pk")
        .first()
    )
    if row is None:
        return None
    return Promo(
        pk=row.pk,
        product=row.product.name,
        store=row.product.store.name,
        price=row.promo_price,
        list_price=row.product.list_price,
        told=row.told,
        delivered=row.delivered,
    )


def reserve(api: Api, promo: Promo, password: str) -> str:
    """Reserve as the demo shopper through the API, this promo first; return what came of it."""
    status = api.login(SHOPPER, password)
    if status != 200:
        raise ProgramError("web", f"{SHOPPER} could not log in through the API: status {status}")
    refused = set()
    for pk in [promo.pk, *_others(api, promo.pk)]:
        status, answer = api.call("POST", f"/api/promos/{pk}/reserve/")
        if status == 201:
            return f"{_offer(api, pk)} until {_clock(answer['reserved_until'])}"
        if "already_holding" in str(answer):
            return f"{_offer(api, pk)}{_until(api, pk)}, since an earlier run"
        refused.add(status)
        if status not in REFUSALS:
            break
    if 409 in refused <= REFUSALS:
        return f"sold out, so there was nothing left for {SHOPPER} to reserve"
    raise ProgramError("web", f"the reservation through the API failed: status {status}, {answer}")


def _offer(api: Api, pk: int) -> str:
    _, promo = api.call("GET", f"/api/promos/{pk}/")
    price, name, store = promo["promo_price"], promo["product_name"], promo["store_name"]
    return f"{SHOPPER} holds {name} at {store} for {price}"


def _others(api: Api, pk: int) -> list[int]:
    _, answer = api.call("GET", "/api/promos/?active=true")
    rows: list[dict[str, Any]] = answer.get("results", []) if isinstance(answer, dict) else []
    return [row["id"] for row in rows if row["id"] != pk]


def _until(api: Api, pk: int) -> str:
    _, answer = api.call("GET", "/api/reservations/")
    rows: list[dict[str, Any]] = answer.get("results", []) if isinstance(answer, dict) else []
    held = [row for row in rows if row.get("status") == "HELD" and pk in row.values()]
    return f" until {_clock(held[0]['reserved_until'])}" if held else ""


def _clock(text: str) -> str:
    until = datetime.fromisoformat(text)
    seconds = (until - datetime.now(until.tzinfo)).total_seconds()
    return f"{until.astimezone():%H:%M:%S} ({seconds:.0f} s)"
