"""Who is told what of a task, once, and that it arrives."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.db import connection
from django.db.models import F
from django.utils import timezone

from deploy.embedded.servers import free_port
from task_manager import entries
from task_manager.clients import webhooks
from task_manager.models import DeadLetter, TaskExecution, TaskNotification, TaskTemplate
from task_manager.services import reconciliation
from task_manager.services.executions import executions_record
from task_manager.services.notifications import (
    delivery,
    notifications_create,
    notifications_deliver,
    notifications_retry,
    settings_errors,
)
from task_manager.tests.receivers import PostOffice, serving
from tests.processes import wait_until

pytestmark = pytest.mark.django_db

NAME = "nomina.consolidar"
ALL = {"notify_on_start": True, "notify_on_complete": True, "notify_on_error": True}
URL = "https://hooks.example/tasks"


def template(**asked: Any) -> TaskTemplate:
    number = TaskTemplate.objects.count()
    return TaskTemplate.objects.create(
        name=f"template-{number}", task_name=NAME, module="nomina", notification_settings=asked
    )


def told() -> list[tuple[str, int, str]]:
    rows = TaskNotification.objects.order_by("pk")
    return list(rows.values_list("event", "progress", "message"))


def statuses() -> set[str]:
    return set(TaskNotification.objects.values_list("status", flat=True))


def when_due(**changes: Any) -> dict[str, int]:
    """Deliver after the time that the rows still wait for."""
    TaskNotification.objects.update(next_attempt_at=timezone.now(), **changes)
    return notifications_deliver()


@pytest.fixture
def ana() -> User:
    return User.objects.create_user("ana", email="ana@example.com")


@pytest.fixture
def run(make_execution) -> Callable[..., str]:
    """A task in the state given, with what is to be told of it noted; its id."""

    def make(**fields: Any) -> str:
        execution = make_execution(**fields)
        notifications_create([execution.task_id])
        return str(execution.task_id)

    return make


# --- Settings -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "asked",
    [
        {},
        ALL,
        {"notify_on_progress": 1},
        {"notify_on_progress": 99, "channels": ["in_app", "email"], "critical": True},
        {"notify_on_error": True, "channels": ["webhook"], "webhook_url": URL},
    ],
)
def test_settings_that_mean_something_have_no_errors(settings, asked):
    settings.TASK_WEBHOOK_SECRET = "top"
    assert settings_errors(asked) == []


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ([], "must be an object"),
        ({"notify_on_stop": True}, "notify_on_stop: unknown; known are notify_on_start, "),
        ({"notify_on_start": "yes"}, "notify_on_start: must be true or false"),
        ({"critical": 1}, "critical: must be true or false"),
        ({"notify_on_progress": 0}, "notify_on_progress: must be a whole number of percent, 1 to"),
        ({"notify_on_progress": 100}, "notify_on_progress: "),
        ({"notify_on_progress": True}, "notify_on_progress: "),
        ({"notify_on_progress": "10"}, "notify_on_progress: "),
        ({"channels": []}, "channels: must be a list of one or more of in_app, email, webhook"),
        ({"channels": "email"}, "channels: "),
        ({"channels": ["admins"]}, "channels: "),
        ({"channels": [["email"]]}, "channels: "),
        ({"channels": ["webhook"]}, "webhook_url: the channel webhook needs it"),
        ({"webhook_url": "ftp://example.com"}, "webhook_url: must be an http or https address"),
        ({"webhook_url": "https://user:pass@example.com"}, "webhook_url: "),
        ({"webhook_url": f"{URL}/{'x' * 500}"}, "webhook_url: "),
        ({"webhook_url": 7}, "webhook_url: "),
    ],
)
def test_a_wrong_setting_is_named(settings, asked, error):
    settings.TASK_WEBHOOK_SECRET = "top"
    (found,) = settings_errors(asked)
    assert error in found


def test_every_mistake_is_told():
    assert len(settings_errors({"x": 1, "critical": 0, "notify_on_progress": 0})) == 3


def test_a_webhook_without_a_secret_is_told_at_once(settings):
    settings.TASK_WEBHOOK_SECRET = ""
    (error,) = settings_errors({"channels": ["webhook"], "webhook_url": URL})
    assert "TASK_WEBHOOK_SECRET" in error


# --- Creation -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "fields", "expected"),
    [
        (ALL, {"status": "PENDING"}, []),
        (ALL, {"status": "STARTED", "started_at": True}, [("start", 0, "has started")]),
        (
            ALL,
            {"status": "SUCCESS", "started_at": True},
            [("start", 0, "has started"), ("complete", 0, "has finished")],
        ),
        (ALL, {"status": "FAILURE", "error": "Oh: no"}, [("error", 0, "has failed: Oh: no")]),
        (ALL, {"status": "FAILURE"}, [("error", 0, "has failed")]),
        (ALL, {"status": "REVOKED"}, []),
        (ALL, {"status": "RETRY", "error": "busy"}, []),
        ({"notify_on_error": False}, {"status": "FAILURE"}, []),
        ({"notify_on_progress": 25}, {"status": "STARTED", "progress": 24}, []),
        (
            {"notify_on_progress": 25},
            {"status": "STARTED", "progress": 60, "message": "60/100"},
            [("progress", 50, "is at 50 %: 60/100")],
        ),
        ({"notify_on_progress": 30}, {"status": "STARTED", "progress": 100}, []),
        ({"notify_on_progress": 30}, {"status": "SUCCESS", "progress": 100}, []),
        (
            {"notify_on_progress": 50} | ALL,
            {"status": "STARTED", "progress": 50, "started_at": True},
            [("start", 0, "has started"), ("progress", 50, "is at 50 %")],
        ),
    ],
)
def test_what_is_told_of_a_task_in_this_state(run, asked, fields, expected):
    template(**asked)
    run(**fields | ({"started_at": timezone.now()} if fields.get("started_at") else {}))
    assert told() == [(event, step, f"{NAME} {text}") for event, step, text in expected]


def test_without_a_template_nothing_is_told(run):
    run(status="FAILURE")
    TaskTemplate.objects.create(name="silent", task_name=NAME, module="nomina")
    run(status="FAILURE")
    assert told() == []


def test_nothing_is_told_twice(run):
    template(**ALL)
    task_id = run(status="FAILURE", started_at=timezone.now())
    assert len(told()) == 2
    assert notifications_create([task_id, task_id]) == 0
    assert len(told()) == 2


def test_no_executions_make_no_notifications():
    assert notifications_create([]) == 0


def test_a_caller_may_say_that_nothing_failed(make_execution):
    task_id = make_execution(status="SUCCESS").task_id
    assert notifications_create([task_id], failures=False) == 0
    template(notify_on_complete=True)
    assert notifications_create([task_id], failures=False) == 1


def test_in_the_application_it_is_told_at_once(run, ana):
    template(notify_on_complete=True)
    task_id = run(status="SUCCESS", user=ana)
    row = TaskNotification.objects.get()
    assert (row.task_id, row.task_name, row.user) == (task_id, NAME, ana)
    assert (row.channel, row.status, row.address) == ("in_app", "DELIVERED", "")
    assert row.delivered_at == row.created_at
    assert row.read_at is None


def test_a_task_of_nobody_is_told_to_staff_and_mailed_to_nobody(run):
    template(notify_on_complete=True, channels=["in_app", "email"])
    run(status="SUCCESS")
    assert TaskNotification.objects.get().user is None


def test_a_user_without_an_address_gets_no_mail(run):
    template(notify_on_complete=True, channels=["email"])
    run(status="SUCCESS", user=User.objects.create_user("bea"))
    assert told() == []


def test_templates_that_share_a_task_tell_once_for_each_address(run, ana):
    template(notify_on_complete=True, channels=["in_app", "email"])
    template(
        notify_on_complete=True,
        notify_on_error=True,
        channels=["email", "webhook"],
        webhook_url=URL,
    )
    template(notify_on_complete=True, channels=["webhook"], webhook_url=f"{URL}/2")
    run(status="SUCCESS", user=ana)
    found = TaskNotification.objects.values_list("channel", "address").order_by(
        "channel", "address"
    )
    assert list(found) == [
        ("email", ""),
        ("in_app", ""),
        ("webhook", URL),
        ("webhook", f"{URL}/2"),
    ]


def test_settings_that_mean_nothing_stop_no_others(run, caplog):
    template(notify_on_progress="often")
    template(notify_on_complete=True)
    run(status="SUCCESS")
    assert len(told()) == 1
    assert f"Nobody is notified of {NAME}: notify_on_progress: must be" in caplog.text


def test_a_task_that_came_back_from_a_failure_tells_both(run):
    template(**ALL)
    task_id = run(status="FAILURE")
    TaskExecution.objects.update(status="SUCCESS")
    notifications_create([task_id])
    assert [event for event, _, _ in told()] == ["error", "complete"]


def transitions(task_id: str) -> list[bytes]:
    states: list[tuple[str, dict[str, Any]]] = [
        ("PENDING", {}),
        ("STARTED", {"started_at": 1.0}),
        ("STARTED", {"started_at": 1.0, "progress": 45}),
        ("SUCCESS", {"started_at": 1.0, "finished_at": 9.0, "progress": 100}),
    ]
    return [
        entries.transition({"id": task_id, "celery_name": NAME, **fields}, status, float(at))
        for at, (status, fields) in enumerate(states)
    ]


def test_the_history_tells_as_it_is_written():
    template(**ALL, notify_on_progress=20)
    for data in transitions("one"):
        executions_record([data])
        executions_record([data])
    assert [(event, step) for event, step, _ in told()] == [
        ("start", 0),
        ("progress", 40),
        ("complete", 0),
    ]


@pytest.mark.django_db(transaction=True)
def test_writers_at_once_tell_once():
    template(**ALL)
    ids = [f"task-{number}" for number in range(40)]
    batch = [data for task_id in ids for data in transitions(task_id)]

    def write(number: int) -> None:
        try:
            for start in range(0, len(batch), 40):
                executions_record(batch[start : start + 40][:: -1 if number % 2 else 1])
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    counts = Counter(TaskNotification.objects.values_list("task_id", "event"))
    assert set(counts) == {(task_id, event) for task_id in ids for event in ("start", "complete")}
    assert set(counts.values()) == {1}


# --- E-mail ---------------------------------------------------------------------------------------
@pytest.fixture
def owe_mail(run, ana) -> Callable[..., None]:
    template(notify_on_error=True, channels=["email"])

    def make(count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            run(**{"status": "FAILURE", "error": "KeyError('period')", "user": ana} | fields)

    return make


@pytest.fixture
def post_office(settings) -> Iterator[PostOffice]:
    server = PostOffice()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.server_address[1]
    settings.EMAIL_USE_TLS = False
    with serving(server):
        yield server


def test_a_mail_goes_to_the_tasks_user_once(owe_mail):
    owe_mail()
    assert notifications_deliver() == {"delivered": 1, "failed": 0}
    assert notifications_deliver() == {"delivered": 0, "failed": 0}
    (message,) = mail.outbox
    assert message.to == ["ana@example.com"]
    assert message.subject == f"{NAME} has failed"
    assert message.body.startswith(f"{NAME} has failed: KeyError('period')\n\nTask task-1, ")
    assert TaskNotification.objects.get().delivered_at


def test_progress_is_in_the_subject(run, ana):
    template(notify_on_progress=10, channels=["email"])
    run(status="STARTED", progress=47, user=ana)
    notifications_deliver()
    assert mail.outbox[0].subject == f"{NAME} is at 40 %"


def test_a_name_with_a_newline_makes_no_header(run, ana):
    name = "Soap\nBcc: everyone@example.com"
    TaskTemplate.objects.create(
        name="odd", task_name=name, notification_settings=ALL | {"channels": ["email"]}
    )
    run(task_name=name, status="SUCCESS", user=ana)
    assert notifications_deliver() == {"delivered": 1, "failed": 0}
    assert mail.outbox[0].subject == "Soap Bcc: everyone@example.com has finished"


def test_a_user_who_has_no_address_any_more_is_not_tried_again(owe_mail, ana):
    owe_mail()
    User.objects.update(email="")
    assert notifications_deliver() == {"delivered": 0, "failed": 1}
    row = TaskNotification.objects.get()
    assert (row.status, row.last_error) == ("FAILED", "The user has no e-mail address.")


def test_mails_share_a_connection(owe_mail, post_office):
    owe_mail(5)
    assert notifications_deliver() == {"delivered": 5, "failed": 0}
    assert post_office.connections == 1
    assert len(post_office.letters) == 5
    assert "To: ana@example.com" in post_office.letters[0]


def test_a_recipient_whom_the_server_refuses_holds_up_no_other(owe_mail, post_office):
    owe_mail(user=User.objects.create_user("bea", email="refused@example.com"))
    owe_mail()
    assert notifications_deliver() == {"delivered": 1, "failed": 1}
    refused = TaskNotification.objects.get(status="PENDING")
    assert "no such user" in refused.last_error
    assert len(post_office.letters) == 1


def test_a_server_that_hangs_up_is_left_alone_until_the_next_run(owe_mail, post_office):
    owe_mail(user=User.objects.create_user("bea", email="goodbye@example.com"))
    owe_mail(3)
    assert notifications_deliver() == {"delivered": 0, "failed": 4}
    assert post_office.connections == 1
    User.objects.filter(username="bea").update(email="bea@example.com")
    assert when_due() == {"delivered": 4, "failed": 0}


def test_without_a_mail_server_mails_wait_longer_each_time_and_fail_in_the_end(owe_mail, settings):
    owe_mail(3)
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    waits = []
    for attempt in range(1, settings.TASK_NOTIFICATION_MAX_ATTEMPTS + 1):
        assert when_due() == {"delivered": 0, "failed": 3}
        row = TaskNotification.objects.earliest("pk")
        assert row.attempts == attempt
        assert row.next_attempt_at
        waits.append(round((row.next_attempt_at - timezone.now()) / timedelta(minutes=1)))
        assert notifications_deliver() == {"delivered": 0, "failed": 0}
    assert waits[:4] == [1, 2, 4, 8]
    assert statuses() == {"FAILED"}
    assert "The mail server does not answer" in row.last_error
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    assert when_due() == {"delivered": 0, "failed": 0}
    assert notifications_retry(TaskNotification.objects.all()) == 3
    assert when_due() == {"delivered": 3, "failed": 0}


# --- Webhooks -------------------------------------------------------------------------------------
@pytest.fixture
def owe_call(run) -> Callable[..., None]:
    def make(*urls: str, **fields: Any) -> None:
        TaskTemplate.objects.all().delete()
        for url in urls:
            template(**ALL, notify_on_progress=10, channels=["webhook"], webhook_url=url)
        run(**{"status": "FAILURE", "error": "no", "progress": 30} | fields)

    return make


@pytest.mark.parametrize(
    ("fields", "event", "status", "progress"),
    [
        ({"status": "STARTED", "started_at": timezone.now(), "progress": 7}, "start", "STARTED", 7),
        ({"status": "STARTED", "progress": 47}, "progress", "STARTED", 40),
        ({"status": "SUCCESS", "progress": 100}, "complete", "SUCCESS", 100),
        ({"status": "FAILURE", "progress": 30}, "error", "FAILURE", 30),
    ],
)
def test_a_webhook_says_what_happened(owe_call, receiver, fields, event, status, progress):
    owe_call(f"{receiver.url}/tasks", **fields)
    assert notifications_deliver() == {"delivered": 1, "failed": 0}
    ((path, headers, body),) = receiver.received
    document = json.loads(body)
    assert document.pop("message").startswith(NAME)
    assert abs(timezone.now() - datetime.fromisoformat(document.pop("sent_at"))) < (
        timedelta(minutes=1)
    )
    assert document == {
        "event": event,
        "task_id": TaskNotification.objects.get().task_id,
        "task_name": NAME,
        "status": status,
        "progress": progress,
    }
    timestamp = headers["X-Flash-Promos-Timestamp"]
    assert headers["X-Flash-Promos-Signature"] == webhooks.signature(timestamp, body)
    assert path == "/tasks"


def test_a_webhook_that_failed_is_sent_again_under_the_same_id(owe_call, receiver):
    owe_call(f"{receiver.url}/fail")
    assert notifications_deliver() == {"delivered": 0, "failed": 1}
    row = TaskNotification.objects.get()
    assert (row.status, row.attempts) == ("PENDING", 1)
    assert "answered 500" in row.last_error
    assert when_due(address=f"{receiver.url}/ok") == {"delivered": 1, "failed": 0}
    row.refresh_from_db()
    assert (row.status, row.last_error) == ("DELIVERED", "")
    first, second = [headers["X-Flash-Promos-Delivery"] for _, headers, _ in receiver.received]
    assert first == second


def test_a_webhook_that_keeps_failing_has_failed(owe_call, receiver, settings):
    settings.TASK_NOTIFICATION_MAX_ATTEMPTS = 2
    owe_call(f"{receiver.url}/redirect")
    assert when_due() == {"delivered": 0, "failed": 1}
    assert when_due() == {"delivered": 0, "failed": 1}
    assert when_due() == {"delivered": 0, "failed": 0}
    assert "Redirects are not followed" in TaskNotification.objects.get().last_error
    assert statuses() == {"FAILED"}
    assert receiver.paths == ["/redirect"] * 2


def test_a_private_address_is_refused_for_good(owe_call, receiver, settings):
    settings.TASK_WEBHOOK_ALLOW_PRIVATE = False
    owe_call(f"http://localhost:{receiver.server_port}/ok")
    assert notifications_deliver() == {"delivered": 0, "failed": 1}
    row = TaskNotification.objects.get()
    assert row.status == "FAILED"
    assert "not a public one" in row.last_error
    assert receiver.received == []


def test_without_a_secret_a_webhook_fails_and_says_why(owe_call, receiver, settings):
    settings.TASK_WEBHOOK_SECRET = ""
    owe_call(f"{receiver.url}/ok")
    assert notifications_deliver() == {"delivered": 0, "failed": 1}
    row = TaskNotification.objects.get()
    assert (row.status, row.last_error[:31]) == ("FAILED", "TASK_WEBHOOK_SECRET is not set,")


def test_an_address_that_does_not_answer_is_tried_no_more_in_this_run(
    owe_call, receiver, monkeypatch
):
    monkeypatch.setattr(webhooks, "READ_SECONDS", 1.0)
    monkeypatch.setattr(delivery, "CALLS", 1)
    for _ in range(6):
        owe_call(f"{receiver.url}/hang")
    owe_call(f"{receiver.url}/ok")
    assert notifications_deliver() == {"delivered": 1, "failed": 6}
    assert sorted(receiver.paths) == ["/hang", "/ok"]
    assert set(
        TaskNotification.objects.filter(status="PENDING").values_list("attempts", "last_error")
    ) == {(1, "127.0.0.1 did not answer in time.")}


def test_what_the_time_did_not_suffice_for_is_due_in_the_next_run(owe_call, receiver, monkeypatch):
    monkeypatch.setattr(webhooks, "READ_SECONDS", 0.5)
    monkeypatch.setattr(delivery, "CALLS", 1)
    owe_call(*(f"{receiver.url}/hang?{number}" for number in range(4)))
    tried = notifications_deliver(seconds=0.4)["failed"]
    assert tried <= 1
    due = TaskNotification.objects.filter(attempts=0, next_attempt_at__lte=timezone.now())
    assert due.count() == 4 - tried


@pytest.mark.django_db(transaction=True)
def test_what_a_killed_process_was_sending_is_sent_after_its_lease(make_execution, receiver):
    template(notify_on_error=True, channels=["webhook"], webhook_url=f"{receiver.url}/hang")
    notifications_create([make_execution(status="FAILURE").task_id])
    deliver = "from task_manager.tasks import deliver_notifications as deliver; deliver()"
    process = subprocess.Popen(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", deliver],
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "marketplace.settings",
            "POSTGRES_DB": str(connection.settings_dict["NAME"]),
            "TASK_WEBHOOK_SECRET": "of the test",
            "TASK_WEBHOOK_ALLOW_PRIVATE": "1",
        },
    )
    try:
        wait_until(lambda: receiver.paths == ["/hang"])
    finally:
        process.kill()
        process.wait()
    TaskNotification.objects.update(address=f"{receiver.url}/ok")
    assert notifications_deliver() == {"delivered": 0, "failed": 0}
    lease = timedelta(seconds=delivery.LEASE_SECONDS)
    TaskNotification.objects.update(next_attempt_at=F("next_attempt_at") - lease)
    assert notifications_deliver() == {"delivered": 1, "failed": 0}
    assert receiver.paths == ["/hang", "/ok"]


def test_a_row_that_cannot_be_sent_holds_up_no_other(owe_call, receiver, caplog):
    owe_call(f"{receiver.url}/ok")
    owe_call(f"{receiver.url}/ok")
    TaskNotification.objects.filter(pk=TaskNotification.objects.earliest("pk").pk).update(
        event="unheard of"
    )
    assert notifications_deliver() == {"delivered": 1, "failed": 1}
    assert "were not delivered" in caplog.text
    assert TaskNotification.objects.get(status="PENDING").last_error == "'unheard of'"


@pytest.mark.django_db(transaction=True)
def test_deliverers_at_once_deliver_each_row_once(make_execution, receiver, monkeypatch):
    monkeypatch.setattr(delivery, "BATCH", 7)
    template(notify_on_complete=True, channels=["webhook", "email"], webhook_url=receiver.url)
    ana = User.objects.create_user("ana", email="ana@example.com")
    ids = [make_execution(status="SUCCESS", user=ana).task_id for _ in range(60)]
    notifications_create(ids)
    barrier = threading.Barrier(4)

    def deliver(_: int) -> int:
        barrier.wait()
        try:
            return notifications_deliver()["delivered"]
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(deliver, range(4))) == 120
    called = Counter(json.loads(body)["task_id"] for _, _, body in receiver.received)
    assert called == Counter(ids)
    assert len(mail.outbox) == 60
    assert len({message.body for message in mail.outbox}) == 60


# --- Alerts ---------------------------------------------------------------------------------------
@pytest.fixture
def admins(settings):
    settings.ADMINS = [("", "ops@example.com")]


def some_time_later(settings) -> dict[str, int]:
    """Deliver after the pause between two mails."""
    pause = timedelta(seconds=settings.TASK_ALERT_SECONDS)
    return when_due(delivered_at=F("delivered_at") - pause)


def test_a_failure_of_a_critical_task_alerts(run, ana):
    template(critical=True)
    run(status="FAILURE", error="Oh no", user=ana)
    row = TaskNotification.objects.get()
    assert (row.event, row.channel, row.user) == ("alert", "admins", None)
    assert row.message == f"{NAME} has failed critically: Oh no"


def test_a_dead_letter_alerts(make_execution):
    execution = make_execution(status="FAILURE", error="no")
    DeadLetter.objects.create(
        task_id=execution.task_id, task_name=NAME, celery_name=NAME, created_at=timezone.now()
    )
    assert notifications_create([execution.task_id]) == 1


@pytest.mark.parametrize(
    "error",
    [reconciliation.LOST, "WorkerLostError('Worker exited prematurely: signal 9 (SIGKILL).')"],
)
def test_a_lost_task_alerts(run, error):
    run(status="FAILURE", error=error)
    assert [event for event, _, _ in told()] == ["alert"]


@pytest.mark.parametrize("status", ["SUCCESS", "REVOKED", "RETRY"])
def test_nothing_but_a_failure_alerts(run, status):
    template(critical=True)
    run(status=status, error="The task was lost: no")
    assert told() == []


def test_a_critical_dead_letter_alerts_once(make_execution):
    template(critical=True)
    execution = make_execution(status="FAILURE", error=reconciliation.LOST)
    notifications_create([execution.task_id])
    assert len(told()) == 1


def test_alerts_of_a_task_come_in_one_mail_and_the_next_after_a_pause(run, admins, settings):
    template(critical=True)
    run(status="FAILURE", error="first")
    assert notifications_deliver() == {"delivered": 1, "failed": 0}
    (message,) = mail.outbox
    assert message.to == ["ops@example.com"]
    assert message.subject == f"[Flash Promos] {NAME} has failed critically"
    assert message.from_email == settings.DEFAULT_FROM_EMAIL
    assert "first" in message.body
    for number in range(7):
        run(status="FAILURE", error=f"error-{number}")
        assert notifications_deliver() == {"delivered": 0, "failed": 0}
    assert some_time_later(settings) == {"delivered": 7, "failed": 0}
    _, second = mail.outbox
    assert second.subject == f"[Flash Promos] {NAME} has failed critically 7 times"
    assert [f"error-{number}" in second.body for number in range(7)] == [False] * 2 + [True] * 5
    assert statuses() == {"DELIVERED"}
    assert some_time_later(settings) == {"delivered": 0, "failed": 0}


def test_the_pause_of_a_task_is_not_anothers(run, admins):
    run(status="FAILURE", error=reconciliation.LOST)
    notifications_deliver()
    run(status="FAILURE", error=reconciliation.LOST, task_name="shop.pack")
    run(status="FAILURE", error=reconciliation.LOST)
    assert notifications_deliver() == {"delivered": 1, "failed": 0}
    assert "shop.pack" in mail.outbox[1].subject


def test_without_admins_an_alert_is_told_in_the_application_alone(run, settings):
    settings.ADMINS = []
    run(status="FAILURE", error=reconciliation.LOST)
    run(status="FAILURE", error=reconciliation.LOST)
    assert notifications_deliver() == {"delivered": 2, "failed": 0}
    run(status="FAILURE", error=reconciliation.LOST)
    assert notifications_deliver() == {"delivered": 1, "failed": 0}
    assert mail.outbox == []


def test_an_alert_is_kept_however_long_the_mail_server_is_away(run, admins, settings):
    settings.TASK_NOTIFICATION_MAX_ATTEMPTS = 1
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    run(status="FAILURE", error=reconciliation.LOST)
    for _ in range(8):
        assert when_due() == {"delivered": 0, "failed": 1}
    # One that comes meanwhile waits for the next try with the others.
    run(status="FAILURE", error=reconciliation.LOST)
    assert notifications_deliver() == {"delivered": 0, "failed": 0}
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    assert when_due() == {"delivered": 2, "failed": 0}
    assert "2 times" in mail.outbox[0].subject


@pytest.mark.django_db(transaction=True)
def test_deliverers_at_once_send_one_mail_a_task(make_execution, admins):
    names = [f"shop.task{number}" for number in range(10)]
    barrier = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            barrier.wait()
            for name in names:
                task_id = f"{name}-{number}"
                fields = {"id": task_id, "celery_name": name, "error": reconciliation.LOST}
                executions_record([entries.transition(fields, "FAILURE", 1.0)])
                notifications_deliver()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(mail.outbox) == len(names)
    assert TaskNotification.objects.count() == 4 * len(names)
