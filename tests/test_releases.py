"""Two releases side by side: real webs and workers on one database and one broker.

The second is a copy of the first with a new column, a task with a new parameter and a new task.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.processes import celery, wait_until
from tests.scratch import Scratch, scratch_database
from tests.stack.stack import copy_project
from tests.test_worker_leases import LATE
from tests.visitors import Visitors
from tests.web import Web, web

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]

PROJECT = Path(__file__).resolve().parent.parent
#: In a file of the old release, what the new one has instead.
EDITS = {
    "task_manager/models.py": (
        '    description = models.TextField(_("description"), blank=True)\n    default_parameters',
        '    colour = models.CharField(max_length=20, db_default="red")\n'
        '    description = models.TextField(_("description"), blank=True)\n    default_parameters',
    ),
    "promotions/tasks.py": (
        "def send_promo_notification(promo_id: int) -> dict[str, int]:",
        "def colours() -> list[str]:\n"
        "    from task_manager.models import TaskTemplate\n\n"
        '    return list(TaskTemplate.objects.values_list("colour", flat=True).distinct())\n\n\n'
        "@shared_task\n"
        "def send_promo_notification(promo_id: int, loud: bool = False) -> dict[str, int]:",
    ),
}
NEW_TASK = "promotions.tasks.colours"
#: Publishes as many of each task as it is told, and prints their ids.
PUBLISH = """
from promotions import tasks

for name, arguments in {tasks!r}:
    print(*(getattr(tasks, name).delay(*arguments).id for _ in range({count})))
"""
#: Of each task, so that every worker gets some.
COUNT = 40
KNOWN = [("release_expired_reservations", []), ("send_promo_notification", [1])]


@pytest.fixture(autouse=True)
def empty(broker: redis.Redis) -> None:
    """An empty broker."""


@pytest.fixture
def scratch(transactional_db: None) -> Iterator[Scratch]:
    """The database, as the first release made it, with a member of the staff."""
    with scratch_database() as database:
        database.manage("migrate", "--verbosity=0")
        database.manage("seed_demo")
        yield database


@pytest.fixture
def new_release(tmp_path: Path, scratch: Scratch) -> Path:
    project = copy_project(tmp_path / "new")
    for name, (old, new) in EDITS.items():
        file = project / name
        text = file.read_text()
        assert text.count(old) == 1, name
        file.write_text(text.replace(old, new))
    scratch.manage("makemigrations", "--name=colour", "--verbosity=0", project=project)
    assert list((project / "task_manager" / "migrations").glob("*_colour.py"))
    return project


@pytest.fixture
def visitors(scratch: Scratch) -> Callable[[Web], Visitors]:
    printed = shell(scratch, STAFF)
    token, cookie = printed.split("\n")[:2]
    return lambda server: Visitors(server.port, token, cookie)


STAFF = """
from django.contrib.auth.models import User
from django.test import Client
from rest_framework_simplejwt.tokens import AccessToken

user = User.objects.create_user("boss", is_staff=True)
client = Client()
client.force_login(user)
print(AccessToken.for_user(user))
print(*(f"{cookie.key}={cookie.value}" for cookie in client.cookies.values()), sep="; ")
"""


def shell(scratch: Scratch, code: str, project: Path | None = None) -> str:
    return scratch.manage("shell", "-v", "0", "-c", code, project=project)


def publish(scratch: Scratch, project: Path, tasks: list[Any], count: int) -> list[str]:
    return shell(scratch, PUBLISH.format(tasks=tasks, count=count), project).split()


def workers_of(scratch: Scratch, task_ids: list[str]) -> set[str]:
    """Once every one of these tasks has succeeded, who ran them."""
    code = f"""
import json
from task_manager.models import TaskExecution

rows = TaskExecution.objects.filter(task_id__in={task_ids!r})
print(json.dumps(list(rows.values_list("status", "worker", "error"))))
"""
    found: list[Any] = []

    def ended() -> bool:
        found[:] = json.loads(shell(scratch, code))
        failed = [row for row in found if row[0] in ("FAILURE", "REVOKED")]
        assert not failed, failed[:3]
        return [row[0] for row in found] == ["SUCCESS"] * len(task_ids)

    wait_until(ended, seconds=180, what=f"{len(task_ids)} tasks have succeeded")
    return {worker.partition("@")[0] for _, worker, _ in found}


@contextmanager
def worker(name: str, scratch: Scratch, tmp_path: Path, project: Path) -> Iterator[None]:
    log = tmp_path / f"{name}.log"
    options = ("--concurrency=2", f"--hostname={name}@test", "--loglevel=info")
    with celery("worker", *options, log=log, project=project, **scratch.environ, **LATE):
        wait_until(lambda: b" ready." in log.read_bytes(), seconds=60, what="the worker is ready")
        yield


def serve(
    name: str, scratch: Scratch, tmp_path: Path, project: Path
) -> AbstractContextManager[Web]:
    folder = tmp_path / f"{name}-web"
    folder.mkdir()
    return web(folder, project=project, **scratch.environ)


def is_ready(server: Web) -> bool:
    http = HTTPConnection("127.0.0.1", server.port, timeout=60)
    http.request("GET", "/readyz")
    status = http.getresponse().status
    http.close()
    return status == 200


def test_each_runs_what_the_other_publishes_and_none_fails(
    scratch, new_release, visitors, tmp_path
):
    old_release = PROJECT
    with ExitStack() as old, ExitStack() as new:
        old_web = old.enter_context(serve("old", scratch, tmp_path, old_release))
        old.enter_context(worker("old", scratch, tmp_path, old_release))
        with visitors(old_web) as old_stream:
            # The new release's migrations come first.
            old_stream.wait_for_more(20)
            scratch.manage("migrate", "--verbosity=0", project=new_release)
            old_stream.wait_for_more(20)
            assert is_ready(old_web)
            # Its tasks come before its worker does.
            early = publish(scratch, new_release, [("colours", [])], 5)
            assert workers_of(scratch, publish(scratch, old_release, KNOWN, 10)) == {"old"}

            new_web = new.enter_context(serve("new", scratch, tmp_path, new_release))
            new.enter_context(worker("new", scratch, tmp_path, new_release))
            assert is_ready(new_web)
            with visitors(new_web) as new_stream:
                of_old = publish(scratch, old_release, KNOWN, COUNT)
                of_new = publish(scratch, new_release, [*KNOWN, ("colours", [])], COUNT)
                assert workers_of(scratch, early) == {"new"}
                assert workers_of(scratch, of_old) == {"old", "new"}
                assert workers_of(scratch, of_new[: 2 * COUNT]) == {"old", "new"}
                assert workers_of(scratch, of_new[2 * COUNT :]) == {"new"}
                new_stream.wait_for_more(20)
            old_stream.wait_for_more(20)
        assert old_stream.failures == new_stream.failures == []

        # The old one goes, and comes back: somebody regrets it.
        last = publish(scratch, old_release, KNOWN, 20)
        old.close()
        assert workers_of(scratch, last) <= {"old", "new"}
        new.close()
        again = ExitStack()
        with again:
            old_web = again.enter_context(serve("again", scratch, tmp_path, old_release))
            again.enter_context(worker("again", scratch, tmp_path, old_release))
            assert is_ready(old_web)
            assert workers_of(scratch, publish(scratch, old_release, KNOWN, 10)) == {"again"}
    made = old_stream.made + new_stream.made
    printed = shell(
        scratch,
        "from task_manager.models import TaskTemplate as T; print(T.objects.count())",
    )
    assert int(printed) == len(made)
