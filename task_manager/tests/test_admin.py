"""The admin's pages: the history to see and cancel, templates to change."""

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.urls import reverse
from django.utils import timezone

from task_manager.models import TaskExecution, TaskNotification, TaskTemplate

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]

READ_ONLY = [TaskExecution, TaskNotification]


def page(model: Any, name: str, *args: Any) -> str:
    return reverse(f"admin:task_manager_{model._meta.model_name}_{name}", args=args)


@pytest.fixture
def rows(make_execution, make_shopper) -> None:
    """Some of everything."""
    for number in range(5):
        user = make_shopper(f"user-{number}")
        make_execution(user=user, task_module=f"module-{number}")
        TaskTemplate.objects.create(name=f"t-{number}", task_name="a", module="m")
        TaskNotification.objects.create(
            task_id=str(number),
            task_name="a",
            user=user,
            event="error",
            channel="email",
            status="FAILED",
            created_at=timezone.now(),
        )


@pytest.mark.parametrize("model", [*READ_ONLY, TaskTemplate])
def test_a_list_takes_few_queries(admin_client, rows, model, django_assert_max_num_queries):
    with django_assert_max_num_queries(7):
        response = admin_client.get(page(model, "changelist"))
    assert (response.status_code, response.context["cl"].result_count) == (200, 5)


@pytest.mark.parametrize("model", READ_ONLY)
def test_the_history_is_shown_and_not_changed(admin_client, rows, model):
    row = model.objects.first()
    assert admin_client.get(page(model, "change", row.pk)).status_code == 200
    assert admin_client.post(page(model, "change", row.pk), {"message": "x"}).status_code == 403
    assert admin_client.get(page(model, "add")).status_code == 403
    assert admin_client.post(page(model, "delete", row.pk), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"q": "task-2"}, ["task-2"]),
        ({"q": "COPIA"}, ["task-3"]),
        ({"q": "nothing"}, []),
        ({"status": "SUCCESS"}, ["task-2"]),
        ({"task_module": "conta"}, ["task-3"]),
        ({"task_name": "backup"}, ["task-3"]),
        ({"q": "nomina", "status": "SUCCESS"}, ["task-2"]),
        ({}, ["task-3", "task-2", "task-1"]),
    ],
)
def test_tasks_are_found(admin_client, make_execution, query, found):
    make_execution()
    make_execution(status="SUCCESS")
    make_execution(task_name="backup", task_module="conta", description="Copia")
    response = admin_client.get(page(TaskExecution, "changelist"), query)
    assert [row.pk for row in response.context["cl"].result_list] == found


def cancel(client, *executions: TaskExecution) -> list[str]:
    response = client.post(
        page(TaskExecution, "changelist"),
        {"action": "cancel", "_selected_action": [row.pk for row in executions]},
        follow=True,
    )
    return [str(message) for message in response.context["messages"]]


def test_the_tasks_chosen_are_cancelled_and_finished_ones_stay(admin_client, make_execution):
    waiting, done = make_execution(), make_execution(status="SUCCESS")
    assert cancel(admin_client, waiting, done) == ["1 task cancelled."]
    statuses = dict(TaskExecution.objects.values_list("pk", "status"))
    assert statuses == {waiting.pk: "REVOKED", done.pk: "SUCCESS"}


def test_who_may_only_look_cannot_cancel(client, make_shopper, make_execution):
    clerk = make_shopper("clerk")
    clerk.is_staff = True
    clerk.save()
    clerk.user_permissions.add(Permission.objects.get(codename="view_taskexecution"))
    client.force_login(clerk)
    execution = make_execution()
    assert client.get(page(TaskExecution, "changelist")).status_code == 200
    cancel(client, execution)
    execution.refresh_from_db()
    assert execution.status == "PENDING"


TEMPLATE = {
    "name": "t",
    "task_name": "nomina.consolidar",
    "module": "nomina",
    "default_parameters": '{"notificar": true}',
    "notification_settings": '{"notify_on_start": true}',
}


def test_a_template_is_added(admin_client):
    response = admin_client.post(page(TaskTemplate, "add"), TEMPLATE)
    assert response.status_code == 302
    template = TaskTemplate.objects.get()
    assert template.default_parameters == {"notificar": True}
    assert template.notification_settings == {"notify_on_start": True}


def test_what_is_left_empty_is_an_empty_object(admin_client):
    empty = {"default_parameters": "", "notification_settings": ""}
    assert admin_client.post(page(TaskTemplate, "add"), TEMPLATE | empty).status_code == 302
    template = TaskTemplate.objects.get()
    assert (template.default_parameters, template.notification_settings) == ({}, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("default_parameters", "[1]"),
        ("default_parameters", "{"),
        ("notification_settings", '"all"'),
        ("notification_settings", '{"notify_on_stort": true}'),
    ],
)
def test_a_template_s_wrong_value_is_named(admin_client, field, value):
    response = admin_client.post(page(TaskTemplate, "add"), TEMPLATE | {field: value})
    assert list(response.context["adminform"].form.errors) == [field]
    assert not TaskTemplate.objects.exists()


def test_failed_notifications_are_delivered_again(admin_client, rows):
    chosen = list(TaskNotification.objects.values_list("pk", flat=True))[:2]
    admin_client.post(
        page(TaskNotification, "changelist"),
        {"action": "deliver_again", "_selected_action": chosen},
    )
    assert TaskNotification.objects.filter(status="PENDING").count() == 2


def test_every_table_is_in_the_admin():
    tables = {model._meta.model_name for model in admin.site._registry}
    assert tables >= {"taskexecution", "tasktemplate", "tasknotification", "deadletter"}
