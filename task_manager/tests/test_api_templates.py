"""Templates as staff see, change and run them."""

import pytest

from task_manager.models import TaskTemplate

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

ADDRESS = "/api/tasks/templates/"
TEMPLATE = {
    "name": "consolidación nómina",
    "task_name": "nomina.consolidar",
    "module": "nomina",
    "description": "Consolidación mensual",
    "default_parameters": {"notificar": True},
    "estimated_duration": 300,
    "notification_settings": {"notify_on_start": True},
}


@pytest.fixture
def boss(make_shopper):
    user = make_shopper("boss")
    user.is_staff = True
    user.save()
    return user


@pytest.fixture
def client(client_of, boss):
    return client_of(boss)


def make(task_name: str, **parameters) -> TaskTemplate:
    return TaskTemplate.objects.create(
        name="t", task_name=task_name, module="m", default_parameters=parameters
    )


def test_a_template_is_added_shown_changed_and_deleted(client):
    made = client.post(ADDRESS, TEMPLATE)
    assert made.status_code == 201, made.content
    assert made.json().items() >= TEMPLATE.items()
    address = f"{ADDRESS}consolidación nómina/"
    assert client.get(address).json() == made.json() == client.get(ADDRESS).json()["results"][0]
    changed = client.patch(address, {"module": "other"}).json()
    assert (changed["module"], changed["task_name"]) == ("other", "nomina.consolidar")
    assert changed["updated_at"] > made.json()["updated_at"]
    assert client.delete(address).status_code == 204
    assert client.get(address).status_code == 404


def test_what_is_left_out_is_empty(client):
    made = client.post(ADDRESS, {"name": "a", "task_name": "b", "module": "c"}).json()
    assert (made["default_parameters"], made["notification_settings"]) == ({}, {})
    assert (made["description"], made["estimated_duration"]) == ("", None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a/b"),
        ("name", ".."),
        ("name", ""),
        ("name", "x" * 101),
        ("default_parameters", [1]),
        ("default_parameters", None),
        ("notification_settings", "all"),
        ("notification_settings", {"notify_on_stort": True}),
        ("estimated_duration", -1),
        ("estimated_duration", 2**31),
    ],
)
def test_a_wrong_value_is_named(client, field, value):
    response = client.post(ADDRESS, TEMPLATE | {field: value})
    assert (response.status_code, list(response.json()["error"]["fields"])) == (400, [field])
    assert not TaskTemplate.objects.exists()


def test_a_name_is_there_once(client):
    assert client.post(ADDRESS, TEMPLATE).status_code == 201
    response = client.post(ADDRESS, TEMPLATE)
    assert (response.status_code, list(response.json()["error"]["fields"])) == (400, ["name"])


def test_a_run_answers_with_the_address_of_its_status(client, boss):
    make("promotions.tasks.release_expired_reservations")
    response = client.post(f"{ADDRESS}t/run/")
    assert response.status_code == 202
    status = client.get(response.json()["status_url"]).json()
    assert (status["task_id"], status["state"]) == (response.json()["task_id"], "PENDING")
    page = client.get("/api/tasks/user-tasks/").json()
    assert [row["task_id"] for row in page["results"]] == [status["task_id"]]


def test_a_run_names_parameters_that_the_task_does_not_take(client):
    make("promotions.tasks.release_expired_reservations", colour="red")
    response = client.post(f"{ADDRESS}t/run/", {"parameters": {"size": 1}})
    assert response.status_code == 400
    assert set(response.json()["error"]["fields"]) == {"parameters.colour", "parameters.size"}


def test_a_name_that_is_no_text_is_named_as_far_as_it_can_be(client):
    make("promotions.tasks.release_expired_reservations")
    response = client.post(
        f"{ADDRESS}t/run/", '{"parameters": {"\\ud800": 1}}', content_type="application/json"
    )
    assert (response.status_code, list(response.json()["error"]["fields"])) == (
        400,
        ["parameters.?"],
    )


@pytest.mark.parametrize("body", [{"parameters": [1]}, {"parameters": None}, [1], "x"])
def test_a_run_s_parameters_are_an_object(client, body):
    make("promotions.tasks.release_expired_reservations")
    assert client.post(f"{ADDRESS}t/run/", body).status_code == 400


def test_a_task_that_is_not_known_cannot_be_run(client):
    make("contabilidad.backup")
    response = client.post(f"{ADDRESS}t/run/")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "unknown_task")


def test_a_template_that_is_not_there_cannot_be_run(client):
    assert client.post(f"{ADDRESS}t/run/").status_code == 404
