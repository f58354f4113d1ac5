"""scripts/upgrade and scripts/rollback on a bare host, with visitors and tasks all the while."""

from collections.abc import Callable, Iterator

import pytest

from tests.stack.bare_host import CLONE, CURRENT, ENVIRONMENT, BareHost, network
from tests.stack.stack import run, wait_until
from tests.visitors import Visitors

HEALTH = "marketplace/health.py"
STAFF = """
from datetime import timedelta
from django.contrib.auth.models import User
from django.test import Client
from rest_framework_simplejwt.tokens import AccessToken
from task_manager.models import TaskTemplate

user = User.objects.create_user("staff", is_staff=True)
token = AccessToken.for_user(user)
token.set_exp(lifetime=timedelta(hours=1))
client = Client()
client.force_login(user)
TaskTemplate.objects.create(
    name="of-the-test", task_name="promotions.tasks.process_notification_queue", module="tests"
)
print(token)
print(*(f"{cookie.key}={cookie.value}" for cookie in client.cookies.values()), sep="; ")
"""
ENDED = """
from task_manager.models import FINISHED, TaskExecution

ids = {ids!r}
print(TaskExecution.objects.filter(task_id__in=ids, status__in=FINISHED).count() == len(ids))
"""


@pytest.fixture(scope="module", params=["systemd", "supervisor"])
def host(request: pytest.FixtureRequest, failed: Callable[[], bool]) -> Iterator[BareHost]:
    with network(failed) as made:
        made.add_aws()
        host = made.add_host("first", prepared=True)
        written = host.run(f"{CLONE}/scripts/init-env", "--print")
        # Visitors come from outside.
        more = "WEB_BIND=0.0.0.0:8000\nDJANGO_ALLOWED_HOSTS=*\n"
        host.write("/root/env", written + ENVIRONMENT + more)
        made.wait_for_aws()
        host.install(request.param, "--env", "/root/env", "--apt")
        yield host


@pytest.fixture
def visitors(host: BareHost) -> Visitors:
    token, cookie = host.python(STAFF).split("\n")[:2]
    return Visitors(8000, token, cookie, host=host.addresses()[-1], template="of-the-test")


def edit(host: BareHost, file: str, old: str, new: str) -> None:
    text = host.run("cat", f"{CLONE}/{file}")
    assert old in text, file
    host.write(f"{CLONE}/{file}", text.replace(old, new, 1))


def says(host: BareHost) -> str:
    return host.run("curl", "--silent", "http://127.0.0.1:8000/healthz")


def release(host: BareHost) -> str:
    return host.run("readlink", CURRENT).strip().rpartition("/")[2]


def test_releases_come_and_go_under_load(host: BareHost, visitors: Visitors) -> None:
    first = release(host)
    with visitors:
        visitors.wait_for_more()
        edit(host, HEALTH, '{"status": "ok"}', '{"status": "new"}')
        code, output = host.script("upgrade", "--yes")
        assert code == 0, output
        new = release(host)
        assert (new != first, says(host)) == (True, '{"status": "new"}')

        edit(host, HEALTH, "ready = set(", "ready = False and set(")
        quickly = ("env", "HEALTHY_WITHIN=20", f"{CLONE}/scripts/upgrade")
        code, output = host.try_run(*quickly, "--yes", "--no-backup")
        assert code == 1
        assert f"error: {new} runs again: " in output
        assert (release(host), says(host)) == (new, '{"status": "new"}')

        edit(host, "marketplace/asgi.py", "import os\n", "import os\nimport nothing_at_all\n")
        code, output = host.script("upgrade", "--yes", "--no-backup")
        assert (code, "No module named 'nothing_at_all'" in output) == (1, True), output
        assert (release(host), says(host)) == (new, '{"status": "new"}')

        code, output = host.script("rollback", "--yes")
        assert code == 0, output
        assert (release(host), says(host)) == (first, '{"status": "ok"}')
        visitors.wait_for_tasks()
    assert visitors.failures == []
    wait_until(
        lambda: host.python(ENDED.format(ids=visitors.tasks)).strip() == "True",
        seconds=120,
        what=f"{len(visitors.tasks)} tasks have ended",
    )
    assert run("docker", "exec", host.name, "flash-promos", "rollback", "--list").returncode == 0
