"""The documented examples, as an app that somebody adds to the project would have them."""

from pathlib import Path

import pytest
import redis
from celery import current_app
from django.contrib.auth.models import User
from rest_framework.test import APIRequestFactory, force_authenticate

from task_manager.models import TaskExecution, TaskTemplate
from tests.processes import wait_until
from tests.test_worker_cancel import running
from tests.test_worker_tracking import EXAMPLES, row

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def examples(broker: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def test_decorated_tasks_are_called_queried_and_counted(tmp_path: Path):
    from nomina.tasks import consolidar_nomina, generar_reporte_nomina
    from nomina.views import estadisticas_modulo, mis_tareas_nomina

    user, other = User.objects.create_user("ana"), User.objects.create_user("eva")
    with running(tmp_path):
        first = consolidar_nomina.delay(11, user_id=user.pk)
        assert first.get(timeout=30) == {"success": True, "periodo_id": 11}
        second = generar_reporte_nomina.delay({"mes": 11}, user.pk)
        consolidar_nomina.delay(12, user_id=other.pk)
        row(first.id, "SUCCESS")
        row(second.id, "SUCCESS")
        wait_until(
            lambda: TaskExecution.objects.filter(status="SUCCESS").count() == 3, what="all ended"
        )
    request = APIRequestFactory().get("/")
    force_authenticate(request, user)
    tasks = mis_tareas_nomina(request).data
    assert [(task["task_name"], task["task_id"]) for task in tasks] == [
        ("nomina.generar_reporte", second.id),
        ("nomina.consolidar", first.id),
    ]
    stats = estadisticas_modulo(request, modulo="nomina").data
    assert (stats["total"], stats["failure_rate"]) == (3, 0)
    assert {task["task_name"] for task in stats["tasks"]} == {
        "nomina.consolidar",
        "nomina.generar_reporte",
    }


def test_the_function_under_the_decorator_stays_as_it_is():
    from nomina.tasks import consolidar_nomina

    assert consolidar_nomina(11, user_id=1) == {"success": True, "periodo_id": 11}
    assert consolidar_nomina.name == "nomina.tasks.consolidar_nomina"
    assert consolidar_nomina.name in current_app.tasks


def test_templates_are_made_and_changed():
    code = (Path(EXAMPLES) / "nomina" / "plantillas.py").read_text()
    for _ in range(2):
        exec(compile(code, "plantillas.py", "exec"), {})  # noqa: S102  our own example
    backup, payroll = TaskTemplate.objects.order_by("name")
    assert (backup.name, backup.estimated_duration) == ("backup_contabilidad", 600)
    assert payroll.default_parameters == {"notificar": True}
    assert payroll.notification_settings["notify_on_error"] is True


def test_a_template_with_settings_that_mean_nothing_is_refused():
    from django.core.exceptions import ValidationError

    from task_manager.utils import create_task_template

    with pytest.raises(ValidationError, match="notify_on_success"):
        create_task_template("x", "x.y", "x", notification_settings={"notify_on_success": True})
    assert not TaskTemplate.objects.exists()
