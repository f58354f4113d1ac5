"""What users see of the history, words in it, and its statistics."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from task_manager import selectors
from task_manager.api.serializers import ExecutionSerializer
from task_manager.entries import position
from task_manager.models import TaskExecution, TaskStatistic, TaskStatus
from task_manager.services.executions import executions_record

pytestmark = pytest.mark.django_db


def ids(executions) -> list[str]:
    return [execution.pk for execution in executions]


def test_a_user_sees_their_own_and_staff_all(make_execution, make_shopper):
    ana, eva = make_shopper("ana"), make_shopper("eva")
    mine, nobodys = make_execution(user=ana), make_execution()
    assert ids(selectors.executions_visible_to(ana)) == [mine.pk]
    assert ids(selectors.executions_visible_to(eva)) == []
    eva.is_staff = True
    assert ids(selectors.executions_visible_to(eva)) == [nobodys.pk, mine.pk]


def test_a_caller_without_a_name_owns_nothing(make_execution):
    make_execution()
    assert ids(selectors.executions_visible_to(AnonymousUser())) == []
    assert selectors.user_tasks(AnonymousUser()) == []


def test_user_tasks_are_as_the_api_shows_one(make_execution, make_shopper, rf):
    ana = make_shopper("ana")
    execution = make_execution(user=ana, result={"a": 1}, status="SUCCESS")
    tasks = selectors.user_tasks(ana)
    shown = ExecutionSerializer(TaskExecution.objects.get(pk=execution.pk)).data
    assert list(tasks[0]) == list(shown)
    assert json.loads(rendered(tasks)) == [json.loads(rendered(shown))]


def rendered(data) -> bytes:
    content: bytes = JSONRenderer().render(Response(data).data)
    return content


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["3", "2", "1"]),
        ({"module": "nomina"}, ["2", "1"]),
        ({"task_name": "a"}, ["3", "1"]),
        ({"status": "SUCCESS"}, ["2"]),
        ({"limit": 1}, ["3"]),
    ],
)
def test_user_tasks_are_chosen_and_the_newest_first(make_execution, make_shopper, wanted, found):
    ana = make_shopper("ana")
    make_execution(task_id="1", user=ana, task_name="a")
    make_execution(task_id="2", user=ana, task_name="b", status="SUCCESS")
    make_execution(task_id="3", user=ana, task_name="a", task_module="other")
    make_execution(user=make_shopper("eva"))
    assert [task["task_id"] for task in selectors.user_tasks(ana, **wanted)] == found


def test_the_known_tasks_are_each_once_as_their_newest_says(make_execution):
    make_execution(task_name="b", description="old")
    make_execution(task_name="b", description="new")
    make_execution(task_name="a", task_module="m", description="one")
    assert selectors.known_tasks() == [
        selectors.KnownTask("a", "m", "one"),
        selectors.KnownTask("b", "nomina", "new"),
    ]


def test_no_task_is_known_in_an_empty_history():
    assert selectors.known_tasks() == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("CONSOLIDAR", ["1"]),
        ("conta", ["2"]),
        ("período", ["1"]),
        ("2", ["2"]),
        ("%", []),
        ("nothing", []),
    ],
)
def test_a_search_finds_words_of_the_task_or_its_id(make_execution, text, found):
    make_execution(task_id="1")
    make_execution(task_id="2", task_name="backup", task_module="contabilidad", description="Copia")
    assert ids(selectors.executions_search(TaskExecution.objects.all(), text)) == found


def test_only_the_newest_are_sorted_by_what_has_no_index(make_execution, monkeypatch):
    monkeypatch.setattr(selectors, "SORTED", 2)
    for number, duration in enumerate([9.0, 1.0, 2.0]):
        make_execution(task_id=str(number), duration=duration)
    everything = TaskExecution.objects.all()
    assert ids(selectors.executions_ordered(everything, "-duration")) == ["2", "1"]
    assert ids(selectors.executions_ordered(everything, "created_at")) == ["0", "1", "2"]


# --- Statistics ----------------------------------------------------------------------------------
def ended(task_id: str, status: str = "SUCCESS", *, at: datetime, **fields) -> bytes:
    seconds = at.timestamp()
    entry = {
        "id": task_id,
        "status": status,
        "position": position(status),
        "at": seconds,
        "name": "nomina.consolidar",
        "celery_name": "nomina.tasks.consolidar_nomina",
        "module": "nomina",
        "created_at": seconds,
        "finished_at": seconds,
        "duration": 1.0,
    }
    return json.dumps(entry | fields).encode()


def test_statistics_count_by_status_and_measure_what_completed(make_execution):
    now = timezone.now()
    executions_record(
        [
            *(ended(f"ok-{number}", at=now, duration=number / 10) for number in range(1, 96)),
            *(ended(f"bad-{number}", "FAILURE", at=now, duration=20.0) for number in range(5)),
            ended("gone", "REVOKED", at=now, duration=None),
        ]
    )
    make_execution()
    found = selectors.module_statistics("nomina", days=30)
    assert found["total"] == 102
    assert found["by_status"] == dict.fromkeys(TaskStatus.values, 0) | {
        "PENDING": 1,
        "SUCCESS": 95,
        "FAILURE": 5,
        "REVOKED": 1,
    }
    assert found["failure_rate"] == pytest.approx(0.05)
    assert found["mean_duration"] == pytest.approx((sum(range(1, 96)) / 10 + 5 * 20) / 100)
    assert found["p95_duration"] == pytest.approx(9.5, rel=0.1)
    figures = {
        name: value for name, value in found.items() if name not in ("module", "days", "tasks")
    }
    assert found["tasks"] == [{"task_name": "nomina.consolidar", **figures}]


def test_statistics_are_of_the_days_asked_for():
    now = timezone.now()
    executions_record([ended("new", at=now), ended("old", at=now - timedelta(days=10))])
    assert selectors.module_statistics("nomina", days=30)["total"] == 2
    assert selectors.module_statistics("nomina", days=5)["total"] == 1


def test_tasks_a_minute_count_from_the_first_hour_of_the_time_on():
    now = timezone.now()
    first = (now - timedelta(hours=10)).replace(minute=0, second=0, microsecond=0)
    TaskStatistic.objects.create(
        hour=first,
        task_name="a",
        task_module="m",
        status="SUCCESS",
        bucket=0,
        count=6000,
        seconds=1,
    )
    minutes = (now - first).total_seconds() / 60
    rate = selectors.module_statistics("m")["tasks_per_minute"]
    assert rate == pytest.approx(6000 / minutes, rel=0.01)


def test_a_module_without_tasks_has_no_rate():
    found = selectors.module_statistics("none")
    assert (found["total"], found["tasks"]) == (0, [])
    assert [found[name] for name in ("failure_rate", "mean_duration", "p95_duration")] == [None] * 3


def test_statistics_add_the_modules_up():
    at = datetime.now(UTC)
    executions_record(
        [
            ended("1", at=at),
            ended("2", at=at, name="a", module="ventas"),
            ended("3", "FAILURE", at=at, name="b", module="ventas"),
        ]
    )
    found = selectors.statistics(days=1)
    assert (found["days"], found["total"], found["failure_rate"]) == (1, 3, pytest.approx(1 / 3))
    assert [(module["module"], module["total"]) for module in found["modules"]] == [
        ("nomina", 1),
        ("ventas", 2),
    ]
    assert [task["task_name"] for task in found["modules"][1]["tasks"]] == ["a", "b"]
