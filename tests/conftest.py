"""A world with something of everything in it, for tests that walk all addresses."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import current_app
from django.apps import apps
from django.contrib.auth.models import User
from django.utils import timezone

from promotions.models import Notification, ShopperProfile
from promotions.services.reservations import reservation_create
from task_manager.models import (
    DeadLetter,
    OutboxTask,
    TaskExecution,
    TaskNotification,
    TaskTemplate,
)
from telemetry.models import (
    MergedTelemetricOTT,
    QuarantinedRecord,
    SyncState,
    TelemetryRecordEntry,
)


@pytest.fixture
def unread() -> Iterator[None]:
    """The queue `unread` may be published to: Celery remembers it, and forgets it at the end."""
    yield
    current_app.amqp.queues.pop("unread", None)


@pytest.fixture
def world(callers, make_promo, make_store) -> dict[str, Any]:
    """A row of each model, the owner's where it is anybody's, each with a word that tells it."""
    now = timezone.now()
    owner = callers["owner"]
    User.objects.filter(pk=owner.pk).update(email="marker-email@example.com")
    ShopperProfile.objects.filter(user=owner).update(phone="marker-phone")
    promo = make_promo(store=make_store(owner=owner))
    reservation = reservation_create(promo_id=promo.pk, shopper_id=owner.pk)
    told_by_device = {
        "record_id": 5,
        "subscriber_code": "marker-subscriber",
        "timestamp": now,
        "date": now.date(),
        "hour": now.hour,
    }
    told = {"task_id": "marker-task", "task_name": "marker-name"}
    return {
        "store": promo.product.store,
        "product": promo.product,
        "flashpromo": promo,
        "reservation": reservation,
        "shopperprofile": ShopperProfile.objects.get(user=owner),
        "notification": Notification.objects.create(
            promo=promo,
            shopper=owner,
            local_day=now.date(),
            channel="in_app",
            status="DELIVERED",
            delivered_at=now,
        ),
        "taskexecution": TaskExecution.objects.create(
            **told,
            user=owner,
            position=1,
            parameters={"a": "marker-parameter"},
            result={"a": "marker-result"},
            created_at=now,
            changed_at=now,
        ),
        "tasktemplate": TaskTemplate.objects.create(
            name="marker-template", task_name="marker-name", module="m"
        ),
        "tasknotification": TaskNotification.objects.create(
            **told, user=owner, event="error", channel="in_app", created_at=now
        ),
        "deadletter": DeadLetter.objects.create(
            **told, celery_name="marker-celery", created_at=now, error="marker-error"
        ),
        "outboxtask": OutboxTask.objects.create(
            task_id="marker-task", celery_name="marker-celery", body='["marker-body"]'
        ),
        "telemetryrecordentry": TelemetryRecordEntry.objects.create(
            **told_by_device, ip="marker-ip", revision=1
        ),
        "mergedtelemetricott": MergedTelemetricOTT.objects.create(**told_by_device),
        "quarantinedrecord": QuarantinedRecord.objects.create(
            digest=b"1", reason="marker-reason", payload="marker-payload"
        ),
        "syncstate": SyncState.objects.create(error="marker-error"),
        "user": owner,
        "group": apps.get_model("auth.Group").objects.create(name="marker-group"),
    }


@pytest.fixture
def addresses(world) -> Callable[[str], str]:
    """Of a path of the schema, with the owner's rows in it."""
    starts = {
        "/api/stores/": world["store"].pk,
        "/api/products/": world["product"].pk,
        "/api/promos/": world["flashpromo"].pk,
        "/api/reservations/": world["reservation"].pk,
        "/api/tasks/templates/": world["tasktemplate"].name,
        "/api/tasks/notifications/": world["tasknotification"].pk,
        "/api/tasks/dead-letters/": world["deadletter"].pk,
        "/api/tasks/": world["taskexecution"].pk,
        "/api/telemetry/records/": world["telemetryrecordentry"].pk,
        "/api/telemetry/merged/": world["mergedtelemetricott"].pk,
        "/api/telemetry/quarantine/": world["quarantinedrecord"].pk,
    }

    def fill(path: str) -> str:
        if "{" not in path:
            return path
        value = next(value for start, value in starts.items() if path.startswith(start))
        return f"{path[: path.index('{')]}{value}{path[path.index('}') + 1 :]}"

    return fill
