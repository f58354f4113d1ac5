"""Running a task by its template."""

import pytest
from celery import shared_task
from django.core.exceptions import ValidationError

from task_manager.exceptions import UnknownTask
from task_manager.models import TaskExecution, TaskTemplate
from task_manager.services.executions import executions_catch_up
from task_manager.services.registry import task_named
from task_manager.services.templates import template_run
from task_manager.utils import track_task

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


@shared_task(bind=True, name="tests.consolidate")
@track_task("tests.consolidar", "tests", "Consolidar")
def consolidate(self, period, user_id, *, notify=False):
    """Never run: no worker listens here."""


@shared_task(name="tests.anything")
def anything(**options):
    """Never run either."""


@pytest.fixture
def ana(make_shopper):
    return make_shopper("ana")


def run(user, task_name: str, defaults=None, **parameters) -> TaskExecution:
    template = TaskTemplate(name="t", task_name=task_name, default_parameters=defaults or {})
    task_id = template_run(template, parameters=parameters, caller_id=user.pk)
    executions_catch_up()
    return TaskExecution.objects.get(pk=task_id)


@pytest.mark.parametrize("name", ["tests.consolidar", "tests.consolidate"])
def test_a_task_is_found_by_either_name(name):
    assert task_named(name).name == "tests.consolidate"


def test_the_tasks_of_the_apps_are_known_without_a_worker():
    assert task_named("promotions.tasks.check_active_promos")


def test_an_unknown_task_is_refused(ana):
    with pytest.raises(UnknownTask):
        run(ana, "tests.nothing")


def test_given_parameters_take_the_place_of_the_usual_ones(ana):
    execution = run(ana, "tests.consolidar", {"period": 1, "notify": True}, period=2)
    assert execution.task_name == "tests.consolidar"
    assert execution.parameters == {"period": 2, "notify": True, "user_id": ana.pk}


def test_the_task_belongs_to_the_caller_unless_another_is_named(ana, make_shopper):
    eva = make_shopper("eva")
    assert run(ana, "tests.consolidar", period=1).user == ana
    assert run(ana, "tests.consolidar", period=1, user_id=eva.pk).user == eva


def test_a_task_without_a_user_belongs_to_the_caller_too(ana):
    execution = run(ana, "promotions.tasks.release_expired_reservations")
    assert (execution.user, execution.parameters) == (ana, {})


def test_a_task_of_any_parameters_takes_any(ana):
    assert run(ana, "tests.anything", colour="red").parameters == {"colour": "red"}


def test_wrong_parameters_are_named(ana):
    with pytest.raises(ValidationError) as error:
        run(ana, "tests.consolidar", colour="red")
    assert error.value.message_dict == {
        "parameters.colour": ["The task has no such parameter."],
        "parameters.period": ["The task needs this parameter."],
    }
    assert not TaskExecution.objects.exists()
