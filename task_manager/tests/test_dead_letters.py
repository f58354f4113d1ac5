"""Dead letters: kept once, run again once, shown without their secrets."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection, transaction
from django.urls import reverse
from django.utils import timezone

from marketplace.celery import app
from task_manager import entries
from task_manager.clients.broker import broker as open_broker
from task_manager.exceptions import ArgumentsRefused, LetterClosed, UnknownTask
from task_manager.models import DeadLetter
from task_manager.services.dead_letters import (
    dead_letter_discard,
    dead_letter_parameters,
    dead_letters_record,
)
from task_manager.services.outbox import outbox_publish_waiting
from task_manager.services.requeue import dead_letter_requeue

pytestmark = pytest.mark.django_db

NAME = "shop.tasks.ship"


@pytest.fixture(autouse=True)
def _task():
    """A task with a secret among its parameters."""

    @app.task(name=NAME)
    def ship(box, token="", *, colour="red") -> None: ...

    yield
    app.tasks.pop(NAME)
    entries._descriptions.pop(NAME, None)


@pytest.fixture
def make_letter() -> Callable[..., DeadLetter]:
    def make(**fields: Any) -> DeadLetter:
        defaults = {
            "task_id": f"task-{DeadLetter.objects.count()}",
            "task_name": "shop.ship",
            "celery_name": NAME,
            "args": [7, "hunter2"],
            "kwargs": {"colour": "blue"},
            "queue": "high_priority",
            "error": "OSError('busy')",
            "created_at": timezone.now(),
        }
        return DeadLetter.objects.create(**(defaults | fields))

    return make


def recorded(**fields: Any) -> dict[str, Any]:
    return {
        "task_id": "a",
        "task_name": "shop.ship",
        "celery_name": NAME,
        "args": [1, {"deep": ["er"]}],
        "kwargs": {"password": "hunter2"},
        "queue": "default",
        "error": "OSError('busy')",
        "traceback": "…",
        "retries": 3,
        "created_at": 1_800_000_000.25,
    } | fields


def waiting(queue: str) -> list[Any]:
    with open_broker() as queues:
        return list(queues.waiting(queue))


# --- Recording -----------------------------------------------------------------------------------
def test_a_letter_keeps_all_it_takes_to_run_the_task_again():
    dead_letters_record([recorded()])
    letter = DeadLetter.objects.get()
    assert (letter.args, letter.kwargs) == ([1, {"deep": ["er"]}], {"password": "hunter2"})
    assert (letter.task_id, letter.task_name, letter.celery_name) == ("a", "shop.ship", NAME)
    assert (letter.queue, letter.error, letter.traceback) == ("default", "OSError('busy')", "…")
    assert (letter.retries, letter.status, letter.closed_at) == (3, "WAITING", None)
    assert letter.created_at.timestamp() == 1_800_000_000.25


def test_of_one_task_the_first_is_kept_whatever_the_plan():
    with connection.cursor() as cursor:
        # With many rows the letters are what is hashed, and come out of order.
        cursor.execute("""
            INSERT INTO task_manager_taskexecution (
                task_id, task_name, celery_name, task_module, description, status,
                previous_status, position, changed_at, progress, message, parameters, error,
                traceback, worker, queue, retries, created_at)
            SELECT n, '', '', '', '', 'SUCCESS', '', 1, now(), 0, '', '{}', '', '', '', '', 0, now()
            FROM generate_series(1, 5000) AS n;
            ANALYZE task_manager_taskexecution;
            SET LOCAL enable_nestloop = off;
            SET LOCAL enable_mergejoin = off""")
    dead_letters_record([recorded(error=str(number)) for number in range(100)])
    assert DeadLetter.objects.get().error == "0"


def test_what_is_recorded_again_stays_as_it_is():
    dead_letters_record([recorded(), recorded(error="another")])
    DeadLetter.objects.update(status="DISCARDED")
    dead_letters_record([recorded(error="another"), recorded(task_id="b")])
    letters = DeadLetter.objects.order_by("task_id").values_list("task_id", "status", "error")
    assert list(letters) == [
        ("a", "DISCARDED", "OSError('busy')"),
        ("b", "WAITING", "OSError('busy')"),
    ]


def test_many_take_one_query(django_assert_num_queries):
    with django_assert_num_queries(1):
        dead_letters_record([recorded(task_id=str(number)) for number in range(300)])
    assert DeadLetter.objects.count() == 300


def test_none_are_no_error():
    dead_letters_record([])


def test_what_postgresql_does_not_take_stops_nothing():
    args = ["\x00", float("nan"), "\ud800", "\\u0000"]
    dead_letters_record([recorded(args=args, error="a\x00b", task_name="n" * 300)])
    letter = DeadLetter.objects.get()
    assert letter.args == ["\ufffd", "nan", "?", "\\u0000"]
    assert letter.error == "a\ufffdb"


def test_a_killed_task_s_letter_learns_from_the_execution(make_execution):
    make_execution(
        task_id="a", task_name="shop.known", queue="low_priority", retries=2, status="FAILURE"
    )
    dead_letters_record([recorded(queue="", retries=0, args=None, kwargs=None)])
    letter = DeadLetter.objects.get()
    assert (letter.task_name, letter.queue, letter.retries) == ("shop.known", "low_priority", 2)
    assert (letter.args, letter.kwargs) == ([], {})


# --- Requeueing ----------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_requeued_task_is_published_as_it_was(broker, make_letter):
    letter = make_letter()
    task_id = dead_letter_requeue(letter.pk)
    (message,) = waiting("high_priority")
    assert (message.task_id, message.headers["task"]) == (task_id, NAME)
    assert (message.args, message.kwargs) == ([7, "hunter2"], {"colour": "blue"})
    letter.refresh_from_db()
    assert (letter.status, letter.requeued_task_id) == ("REQUEUED", task_id)
    assert letter.closed_at


@pytest.mark.django_db(transaction=True)
def test_a_requeued_task_stays_its_user_s(broker, make_letter, make_execution, make_shopper):
    user = make_shopper()
    letter = make_letter(task_id=make_execution(user=user, status="FAILURE").pk)
    dead_letter_requeue(letter.pk)
    assert waiting("high_priority")[0].headers[entries.USER_ID] == user.pk


@pytest.mark.django_db(transaction=True)
def test_a_queue_that_is_gone_gives_way_to_the_task_s_own(broker, make_letter):
    for queue in ("retired", ""):
        dead_letter_requeue(make_letter(queue=queue).pk)
    assert len(waiting("default")) == 2
    assert not broker.exists("retired")


@pytest.mark.django_db(transaction=True)
def test_of_many_who_requeue_at_once_one_does(broker, make_letter):
    letter = make_letter()
    start = threading.Barrier(8)
    outcomes: list[Any] = []

    def requeue() -> None:
        try:
            start.wait()
            outcomes.append(dead_letter_requeue(letter.pk))
        except LetterClosed:
            outcomes.append(None)
        finally:
            connection.close()

    threads = [threading.Thread(target=requeue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (task_id,) = [outcome for outcome in outcomes if outcome]
    assert [message.task_id for message in waiting("high_priority")] == [task_id]
    assert len(outcomes) == 8


@pytest.mark.django_db(transaction=True)
def test_nothing_is_published_before_the_commit(broker, make_letter):
    letter = make_letter()
    with transaction.atomic():
        dead_letter_requeue(letter.pk)
        assert not waiting("high_priority")
    assert len(waiting("high_priority")) == 1
    other = make_letter()
    with transaction.atomic():
        dead_letter_requeue(other.pk)
        transaction.set_rollback(True)
    other.refresh_from_db()
    assert (len(waiting("high_priority")), other.status) == (1, "WAITING")


@pytest.mark.django_db(transaction=True)
def test_without_the_broker_the_task_is_published_later(no_broker_for, make_letter):
    letter = make_letter()
    with no_broker_for():
        task_id = dead_letter_requeue(letter.pk)
    letter.refresh_from_db()
    assert (letter.status, letter.requeued_task_id) == ("REQUEUED", task_id)
    outbox_publish_waiting()
    assert [message.task_id for message in waiting("high_priority")] == [task_id]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": "REQUEUED"}, LetterClosed),
        ({"status": "DISCARDED"}, LetterClosed),
        ({"celery_name": "shop.tasks.retired"}, UnknownTask),
        ({"args": [1, 2, 3, 4]}, ArgumentsRefused),
        ({"kwargs": {"weight": 1}}, ArgumentsRefused),
    ],
)
def test_what_cannot_be_requeued_stays_as_it_is(broker, make_letter, fields, error):
    letter = make_letter(**fields)
    with pytest.raises(error):
        dead_letter_requeue(letter.pk)
    letter.refresh_from_db()
    assert letter.status == fields.get("status", "WAITING")
    assert not waiting("high_priority")


def test_a_discarded_letter_is_closed(broker, make_letter):
    letter = make_letter()
    dead_letter_discard(letter.pk)
    letter.refresh_from_db()
    assert (letter.status, bool(letter.closed_at)) == ("DISCARDED", True)
    for service in (dead_letter_discard, dead_letter_requeue):
        with pytest.raises(LetterClosed):
            service(letter.pk)


@pytest.mark.parametrize("service", [dead_letter_discard, dead_letter_requeue])
def test_a_letter_that_is_not_there(service):
    with pytest.raises(DeadLetter.DoesNotExist):
        service(1)


# --- Showing -------------------------------------------------------------------------------------
def test_secrets_are_masked_by_the_names_of_the_parameters(make_letter):
    letter = make_letter(kwargs={"colour": {"api_key": "hunter2"}})
    assert dead_letter_parameters(letter) == {
        "box": 7,
        "token": entries.MASK,
        "colour": {"api_key": entries.MASK},
    }


def test_without_the_names_no_positional_argument_is_shown(make_letter):
    letter = make_letter(celery_name="shop.tasks.retired", kwargs={"a": 1, "password": "hunter2"})
    assert dead_letter_parameters(letter) == {
        "args": entries.MASK,
        "a": 1,
        "password": entries.MASK,
    }


# --- The API -------------------------------------------------------------------------------------
@pytest.fixture
def staff(client_of, make_shopper):
    user = make_shopper("staff")
    User.objects.update(is_staff=True)
    user.refresh_from_db()
    return client_of(user)


def address(letter: DeadLetter, *action: str) -> str:
    return "/".join(["/api/tasks/dead-letters", str(letter.pk), *action, ""])


def test_the_listing_is_filtered_and_the_newest_come_first(staff, make_letter):
    ids = [
        make_letter(**fields).pk
        for fields in ({}, {"status": "DISCARDED"}, {"task_name": "other"}, {})
    ]
    listed = staff.get("/api/tasks/dead-letters/").json()
    assert [row["id"] for row in listed["results"]] == ids[::-1]
    assert not {"args", "kwargs", "parameters", "traceback"} & set(listed["results"][0])
    for query, expected in (
        ({"status": "WAITING"}, [ids[3], ids[2], ids[0]]),
        ({"task_name": "shop.ship"}, [ids[3], ids[1], ids[0]]),
        ({"task_name": "shop.ship", "status": "DISCARDED"}, [ids[1]]),
    ):
        rows = staff.get("/api/tasks/dead-letters/", query).json()["results"]
        assert [row["id"] for row in rows] == expected


def test_a_wrong_status_is_told_the_right_ones(staff):
    response = staff.get("/api/tasks/dead-letters/", {"status": "LOST"})
    assert response.status_code == 400
    assert "Use one of: WAITING, REQUEUED, DISCARDED." in response.text


def test_one_is_shown_with_its_parameters_masked(staff, make_letter):
    shown = staff.get(address(make_letter(traceback="Traceback …"))).json()
    assert shown["parameters"] == {"box": 7, "token": entries.MASK, "colour": "blue"}
    assert (shown["error"], shown["traceback"]) == ("OSError('busy')", "Traceback …")
    assert "hunter2" not in json.dumps(shown)


@pytest.mark.django_db(transaction=True)
def test_one_is_requeued(broker, staff, make_letter):
    letter = make_letter()
    response = staff.post(address(letter, "requeue"))
    assert (response.status_code, response.json()["status"]) == (200, "REQUEUED")
    assert [m.task_id for m in waiting("high_priority")] == [response.json()["requeued_task_id"]]
    again = staff.post(address(letter, "requeue"))
    assert (again.status_code, again.json()["error"]["code"]) == (409, "letter_closed")


def test_one_is_discarded(staff, make_letter):
    letter = make_letter()
    response = staff.post(address(letter, "discard"))
    assert (response.status_code, response.json()["status"]) == (200, "DISCARDED")
    assert staff.post(address(letter, "discard")).status_code == 409


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"celery_name": "shop.tasks.retired"}, "unknown_task"),
        ({"args": []}, "arguments_refused"),
    ],
)
def test_what_cannot_be_requeued_is_a_conflict(staff, make_letter, fields, code):
    response = staff.post(address(make_letter(**fields), "requeue"))
    assert (response.status_code, response.json()["error"]["code"]) == (409, code)


@pytest.mark.parametrize("action", [(), ("requeue",), ("discard",)])
@pytest.mark.parametrize("number", [1, 10**30])
def test_one_that_is_not_there_is_404(staff, action, number):
    method = staff.post if action else staff.get
    assert method(address(DeadLetter(pk=number), *action)).status_code == 404


# --- The admin -----------------------------------------------------------------------------------
LISTING = "admin:task_manager_deadletter_changelist"


def act(client, action: str):
    ids = list(DeadLetter.objects.values_list("pk", flat=True))
    data = {"action": action, "_selected_action": ids}
    return client.post(reverse(LISTING), data, follow=True)


def test_the_admin_lists_and_shows_without_secrets(admin_client, make_letter):
    letter = make_letter()
    listing = admin_client.get(reverse(LISTING), {"q": letter.task_id, "status__exact": "WAITING"})
    page = admin_client.get(reverse("admin:task_manager_deadletter_change", args=[letter.pk]))
    assert letter.task_id in listing.text
    assert entries.MASK in page.text
    assert "hunter2" not in listing.text + page.text


@pytest.mark.django_db(transaction=True)
def test_the_admin_requeues_what_it_can(broker, admin_client, make_letter):
    make_letter()
    make_letter(status="DISCARDED")
    response = act(admin_client, "requeue")
    assert "1 task requeued." in response.text
    assert "was requeued or discarded already" in response.text
    assert len(waiting("high_priority")) == 1


def test_the_admin_discards(admin_client, make_letter):
    make_letter()
    make_letter()
    assert "2 dead letters discarded." in act(admin_client, "discard").text
    assert not DeadLetter.objects.filter(status="WAITING").exists()


@pytest.mark.parametrize("action", ["requeue", "discard"])
def test_who_may_only_look_may_not_act(client, make_letter, action):
    viewer = User.objects.create_user("viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename="view_deadletter"))
    client.force_login(viewer)
    letter = make_letter()
    act(client, action)
    letter.refresh_from_db()
    assert letter.status == "WAITING"
