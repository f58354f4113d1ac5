"""The API does what its OpenAPI document says, for whatever schemathesis makes up from it."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from rest_framework_simplejwt.tokens import AccessToken
from schemathesis.config import SchemathesisConfig
from schemathesis.core import NOT_SET
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from promotions.services.reservations import reservation_create
from task_manager.models import DeadLetter, TaskExecution, TaskNotification, TaskTemplate
from telemetry.models import MergedTelemetricOTT, QuarantinedRecord, TelemetryRecordEntry

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

wsgi = get_wsgi_application()
#: With a request for each bound of each parameter as well, or made-up ones alone.
thorough = schemathesis.openapi.from_wsgi("/api/schema/", wsgi)
brief = schemathesis.openapi.from_wsgi(
    "/api/schema/",
    wsgi,
    config=SchemathesisConfig.from_dict({"phases": {"coverage": {"enabled": False}}}),
)

few = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def same_connection() -> Iterator[None]:
    """Requests use the test's own, as those of Django's client do."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def staff(make_shopper) -> Any:
    user = make_shopper("staff")
    user.is_staff = user.is_superuser = True
    user.save()
    return user


@pytest.fixture
def rows(staff, make_promo) -> dict[str, Any]:
    """By the beginning of a path, what stands for its parameter."""
    now = timezone.now()
    promo = make_promo(max_distance_km=20_000)
    reservation = reservation_create(promo_id=promo.pk, shopper_id=staff.pk)
    execution = TaskExecution.objects.create(
        task_id="known",
        task_name="nomina.consolidar",
        celery_name="nomina.tasks.consolidar",
        task_module="nomina",
        user=staff,
        position=1,
        parameters={"periodo_id": 1},
        created_at=now,
        changed_at=now,
    )
    template = TaskTemplate.objects.create(
        name="known", task_name="promotions.tasks.release_expired_reservations", module="m"
    )
    notification = TaskNotification.objects.create(
        task_id="known", task_name="a", user=staff, event="error", channel="in_app", created_at=now
    )
    letter = DeadLetter.objects.create(
        task_id="known", task_name="a", celery_name=template.task_name, created_at=now
    )
    told = {"record_id": 5, "timestamp": now, "date": now.date(), "hour": 7}
    return {
        "/api/stores/": promo.product.store_id,
        "/api/products/": promo.product_id,
        "/api/promos/": promo.pk,
        "/api/reservations/": reservation.pk,
        "/api/tasks/templates/": template.name,
        "/api/tasks/notifications/": notification.pk,
        "/api/tasks/dead-letters/": letter.pk,
        "/api/tasks/": execution.pk,
        "/api/telemetry/records/": TelemetryRecordEntry.objects.create(**told, revision=1).pk,
        "/api/telemetry/merged/": MergedTelemetricOTT.objects.create(**told).pk,
        "/api/telemetry/quarantine/": QuarantinedRecord.objects.create(digest=b"1").pk,
    }


def exchange(case: Any, excluded: tuple[Any, ...] = (), **headers: str) -> None:
    """One request, whose effects are undone."""
    if case.body is not NOT_SET:
        # What is stored decides, too: a promo needs its product, a price is below another. And
        # REST framework takes a number for a text, or false for 0.
        excluded += (positive_data_acceptance, negative_data_rejection)
    if "" in (case.query or {}).values():  # as forms send what was not filled in
        excluded += (negative_data_rejection,)
    with transaction.atomic():
        case.call_and_validate(headers=headers, excluded_checks=list(excluded))
        transaction.set_rollback(True)


@thorough.parametrize()
@few
def test_staff_get_what_the_document_says(case, staff):
    exchange(case, Authorization=f"Bearer {AccessToken.for_user(staff)}")


@brief.include(path_regex="{").parametrize()
@few
def test_staff_get_what_the_document_says_of_what_is_there(case, staff, rows):
    known = next(value for start, value in rows.items() if case.path.startswith(start))
    case.path_parameters = dict.fromkeys(case.path_parameters, known)
    # What was wrong may have been the path.
    exchange(
        case, (negative_data_rejection,), Authorization=f"Bearer {AccessToken.for_user(staff)}"
    )


@brief.parametrize()
@few
def test_anybody_gets_what_the_document_says(case, rows):
    exchange(case)
