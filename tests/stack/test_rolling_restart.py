"""`scripts/rolling-restart` on the production stack, with visitors and tasks all the while."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.stack.stack import Edits, Stack, assert_ran_once, run, wait_until
from tests.visitors import Visitors

OURS = ("web", "worker", "beat", "flower")

NOT_READY: Edits = {"marketplace/health.py": ("ready = set(", "ready = False and set(")}
NO_START: Edits = {"marketplace/asgi.py": ("import os\n", "import os\nimport nothing_at_all\n")}
BAD_MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("promotions", "0002_functions_and_triggers")]
    operations = [migrations.RunSQL("SELECT nonsense", "")]
"""


def restart(
    stack: Stack, image: str = "", *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    more = variables | ({"APP_IMAGE": image} if image else {})
    return stack.try_run("scripts/rolling-restart", *arguments, variables=more)


def spans(stack: Stack, task_ids: list[str]) -> dict[str, tuple[float, float]]:
    """Of each worker, when its first of these tasks began and its last one ended."""
    printed = stack.shell_code(f"""
import json
from task_manager.models import TaskExecution

found = {{}}
for task in TaskExecution.objects.filter(task_id__in={task_ids!r}):
    began, ended = task.started_at.timestamp(), task.finished_at.timestamp()
    first, last = found.get(task.worker, (began, ended))
    found[task.worker] = min(first, began), max(last, ended)
print(json.dumps(found))
""")
    return {worker: (first, last) for worker, (first, last) in json.loads(printed).items()}


def test_a_new_image_takes_over_without_a_failed_request_or_a_lost_task(
    stack: Stack, visitors: Visitors, template: str
) -> None:
    image = stack.build("new", {"marketplace/health.py": ('{"status": "ok"}', '{"status": "new"}')})
    before = stack.ids()
    # One that does not run, as scripts/drain leaves it.
    stack.compose("up", "--no-start", "--no-recreate", "--scale", "worker=2")
    with stack.followed("worker") as log:
        # Tasks come all the while, so that the old worker and the new one have some.
        with visitors:
            visitors.wait_for_more()
            done = restart(stack, image)
            visitors.wait_for_tasks()
        stack.variables["APP_IMAGE"] = image
        stack.wait_for_ends(visitors.tasks, seconds=120)
        assert_ran_once(visitors.tasks, log)
    assert done.returncode == 0, done.stderr
    assert visitors.failures == []
    assert visitors.returns >= 1
    assert stack.templates() == sorted([template, *visitors.made])

    assert stack.http("/healthz") == (200, '{"status": "new"}')
    images = {name: item["Config"]["Image"] for name, item in stack.containers().items()}
    for service, container in stack.ids().items():
        is_ours = service in OURS
        assert (images[service] == image) == is_ours == (container != before[service]), service
    assert set(stack.states().values()) == {"healthy", "exit 0"}

    (_, old_ended), (new_began, _) = sorted(spans(stack, visitors.tasks).values())
    assert new_began < old_ended, "there was a time without a worker"


def test_going_up_again_changes_nothing(stack: Stack) -> None:
    before = stack.ids()
    stack.compose("up", "--detach", "--wait")
    assert stack.ids() == before


def test_a_hup_in_the_container_fails_no_request(stack: Stack, visitors: Visitors) -> None:
    """The image's Python is another one than that of the tests without Docker."""
    (web,) = stack.compose("ps", "--quiet", "web").split()

    def started() -> int:
        logs = run("docker", "logs", web)
        return (logs.stdout + logs.stderr).count("server listening on unix")

    with visitors:
        for _ in range(5):
            visitors.wait_for_more()
            goal = started() + 2
            assert run("docker", "kill", "--signal", "HUP", web).returncode == 0
            wait_until(lambda goal=goal: started() >= goal, seconds=90, what="new processes")  # type: ignore[misc]
        visitors.wait_for_more()
    assert visitors.failures == []


@pytest.mark.parametrize(
    ("edits", "reason"),
    [(NO_START, "No module named 'nothing_at_all'"), (NOT_READY, "ASGI server listening")],
    ids=["does not start", "is not ready"],
)
def test_the_old_goes_on_when_the_new_is_broken(
    stack: Stack, visitors: Visitors, edits: Edits, reason: str
) -> None:
    image = stack.build("broken", edits)
    before = stack.ids()
    with visitors:
        done = restart(stack, image, HEALTHY_WITHIN="30")
        visitors.wait_for_more()
    assert visitors.failures == []
    assert done.returncode == 1
    assert reason in done.stderr
    assert "error: the new web did not become healthy" in done.stderr
    assert stack.ids() == before


def test_the_old_goes_on_when_a_migration_fails(stack: Stack) -> None:
    image = stack.build("broken", {}, {"promotions/migrations/0900_broken.py": BAD_MIGRATION})
    before = stack.ids()
    done = restart(stack, image)
    assert done.returncode == 1
    assert 'column "nonsense" does not exist' in done.stderr
    assert (
        "error: the migrations failed (above, their last words); no service was restarted"
        in done.stderr
    )
    assert stack.ids() == before


def test_one_that_is_interrupted_takes_back_what_it_began(stack: Stack) -> None:
    image = stack.build("broken", NOT_READY)
    before = stack.ids()
    webs = len(stack.compose("ps", "--quiet", "web").split())
    with stack.start("scripts/rolling-restart", variables={"APP_IMAGE": image}) as script:
        wait_until(
            lambda: len(stack.compose("ps", "--quiet", "web").split()) > webs,
            seconds=120,
            what="a second web",
        )
        script.send_signal(signal.SIGTERM)
        assert script.wait(60) != 0
    assert stack.ids() == before


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "error"),
    [
        (["nonsense"], {}, 2, "Usage: scripts/rolling-restart"),
        (["proxy"], {}, 2, "Usage: scripts/rolling-restart"),
        ([], {"APP_IMAGE": "no-such-image"}, 1, "error: there is no image no-such-image here"),
        ([], {"HEALTHY_WITHIN": "soon"}, 1, "error: HEALTHY_WITHIN=soon: expected seconds"),
        ([], {"COMPOSE_FILE": "docker-compose.yml"}, 1, "error: COMPOSE_FILE names no production"),
        ([], {"COMPOSE_PROJECT_NAME": "nobody"}, 1, "error: there is no running proxy"),
        ([], {"REDIS_PASSWORD": ""}, 1, "error: REDIS_PASSWORD is not set: set it to a secret"),
        ([], {"DOCKER_HOST": "unix:///nowhere"}, 1, "error: no Docker engine answers"),
    ],
)
def test_what_is_wrong_is_named_before_anything_changes(
    stack: Stack, arguments: list[str], variables: dict[str, str], code: int, error: str
) -> None:
    before = stack.ids()
    done = restart(stack, "", *arguments, **variables)
    assert (done.returncode, error in done.stderr) == (code, True), done.stderr
    assert stack.ids() == before


def test_what_changed_and_was_not_restarted_is_named(stack: Stack) -> None:
    file = Path(stack.folder, ".env")
    before = file.read_text()
    file.write_text(before + "PROXY_TRUST_FORWARDED=0\n")
    try:
        done = restart(stack, "", "flower")
    finally:
        file.write_text(before)
    assert done.returncode == 0, done.stderr
    assert "The settings of proxy changed, too" in done.stdout


def test_help_needs_nothing(stack: Stack) -> None:
    done = run(
        str(stack.folder / "scripts" / "rolling-restart"), "--help", env={"PATH": "/bin:/usr/bin"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "docs/upgrading.md" in done.stdout
