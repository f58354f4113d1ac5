"""Listing, showing and cancelling executions."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery import shared_task
from django.test import override_settings
from django.utils import timezone

from deploy.embedded.servers import free_port
from marketplace.api import BoundedPaginator
from task_manager import selectors
from task_manager.utils import track_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

ROW = [
    "id",
    "task_id",
    "task_name",
    "task_module",
    "description",
    "user",
    "status",
    "progress",
    "message",
    "error",
    "worker",
    "queue",
    "retries",
    "created_at",
    "started_at",
    "finished_at",
    "duration",
]


@shared_task(name="tests.report")
@track_task("ventas.reporte", "ventas", "Reporte de ventas")
def report(user_id):
    """Never run: no worker listens here."""


@pytest.fixture
def ana(make_shopper):
    return make_shopper("ana")


@pytest.fixture
def client(client_of, ana):
    return client_of(ana)


@pytest.fixture
def staff(client_of, make_shopper):
    user = make_shopper("staff")
    user.is_staff = True
    user.save()
    return client_of(user)


def listed(client, **query) -> list[str]:
    response = client.get("/api/tasks/executions/", query)
    assert response.status_code == 200, response.content
    return [row["task_id"] for row in response.json()["results"]]


def test_a_row_has_what_the_component_shows(client, ana, make_execution):
    make_execution(user=ana, parameters={"a": 1}, result=2, traceback="x", progress=40)
    page = client.get(f"/api/tasks/executions/?user={ana.pk}").json()
    assert (page["count"], page["next"], page["previous"]) == (1, None, None)
    row = page["results"][0]
    assert list(row) == ROW
    assert (row["id"], row["task_id"], row["progress"]) == ("task-1", "task-1", 40)
    assert (row["task_name"], row["status"], row["user"]) == (
        "nomina.consolidar",
        "PENDING",
        ana.pk,
    )


def test_one_is_shown_whole(client, ana, make_execution):
    make_execution(
        user=ana, status="FAILURE", parameters={"a": 1}, result=[1], error="e", traceback="t"
    )
    shown = client.get("/api/tasks/executions/task-1/").json()
    assert set(shown) == {*ROW, "parameters", "result", "traceback"}
    assert (shown["parameters"], shown["result"], shown["traceback"]) == ({"a": 1}, [1], "t")


def test_a_task_just_published_is_there_without_any_worker(client, ana):
    task_id = report.delay(user_id=ana.pk).id
    assert client.get(f"/api/tasks/{task_id}/status/").json()["state"] == "PENDING"
    shown = client.get(f"/api/tasks/executions/{task_id}/").json()
    assert (shown["task_name"], shown["task_module"]) == ("ventas.reporte", "ventas")
    assert (shown["user"], shown["parameters"]) == (ana.pk, {"user_id": ana.pk})
    assert listed(client) == [task_id]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["3", "2", "1"]),
        ({"task_module": "nomina"}, ["2", "1"]),
        ({"task_name": "backup"}, ["3"]),
        ({"status": "SUCCESS"}, ["2"]),
        ({"status": "FAILURE"}, []),
        ({"search": "copia"}, ["3"]),
        ({"search": "2"}, ["2"]),
        ({"search": "copia", "status": "SUCCESS"}, []),
        ({"task_module": "nomina", "status": "PENDING"}, ["1"]),
        ({"ordering": "created_at"}, ["1", "2", "3"]),
        ({"ordering": "-duration"}, ["2", "1", "3"]),
        ({"ordering": "duration"}, ["3", "1", "2"]),
        ({"ordering": "task_name", "task_module": "nomina"}, ["1", "2"]),
        ({"page_size": "1", "page": "2"}, ["2"]),
        ({"page_size": "1", "page": "2", "ordering": "-duration"}, ["1"]),
    ],
)
def test_a_listing_is_filtered_and_ordered(staff, make_execution, query, found):
    make_execution(task_id="1", duration=2)
    make_execution(task_id="2", duration=3, status="SUCCESS")
    make_execution(
        task_id="3", task_name="backup", task_module="conta", description="Copia", duration=1
    )
    assert listed(staff, **query) == found


def test_staff_ask_for_one_user_s_tasks(staff, ana, make_execution):
    mine = make_execution(user=ana)
    make_execution()
    assert listed(staff, user=ana.pk) == [mine.pk]
    assert listed(staff, user=10**30) == []


def test_the_time_range_includes_its_ends(staff, make_execution):
    now = timezone.now()
    for hours in range(4):
        make_execution(task_id=str(hours), created_at=now - timedelta(hours=hours))
    query = {
        "created_after": (now - timedelta(hours=2)).isoformat(),
        "created_before": (now - timedelta(hours=1)).isoformat(),
    }
    assert listed(staff, **query) == ["1", "2"]


@pytest.mark.parametrize(
    ("bound", "moment", "count"),
    [
        ("created_after", "2000-01-01T00:00:00+16:58", 1),  # no offset that PostgreSQL takes
        ("created_after", "0001-01-01T00:00:00+14:00", 1),
        ("created_before", "9999-12-31T23:59:59-14:00", 1),
        ("created_before", "0001-01-01T00:00:00Z", 0),
        ("created_before", "2000-01-01", 0),
    ],
)
def test_any_moment_is_a_bound(staff, make_execution, bound, moment, count):
    make_execution()
    assert len(listed(staff, **{bound: moment})) == count


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"user": "ana"}, "number of a user"),
        ({"user": "0"}, "number of a user"),
        ({"status": "DONE"}, "Use one of: PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED."),
        ({"ordering": "traceback"}, "Use one of: -created_at, created_at"),
        ({"created_after": "yesterday"}, "valid date/time"),
        ({"search": "\0"}, "Null characters"),
        ({"page_size": "-1"}, "whole number"),
    ],
)
def test_a_wrong_parameter_says_what_would_be_right(staff, query, message):
    response = staff.get("/api/tasks/executions/", query)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid")
    assert message in error["fields"][next(iter(query))][0]


def test_counting_and_sorting_stop_at_the_bound(staff, make_execution, monkeypatch):
    monkeypatch.setattr(BoundedPaginator, "LIMIT", 2)
    monkeypatch.setattr(selectors, "SORTED", 2)
    for _ in range(3):
        make_execution()
    for query in ({}, {"ordering": "duration"}):
        assert staff.get("/api/tasks/executions/", query).json()["count"] == 2


def test_a_page_takes_five_queries_at_most(
    staff, ana, make_execution, django_assert_max_num_queries
):
    for _ in range(5):
        make_execution(user=ana)
    with django_assert_max_num_queries(5):  # the caller, known tasks, what to sort, count, rows
        assert len(listed(staff, search="nomina", ordering="status")) == 5


def test_user_tasks_are_one_s_own_for_staff_too(client_of, make_shopper, make_execution):
    boss = make_shopper("boss")
    boss.is_staff = True
    boss.save()
    make_execution()
    mine = make_execution(user=boss)
    page = client_of(boss).get("/api/tasks/user-tasks/", {"status": "PENDING"}).json()
    assert [row["id"] for row in page["results"]] == [mine.pk]


# --- Status --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"status": "PENDING"}, {"state": "PENDING", "info": None, "progress": 0}),
        (
            {"status": "STARTED", "progress": 40, "message": "4/10"},
            {"state": "STARTED", "info": "4/10", "progress": 40, "message": "4/10"},
        ),
        (
            {"status": "SUCCESS", "result": {"message": "ok"}, "progress": 100},
            {"state": "SUCCESS", "info": "{'message': 'ok'}", "result": {"message": "ok"}},
        ),
        ({"status": "SUCCESS", "result": None}, {"state": "SUCCESS", "info": None, "result": None}),
        (
            {"status": "FAILURE", "error": "ValueError('no')", "message": "4/10"},
            {"state": "FAILURE", "info": "ValueError('no')"},
        ),
        ({"status": "REVOKED", "result": 1}, {"state": "REVOKED", "info": None}),
    ],
)
def test_the_status_has_a_result_once_it_succeeded(client, ana, make_execution, fields, shown):
    make_execution(user=ana, **fields)
    answer = client.get("/api/tasks/task-1/status/").json()
    assert answer.items() >= shown.items()
    names = {"task_id", "state", "info", "progress", "message"}
    assert set(answer) == names | ({"result"} if fields["status"] == "SUCCESS" else set())


@pytest.mark.parametrize(
    "path", ["executions/none/", "none/status/", "executions/a%00b/", "a%00b/status/"]
)
def test_an_unknown_task_is_404(staff, path):
    response = staff.get(f"/api/tasks/{path}")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


# --- Cancel --------------------------------------------------------------------------------------
def test_a_task_that_waits_is_revoked(client, ana):
    task_id = report.delay(user_id=ana.pk).id
    response = client.post(f"/api/tasks/cancel/{task_id}/")
    assert (response.status_code, response.json()["status"]) == (200, "REVOKED")
    assert client.get(f"/api/tasks/{task_id}/status/").json()["info"] == "The task was cancelled."


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE", "REVOKED"])
def test_a_finished_task_cannot_be_cancelled(client, ana, make_execution, status):
    execution = make_execution(user=ana, status=status)
    response = client.post(f"/api/tasks/cancel/{execution.pk}/")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "already_finished")
    execution.refresh_from_db()
    assert execution.status == status


def test_staff_cancel_anybody_s_task(staff, ana, make_execution):
    execution = make_execution(user=ana)
    assert staff.post(f"/api/tasks/cancel/{execution.pk}/").json()["status"] == "REVOKED"


# --- Statistics ----------------------------------------------------------------------------------
def test_the_statistics_are_those_of_the_selector(staff, make_execution):
    make_execution()
    shown = staff.get("/api/tasks/stats/").json()
    assert (shown["days"], shown["total"], shown["by_status"]["PENDING"]) == (30, 1, 1)
    assert shown["modules"][0]["tasks"][0]["task_name"] == "nomina.consolidar"
    assert shown == selectors.statistics(days=30)


@pytest.mark.parametrize("days", ["0", "-1", "3651", "many", "1.5"])
def test_the_days_are_a_number_with_bounds(staff, days):
    response = staff.get("/api/tasks/stats/", {"days": days})
    assert (response.status_code, list(response.json()["error"]["fields"])) == (400, ["days"])


# --- Redis away ----------------------------------------------------------------------------------
@pytest.fixture
def no_redis() -> Iterator[None]:
    """Cancelling asks where nothing listens."""
    with override_settings(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0"):
        yield


def test_without_redis_the_history_is_shown_and_cancelling_is_put_off(
    client, ana, make_execution, no_redis
):
    execution = make_execution(user=ana)
    assert listed(client) == [execution.pk]
    assert client.get(f"/api/tasks/{execution.pk}/status/").status_code == 200
    response = client.post(f"/api/tasks/cancel/{execution.pk}/")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
    execution.refresh_from_db()
    assert execution.status == "PENDING"
