"""A user's notifications, and which of them they have read."""

from datetime import timedelta

import pytest
from django.utils import timezone

from task_manager.models import TaskNotification

pytestmark = pytest.mark.django_db

ADDRESS = "/api/tasks/notifications/"


@pytest.fixture
def ana(make_shopper):
    return make_shopper("ana")


@pytest.fixture
def client(client_of, ana):
    return client_of(ana)


def notify(user, task_id: str, **fields) -> TaskNotification:
    defaults = {
        "task_name": "nomina.consolidar",
        "event": "complete",
        "channel": "in_app",
        "created_at": timezone.now(),
    }
    return TaskNotification.objects.create(user=user, task_id=task_id, **(defaults | fields))


def listed(client, **query) -> list[str]:
    return [row["task_id"] for row in client.get(ADDRESS, query).json()["results"]]


def test_the_newest_come_first_and_e_mails_do_not(client, ana):
    notify(ana, "1", created_at=timezone.now() - timedelta(hours=1))
    notify(ana, "2", message="Listo", progress=100)
    notify(ana, "3", channel="email")
    assert listed(client) == ["2", "1"]
    row = client.get(ADDRESS).json()["results"][0]
    assert (row["event"], row["message"], row["progress"]) == ("complete", "Listo", 100)
    assert (row["task_name"], row["read_at"]) == ("nomina.consolidar", None)


def test_one_is_read_once(client, ana):
    row = notify(ana, "1")
    notify(ana, "2")
    first = client.post(f"{ADDRESS}{row.pk}/read/").json()
    assert (first["id"], first["read_at"] is None) == (row.pk, False)
    assert client.post(f"{ADDRESS}{row.pk}/read/").json() == first
    assert (listed(client, unread="true"), listed(client, unread="false")) == (["2"], ["1"])


def test_all_are_read_at_once_and_nobody_else_s(client, ana, make_shopper):
    notify(ana, "1", read_at=timezone.now())
    notify(ana, "2")
    notify(make_shopper("eva"), "3")
    assert client.post(f"{ADDRESS}read/").json() == {"marked": 1}
    assert client.post(f"{ADDRESS}read/").json() == {"marked": 0}
    assert [row.task_id for row in TaskNotification.objects.filter(read_at=None)] == ["3"]


@pytest.mark.parametrize("number", [0, 10**30])
def test_an_unknown_one_is_404(client, number):
    assert client.post(f"{ADDRESS}{number}/read/").status_code == 404


def test_unread_is_yes_or_no(client):
    response = client.get(ADDRESS, {"unread": "maybe"})
    assert (response.status_code, list(response.json()["error"]["fields"])) == (400, ["unread"])
