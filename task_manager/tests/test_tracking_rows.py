"""Rows only move forward, whatever the transitions' order and repetition."""

import json
import math
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from django.contrib.auth.models import User
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from task_manager import entries
from task_manager.models import TaskExecution, TaskStatistic
from task_manager.services.executions import executions_record

pytestmark = pytest.mark.django_db

T = 1_800_000_000.0


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(T + seconds, UTC)


_ids = count()


def transition(task_id: str, status: str, at: float, **fields) -> bytes:
    presumed = fields.pop("presumed", False)
    entry = {"id": task_id, "celery_name": "shop.tasks.pack", **fields}
    return entries.transition(entry, status, at, presumed=presumed)


def life(task_id: str) -> list[bytes]:
    """A task that fails, is tried again and succeeds."""
    return [
        transition(task_id, "PENDING", T, created_at=T, queue="default", parameters={"box": 1}),
        transition(task_id, "STARTED", T + 1, created_at=T, started_at=T + 1, worker="w1"),
        transition(task_id, "RETRY", T + 2, created_at=T, error="busy", traceback="…"),
        transition(task_id, "STARTED", T + 3, retries=1, started_at=T + 3, worker="w2"),
        transition(task_id, "STARTED", T + 4, retries=1, progress=40, message="40 %"),
        transition(
            task_id,
            "SUCCESS",
            T + 5,
            retries=1,
            started_at=T + 3,
            finished_at=T + 5,
            duration=2.0,
            progress=100,
            worker="w2",
            result={"boxes": 1},
        ),
    ]


def columns(task_id: str) -> dict[str, Any]:
    row: dict[str, Any] = TaskExecution.objects.filter(task_id=task_id).values().get()  # type: ignore[assignment]
    for name in ("task_id", "previous_status"):
        row.pop(name)
    return row


def test_a_life_in_order():
    for data in life("task"):
        executions_record([data])
    row = TaskExecution.objects.get()
    assert row.status == "SUCCESS"
    assert (row.retries, row.progress, row.duration) == (1, 100, 2.0)
    assert (row.error, row.traceback, row.message) == ("", "", "40 %")
    assert (row.worker, row.queue, row.parameters) == ("w2", "default", {"box": 1})
    assert row.result == {"boxes": 1}
    assert row.created_at == at(0)
    assert row.started_at == at(3)
    assert row.finished_at == at(5)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_order_repetition_and_batches_change_no_end(db, data):
    task_id = f"task-{next(_ids)}"
    whole = life(task_id)
    rest = data.draw(st.permutations(whole[:-1] * 2))
    cut = data.draw(st.integers(0, len(rest)))
    for batch in (rest[:cut], [whole[-1]], rest[cut:], [whole[-1]]):
        if batch:
            executions_record(batch)
    row = columns(task_id)
    for name in ("status", "result", "retries", "finished_at", "worker", "error"):
        expected = {
            "status": "SUCCESS",
            "result": {"boxes": 1},
            "retries": 1,
            "worker": "w2",
            "error": "",
        }
        if name in expected:
            assert row[name] == expected[name]
    assert row["finished_at"] == at(5)


def test_a_repeated_transition_changes_nothing():
    for data in life("task"):
        executions_record([data])
    before = columns("task")
    for data in life("task"):
        assert executions_record([data, data]) == 0
    assert columns("task") == before


def test_one_batch_is_as_good_as_many():
    executions_record(life("task"))
    row = TaskExecution.objects.get()
    assert (row.status, row.result, row.worker) == ("SUCCESS", {"boxes": 1}, "w2")


@pytest.mark.parametrize(
    ("first", "second", "last"),
    [
        ("FAILURE", "SUCCESS", "SUCCESS"),  # run again after its worker was lost
        ("SUCCESS", "FAILURE", "SUCCESS"),
        ("SUCCESS", "REVOKED", "SUCCESS"),  # cancelled too late
        ("REVOKED", "STARTED", "REVOKED"),
        ("FAILURE", "PENDING", "FAILURE"),
    ],
)
def test_an_end_gives_way_to_success_alone(first, second, last):
    executions_record([transition("task", first, T)])
    executions_record([transition("task", second, T + 1, retries=5)])
    assert TaskExecution.objects.get().status == last


def test_what_was_presumed_gives_way_to_what_a_worker_says():
    executions_record([transition("task", "FAILURE", T + 9, presumed=True, error="lost")])
    executions_record([transition("task", "REVOKED", T + 1)])
    assert TaskExecution.objects.get().status == "REVOKED"


def test_a_redelivered_task_shows_its_new_worker():
    executions_record([transition("task", "STARTED", T, worker="dead", started_at=T)])
    executions_record([transition("task", "STARTED", T + 9, worker="alive", started_at=T + 9)])
    row = TaskExecution.objects.get()
    assert (row.worker, row.started_at) == ("alive", at(9))


def test_the_duration_counts_from_the_start_that_was_told_before():
    executions_record([transition("task", "STARTED", T, started_at=T)])
    executions_record([transition("task", "FAILURE", T + 3, finished_at=T + 3)])
    assert TaskExecution.objects.get().duration == 3


def test_a_tasks_own_word_names_it():
    own: dict[str, Any] = {
        "id": "task",
        "name": "shop.pack",
        "module": "shop",
        "description": "Packs",
    }
    own |= {"celery_name": "shop.tasks.pack", "own": True}
    word = entries.transition(own, "STARTED", T + 1)
    for order in ([life("task")[0], word], [word, life("task")[0]]):
        TaskExecution.objects.all().delete()
        for data in [*order, life("task")[-1]]:
            executions_record([data])
        row = TaskExecution.objects.get()
        assert (row.task_name, row.description) == ("shop.pack", "Packs")
        assert row.celery_name == "shop.tasks.pack"
    TaskExecution.objects.all().delete()
    executions_record([life("task")[0], word, life("task")[-1]])
    assert TaskExecution.objects.get().task_name == "shop.pack"


def test_progress_alone_makes_a_row_that_is_named_later():
    executions_record([entries.transition({"id": "task", "progress": 30}, "STARTED", T)])
    assert TaskExecution.objects.get().task_name == ""
    executions_record(life("task"))
    assert TaskExecution.objects.get().task_name == "shop.tasks.pack"


def test_progress_never_falls_within_an_attempt_and_starts_anew_in_the_next():
    executions_record([transition("task", "STARTED", T, progress=60)])
    executions_record([transition("task", "STARTED", T + 1, progress=20)])
    assert TaskExecution.objects.get().progress == 60
    executions_record([transition("task", "STARTED", T + 2, progress=5, retries=1)])
    assert TaskExecution.objects.get().progress == 5


def test_an_unknown_user_is_nobody():
    user = User.objects.create_user("ana")
    executions_record(
        [
            transition("known", "PENDING", T, user_id=user.pk),
            transition("unknown", "PENDING", T, user_id=user.pk + 1),
        ]
    )
    assert TaskExecution.objects.get(pk="known").user == user
    assert TaskExecution.objects.get(pk="unknown").user is None


def test_what_cannot_be_stored_stops_no_other(caplog):
    bad = transition("bad", "PENDING", T, progress=101)
    together = b",".join([transition("one", "PENDING", T), bad, transition("two", "PENDING", T)])
    executions_record([transition("zero", "PENDING", T), together])
    ids = TaskExecution.objects.order_by("task_id").values_list("task_id", flat=True)
    assert list(ids) == ["one", "two", "zero"]
    assert "A transition was refused" in caplog.text
    assert "task_progress_0_to_100" in caplog.text


def test_what_is_not_json_is_left_out(caplog):
    executions_record([b'{"id": "broken', transition("whole", "PENDING", T)])
    assert TaskExecution.objects.get().task_id == "whole"
    assert "A transition was refused" in caplog.text


@pytest.mark.parametrize(
    "value",
    ["\x00", "\ud800", "a\\u0000b", math.nan, math.inf, {"\x00": [math.nan]}, "🎉", {1: {2, 3}}],
)
def test_odd_values_are_stored(value):
    fields = {"parameters": {"value": entries.bounded(value)}}
    assert executions_record([transition("task", "PENDING", T, **fields)]) == 1


# --- Statistics ----------------------------------------------------------------------------------
def test_each_end_counts_once_by_hour_and_in_all():
    for data in life("one") + life("one") + life("two"):
        executions_record([data])
    by_hour, in_all = TaskStatistic.objects.order_by("hour")
    assert (by_hour.count, by_hour.seconds, by_hour.status) == (2, 4.0, "SUCCESS")
    assert by_hour.hour == at(-(T % 3600))
    assert (in_all.hour, in_all.count) == (None, 2)


@pytest.mark.parametrize(
    ("duration", "bucket"), [(1.0, 0), (2.0, 4), (1.9, 4), (2.1, 5), (0.5, -4), (0, -53)]
)
def test_a_bucket_is_a_quarter_of_a_doubling(duration, bucket):
    executions_record([transition("task", "SUCCESS", T, finished_at=T, duration=duration)])
    assert {row.bucket for row in TaskStatistic.objects.all()} == {bucket}


def test_a_second_end_is_not_counted():
    executions_record([transition("task", "FAILURE", T, finished_at=T, presumed=True)])
    executions_record([transition("task", "SUCCESS", T + 1, finished_at=T + 1)])
    assert sum(row.count for row in TaskStatistic.objects.filter(hour=None)) == 1


def test_an_entry_is_one_json_object():
    data = json.loads(life("task")[0])
    assert data["position"] == 0
    assert data["name"] == data["celery_name"] == "shop.tasks.pack"
    assert data["module"] == "shop"


def test_progress_counts_although_the_end_came_in_the_same_batch():
    executions_record(
        [
            transition("task", "STARTED", T, progress=30, message="30 %"),
            transition("task", "FAILURE", T + 1, finished_at=T + 1),
        ]
    )
    row = TaskExecution.objects.get()
    assert (row.progress, row.message) == (30, "30 %")


@pytest.mark.parametrize("end", ["SUCCESS", "FAILURE"])
def test_what_a_task_said_of_itself_counts_although_its_end_came_first(end):
    """As when two workers write the history, and the second is the faster."""
    own = {"id": "task", "celery_name": "shop.tasks.pack", "retries": 1, "own": True}
    own |= {"name": "shop.pack", "module": "boxes", "description": "Packs", "parameters": {"n": 1}}
    said = {"id": "task", "retries": 1, "progress": 30, "message": "30 %"}
    executions_record([transition("task", end, T + 3, retries=1, finished_at=T + 3, error="no")])
    executions_record([entries.transition(own, "STARTED", T + 1)])
    executions_record([entries.transition(said, "STARTED", T + 2)])
    row = TaskExecution.objects.get()
    assert (row.status, row.changed_at, row.finished_at) == (end, at(3), at(3))
    assert (row.task_name, row.task_module, row.description) == ("shop.pack", "boxes", "Packs")
    assert (row.parameters, row.progress, row.message) == ({"n": 1}, 30, "30 %")


def test_an_earlier_attempts_late_words_change_nothing():
    executions_record([transition("task", "SUCCESS", T + 3, retries=1, progress=100)])
    before = columns("task")
    own = {"id": "task", "name": "old", "module": "old", "description": "", "own": True}
    executions_record([entries.transition(own, "STARTED", T)])
    said = {"id": "task", "retries": 0, "progress": 30, "message": "30 %"}
    executions_record([entries.transition(said, "STARTED", T + 1)])
    assert columns("task") == before


def test_late_words_count_beside_what_is_refused():
    """Each is recorded by itself then."""
    executions_record([transition("task", "SUCCESS", T + 3, progress=100)])
    own = {"id": "task", "name": "shop.pack", "module": "shop", "description": "", "own": True}
    word = entries.transition(own, "STARTED", T)
    executions_record([word, transition("bad", "PENDING", T, progress=101)])
    assert TaskExecution.objects.get().task_name == "shop.pack"
