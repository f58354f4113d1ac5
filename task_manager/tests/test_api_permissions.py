"""Who may do what: one table of every endpoint, method and caller."""

import json
from typing import Any

import pytest
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator

from task_manager.models import DeadLetter, TaskNotification, TaskTemplate

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

#: The API asks whether somebody is staff, and not for permissions, so a superuser may no more.
CALLERS = ("anonymous", "other", "owner", "staff", "superuser")
TEMPLATE = {"name": "new", "task_name": "nomina.consolidar", "module": "nomina"}

#: The status for each of CALLERS, the superuser's being that of staff. `{task}` and the like stand
#: for the owner's rows.
TABLE: dict[tuple[str, str], tuple[dict[str, Any] | None, tuple[int, int, int, int]]] = {
    ("GET", "/api/tasks/executions/"): (None, (401, 200, 200, 200)),
    ("GET", "/api/tasks/executions/{task}/"): (None, (401, 404, 200, 200)),
    ("GET", "/api/tasks/{task}/status/"): (None, (401, 404, 200, 200)),
    ("POST", "/api/tasks/cancel/{task}/"): (None, (401, 404, 200, 200)),
    ("GET", "/api/tasks/user-tasks/"): (None, (401, 200, 200, 200)),
    ("GET", "/api/tasks/workers/"): (None, (401, 200, 200, 200)),
    ("GET", "/api/tasks/flower-info/"): (None, (401, 200, 200, 200)),
    ("GET", "/api/tasks/stats/"): (None, (401, 403, 403, 200)),
    ("GET", "/api/tasks/templates/"): (None, (401, 403, 403, 200)),
    ("POST", "/api/tasks/templates/"): (TEMPLATE, (401, 403, 403, 201)),
    ("GET", "/api/tasks/templates/{template}/"): (None, (401, 403, 403, 200)),
    ("PUT", "/api/tasks/templates/{template}/"): (TEMPLATE, (401, 403, 403, 200)),
    ("PATCH", "/api/tasks/templates/{template}/"): ({"module": "m"}, (401, 403, 403, 200)),
    ("DELETE", "/api/tasks/templates/{template}/"): (None, (401, 403, 403, 204)),
    ("POST", "/api/tasks/templates/{template}/run/"): (None, (401, 403, 403, 202)),
    ("GET", "/api/tasks/notifications/"): (None, (401, 200, 200, 200)),
    ("POST", "/api/tasks/notifications/{notification}/read/"): (None, (401, 404, 200, 404)),
    ("POST", "/api/tasks/notifications/read/"): (None, (401, 200, 200, 200)),
    ("GET", "/api/tasks/dead-letters/"): (None, (401, 403, 403, 200)),
    ("GET", "/api/tasks/dead-letters/{letter}/"): (None, (401, 403, 403, 200)),
    ("POST", "/api/tasks/dead-letters/{letter}/requeue/"): (None, (401, 403, 403, 200)),
    ("POST", "/api/tasks/dead-letters/{letter}/discard/"): (None, (401, 403, 403, 200)),
}


@pytest.fixture
def rows(callers, make_execution) -> dict[str, Any]:
    template = TaskTemplate.objects.create(
        name="release", task_name="promotions.tasks.release_expired_reservations", module="m"
    )
    notification = TaskNotification.objects.create(
        task_id="1",
        task_name="a",
        user=callers["owner"],
        event="complete",
        channel="in_app",
        created_at=timezone.now(),
    )
    letter = DeadLetter.objects.create(
        task_id="2", celery_name=template.task_name, created_at=timezone.now()
    )
    return {
        "letter": letter.pk,
        "task": make_execution(user=callers["owner"]).pk,
        "template": template.name,
        "notification": notification.pk,
    }


def cases() -> list[Any]:
    return [
        pytest.param(method, path, body, caller, status, id=f"{method} {path} {caller} {status}")
        for (method, path), (body, statuses) in TABLE.items()
        for caller, status in zip(CALLERS, (*statuses, statuses[-1]), strict=True)
    ]


@pytest.mark.parametrize(("method", "path", "body", "caller", "status"), cases())
def test_who_may_do_what(client_of, callers, rows, method, path, body, caller, status):
    response = client_of(callers[caller]).generic(
        method, path.format(**rows), json.dumps(body or {}), content_type="application/json"
    )
    assert response.status_code == status, response.content
    if status >= 400:
        assert set(response.json()["error"]) == {"code", "message"}
        assert TaskNotification.objects.filter(read_at=None).count() == 1
        assert TaskTemplate.objects.filter(module="m").count() == 1


def test_the_table_has_every_operation_of_the_schema():
    schema = SchemaGenerator().get_schema(  # type: ignore[no-untyped-call]
        request=None, public=True
    )
    operations = {
        (method.upper(), without_names(path))
        for path, methods in schema["paths"].items()
        for method in methods
        if path.startswith("/api/tasks/")
    }
    assert operations == {(method, without_names(path)) for method, path in TABLE}


def without_names(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize("path", sorted({path for _method, path in TABLE}))
def test_every_other_method_is_405_for_staff(client_of, callers, rows, path):
    allowed = {m for m, p in TABLE if p == path}
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
        response = client_of(callers["staff"]).generic(method, path.format(**rows))
        assert response.status_code == 405, method
        assert response.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("listing", ["executions", "user-tasks", "notifications"])
def test_a_listing_has_the_caller_s_own_rows_alone(client_of, callers, rows, listing):
    counts = [
        client_of(callers[caller]).get(f"/api/tasks/{listing}/").json()["count"]
        for caller in ("other", "owner", "staff")
    ]
    assert counts == [0, 1, 1 if listing == "executions" else 0]


def test_another_user_s_tasks_cannot_be_asked_for(client_of, callers, rows):
    mine = client_of(callers["other"]).get("/api/tasks/executions/", {"user": callers["owner"].pk})
    assert mine.json()["results"] == []


def test_a_task_of_nobody_is_for_staff_alone(client_of, callers, make_execution):
    address = f"/api/tasks/executions/{make_execution().pk}/"
    assert [client_of(callers[name]).get(address).status_code for name in ("owner", "staff")] == [
        404,
        200,
    ]
