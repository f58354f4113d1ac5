"""What the last release promised, and what may change of it."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from deploy import contract
from tests.stack.stack import copy_project

TASK = "promotions.tasks.send_promo_notification"
OLD: contract.Contract = {
    "version": "1.0.0",
    "queues": ["default", "low_priority", "unused"],
    "tasks": {
        "shop.buy": {
            "queue": "default",
            "parameters": {"item": True, "amount": False},
            "retired": False,
        },
        "shop.gone": {"queue": "low_priority", "parameters": {}, "retired": True},
    },
    "migrations": {"shop": "0001_initial"},
}


def test_the_code_keeps_what_the_last_release_promised():
    assert contract.broken(contract.recorded(), contract.current()) == []


def test_every_task_and_queue_of_ours_is_a_promise():
    current = contract.current()
    assert current["tasks"][TASK] == {
        "queue": "default",
        "parameters": {"promo_id": True},
        "retired": False,
    }
    scheduled = {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()}
    assert scheduled < current["tasks"].keys()
    assert current["queues"] == sorted(settings.QUEUES)


def test_a_retired_task_is_not_on_the_schedule():
    tasks = contract.current()["tasks"]
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        assert not tasks[entry["task"]]["retired"]


def changed(**parameters: bool) -> contract.Contract:
    """The next release, with these parameters of `shop.buy`."""
    new = copy.deepcopy(OLD)
    new["tasks"]["shop.buy"]["parameters"] = parameters
    return new


def without(task: str = "", queue: str = "") -> contract.Contract:
    new = copy.deepcopy(OLD)
    new["tasks"].pop(task, None)
    new["queues"] = [name for name in new["queues"] if name != queue]
    return new


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (without("shop.buy"), "shop.buy is gone, and 1.0.0 publishes it"),
        (without(queue="default"), "the queue default is read by nobody"),
        (without(queue="low_priority"), "the queue low_priority is read by nobody"),
        (changed(item=True), "shop.buy: the parameter amount is gone"),
        (changed(amount=False), "shop.buy: the parameter item is gone"),
        (changed(amount=False, item=True), "shop.buy: the parameters ['item', 'amount'] have"),
        (changed(first=False, item=True, amount=False), "have another order: add new ones last"),
        (changed(item=True, amount=True), "without the parameter amount: give it a default"),
        (
            changed(item=True, amount=False, gift=True),
            "without the parameter gift: give it a default",
        ),
    ],
)
def test_what_may_not_change(new, expected):
    (told,) = contract.broken(OLD, new)
    assert expected in told


@pytest.mark.parametrize(
    "new",
    [
        OLD,
        without("shop.gone"),
        without(queue="unused"),
        changed(item=True, amount=False, gift=False),
        changed(item=False, amount=False),
        {**OLD, "tasks": OLD["tasks"] | {"shop.new": OLD["tasks"]["shop.buy"]}},
        {**OLD, "queues": [*OLD["queues"], "new"]},
    ],
    ids=["nothing", "retired", "unused", "optional", "eased", "new task", "new queue"],
)
def test_what_may_change(new):
    assert contract.broken(OLD, new) == []


# --- scripts/record-release ---
@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path)


def record(project: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [project / "scripts" / "record-release", *arguments],
        env={"PATH": "/usr/bin:/bin", "VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_release_is_recorded(project):
    (project / "deploy" / "contract.json").unlink()
    file = project / "pyproject.toml"
    file.write_text(file.read_text().replace(f'version = "{version()}"', 'version = "7.8.9"', 1))
    done = record(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert "deploy/contract.json holds" in done.stdout
    recorded = json.loads((project / "deploy" / "contract.json").read_text())
    assert recorded == {**contract.current(), "version": "7.8.9"}


def test_a_release_that_breaks_its_promise_is_refused(project):
    file = project / "promotions" / "tasks.py"
    text = file.read_text()
    assert "def send_promo_notification(promo_id: int)" in text
    file.write_text(text.replace("(promo_id: int)", "(promo_id: int, loud: bool)"))
    before = (project / "deploy" / "contract.json").read_text()
    done = record(project)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {TASK}: messages may come without the parameter loud: give it a default\n"
    )
    assert (project / "deploy" / "contract.json").read_text() == before


def test_other_arguments_end_with_the_usage(project):
    assert record(project, "--help").returncode == 0
    wrong = record(project, "1.2.3")
    assert wrong.returncode == 2
    assert "Usage: scripts/record-release" in wrong.stderr


def version() -> str:
    return contract.current()["version"]
