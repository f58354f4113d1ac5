"""The commands: what they publish and run, and one clear line for what is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from marketplace.celery import app
from task_manager import entries
from task_manager.clients.broker import broker as open_broker
from task_manager.models import DeadLetter, OutboxTask
from task_manager.utils import track_task
from tests import retrying_tasks
from tests.processes import environment, running, wait_until

pytestmark = pytest.mark.django_db

NAME = "shop.tasks.wrap"
RELEASE = "promotions.tasks.release_expired_reservations"


@pytest.fixture(autouse=True)
def _tasks():
    @app.task(name=NAME)
    @track_task("shop.wrap", "shop")
    def wrap(box, token="", *, colour="red") -> None: ...

    @app.task(name="shop.tasks.quiet", ignore_result=True)
    def quiet() -> None: ...

    yield
    for name in (NAME, "shop.tasks.quiet"):
        app.tasks.pop(name)
        entries._descriptions.pop(name, None)


@pytest.fixture
def call(capsys) -> Callable[..., tuple[str, str]]:
    """Calls a command; what it wrote to stdout and stderr."""

    def run(*arguments: str) -> tuple[str, str]:
        call_command(*arguments)
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


def refusal(*arguments: str) -> str:
    """The one line that a wrong call is answered with."""
    with pytest.raises(CommandError) as refused:
        call_command(*arguments)
    assert refused.value.returncode == 2
    text = str(refused.value)
    assert "\n" not in text
    return text


def waiting(queue: str = "default") -> list[Any]:
    with open_broker() as queues:
        return list(queues.waiting(queue))


# --- run_task ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [NAME, "shop.wrap"])
def test_a_task_is_published_by_either_name(broker, call, name):
    out, err = call("run_task", name, "--args", '[7, "ä"]', "--kwargs", '{"colour": null}')
    (message,) = waiting()
    assert (out, err) == (f"{message.task_id}\n", "")
    assert (message.headers["task"], message.args) == (NAME, [7, "ä"])
    assert message.kwargs == {"colour": None}


def test_a_task_goes_to_its_own_queue(broker, call):
    call("run_task", RELEASE)
    assert len(waiting("high_priority")) == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1", "--args '[1' is not JSON (Expecting ',' delimiter: line 1 column 3 (char 2)): "),
        ("", "--args '' is not JSON (Expecting value: line 1 column 1 (char 0)): "),
        ("[NaN]", "--args '[NaN]' is not JSON (NaN is no number of JSON's): "),
        ("{}", "--args '{}': "),
        ("7", "--args '7': "),
        ("null", "--args 'null': "),
    ],
)
def test_arguments_that_are_no_json_list(broker, text, reason):
    assert (
        refusal("run_task", NAME, f"--args={text}") == f"{reason}use a list such as '[1, \"two\"]'"
    )
    assert not waiting()


@pytest.mark.parametrize("text", ["[]", '"a"', "{'a': 1}", "[" * 100_000])
def test_named_arguments_that_are_no_json_object(broker, text):
    said = refusal("run_task", NAME, f"--kwargs={text}")
    assert said.startswith(f"--kwargs {text[:20]!r}"[:-1])
    assert said.endswith("""use an object such as '{"name": "value"}'""")
    assert len(said) < 400


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "wrap() missing 1 required positional argument: 'box'"),
        (["--args=[1, 2, 3]"], "takes from 1 to 2 positional arguments but 3"),
        (["--args=[1]", '--kwargs={"size": 1}'], "unexpected keyword argument 'size'"),
        (["--args=[1]", '--kwargs={"box": 1}'], "multiple values for argument 'box'"),
    ],
)
def test_arguments_that_the_task_does_not_take(broker, arguments, reason):
    said = refusal("run_task", NAME, *arguments)
    assert said.startswith(f"{NAME} does not take these arguments: ")
    assert reason in said
    assert not waiting()


def test_an_unknown_task_is_answered_with_names_like_it():
    assert refusal("run_task", "shop.tasks.warp").startswith(
        "no task is called 'shop.tasks.warp'; did you mean shop.tasks.wrap"
    )


def test_an_unknown_task_like_no_other_is_answered_with_all_names():
    said = refusal("run_task", "§" * 500)
    assert {NAME, "shop.wrap", RELEASE} <= set(re.split(r"[ ,]+", said))
    assert "celery." not in said
    assert "§" * 101 not in said


@pytest.mark.parametrize("seconds", ["-1", "nan"])
def test_a_wait_that_is_none(seconds):
    assert refusal("run_task", RELEASE, f"--wait={seconds}").startswith(f"--wait {seconds}: use ")


def test_a_result_that_is_not_kept_is_not_waited_for():
    assert "keeps no result" in refusal("run_task", "shop.tasks.quiet", "--wait")


def test_a_result_that_does_not_come_in_time(broker, call):
    with pytest.raises(CommandError, match=r"has no result after 0.1 s; it goes on") as failed:
        call("run_task", NAME, "--args=[1]", "--wait=0.1")
    assert failed.value.returncode == 1
    assert len(waiting()) == 1


def test_a_task_that_is_not_published_says_so(no_broker):
    with pytest.raises(CommandError, match=f"^{RELEASE} was not published: ") as failed:
        call_command("run_task", RELEASE)
    assert failed.value.returncode == 1


def test_from_the_shell_a_wrong_call_is_one_line_and_exit_2():
    wrong = subprocess.run(
        [sys.executable, "manage.py", "run_task", RELEASE, "--args", "{"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert len(wrong.stderr.splitlines()) == 1


# --- dead_letters --------------------------------------------------------------------------------
@pytest.fixture
def letters() -> list[DeadLetter]:
    return [
        DeadLetter.objects.create(
            task_id=f"task-{number}",
            task_name="shop.wrap",
            celery_name=NAME if number else "shop.tasks.retired",
            args=[number, "hunter2"],
            queue="default",
            error="OSError('busy\n')",
            status=status,
            created_at=timezone.now(),
        )
        for number, status in enumerate(["WAITING", "WAITING", "WAITING", "DISCARDED"])
    ]


def statuses() -> list[str]:
    return list(DeadLetter.objects.order_by("pk").values_list("status", flat=True))


def test_letters_are_listed_a_line_each(call, letters):
    lines = call("dead_letters", "list")[0].splitlines()
    assert len(lines) == 3
    assert re.fullmatch(
        rf"{letters[0].pk}  \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d  WAITING  "
        r"shop\.wrap\[task-0\]  retries: 0  OSError\('busy '\)",
        lines[0],
    )


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], [0, 1, 2]),
        (["--status", "any"], [0, 1, 2, 3]),
        (["--status", "discarded"], [3]),
        (["--task", "shop.wrap"], [0, 1, 2]),
        (["--task", NAME], [1, 2]),
        (["--task", "other"], []),
    ],
)
def test_letters_are_listed_as_json_without_secrets(call, letters, arguments, numbers):
    out = call("dead_letters", "list", "--json", *arguments)[0]
    assert [row["task_id"] for row in json.loads(out)] == [f"task-{n}" for n in numbers]
    assert "hunter2" not in out


def test_json_has_the_parameters_by_name(call, letters):
    row = json.loads(call("dead_letters", "list", "--json", "--task", NAME)[0])[0]
    assert row["parameters"] == {"box": 1, "token": entries.MASK}
    assert not {"args", "kwargs"} & set(row)


@pytest.mark.django_db(transaction=True)
def test_letters_are_requeued_by_number_and_by_task_id(broker, call, letters):
    out, err = call("dead_letters", "requeue", str(letters[1].pk), "task-2")
    ids = [message.task_id for message in waiting()][::-1]
    assert out == f"{letters[1].pk} requeued as {ids[0]}\ntask-2 requeued as {ids[1]}\n"
    assert (err, statuses()) == ("", ["WAITING", "REQUEUED", "REQUEUED", "DISCARDED"])


@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_requeued_is_named_and_the_rest_is(broker, call, letters, capsys):
    with pytest.raises(CommandError, match=r"^4 of 5 were not requeued$") as failed:
        call_command("dead_letters", "requeue", "task-0", "task-1", "task-3", "nobody", "99999999")
    assert failed.value.returncode == 1
    assert capsys.readouterr().err.splitlines() == [
        "task-0: No task of this name is known here.",
        "task-3: The dead letter was requeued or discarded already.",
        "nobody: there is no such dead letter",
        "99999999: there is no such dead letter",
    ]
    assert statuses() == ["WAITING", "REQUEUED", "WAITING", "DISCARDED"]


@pytest.mark.django_db(transaction=True)
def test_without_the_broker_requeued_tasks_are_promised(no_broker, call, letters):
    call("dead_letters", "requeue", "--task", NAME)
    assert statuses() == ["WAITING", "REQUEUED", "REQUEUED", "DISCARDED"]
    assert OutboxTask.objects.filter(published_at=None).count() == 2


@pytest.mark.django_db(transaction=True)
def test_all_of_a_task_are_requeued(broker, call, letters):
    call("dead_letters", "requeue", "--task", NAME)
    assert statuses() == ["WAITING", "REQUEUED", "REQUEUED", "DISCARDED"]
    assert call("dead_letters", "requeue", "--all", "--task", NAME) == ("", "")


def test_all_are_discarded_on_a_yes_in_advance(call, letters):
    call("dead_letters", "discard", "--all", "--yes")
    assert statuses() == ["DISCARDED"] * 4


@pytest.mark.parametrize(("answer", "status"), [("y", "DISCARDED"), (" Yes ", "DISCARDED")])
def test_discarding_asks(monkeypatch, call, letters, answer, status):
    monkeypatch.setattr("builtins.input", lambda question: answer)
    call("dead_letters", "discard", "task-1")
    assert statuses()[1] == status


@pytest.mark.parametrize("answer", ["", "n", "ja"])
def test_without_a_yes_nothing_is_discarded(monkeypatch, letters, answer):
    monkeypatch.setattr("builtins.input", lambda question: answer)
    with pytest.raises(CommandError, match="nothing was discarded") as failed:
        call_command("dead_letters", "discard", "--all")
    assert (failed.value.returncode, statuses()[1]) == (1, "WAITING")


@pytest.mark.django_db(transaction=True)
def test_with_nobody_to_ask_nothing_is_discarded(letters):
    refused = subprocess.run(
        [sys.executable, "manage.py", "dead_letters", "discard", "--all"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (refused.returncode, statuses()[1]) == (1, "WAITING")
    assert "nothing was discarded" in refused.stderr


@pytest.mark.parametrize("action", ["requeue", "discard"])
@pytest.mark.parametrize("arguments", [[], ["1", "--all"], ["1", "--task", "a"]])
def test_which_letters_must_be_clear(action, arguments):
    assert "name dead letters by their ids" in refusal("dead_letters", action, *arguments)


def test_an_action_must_be_named():
    with pytest.raises(CommandError, match="ACTION"):
        call_command("dead_letters")


# --- run_worker and run_beat ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--queues", "default,vip,slow"], "no queue is called vip, slow; there are default, "),
        (["--queues", " , "], "names no queue; there are default, high_priority, low_priority"),
        (["--concurrency", "0"], "--concurrency 0: a worker runs at least 1 task"),
    ],
)
def test_a_worker_of_the_wrong_kind_does_not_start(arguments, reason):
    assert reason in refusal("run_worker", *arguments)


@pytest.mark.worker
@pytest.mark.django_db(transaction=True)
def test_the_worker_takes_its_queues_and_stops_on_a_signal(broker, call, tmp_path):
    log = tmp_path / "worker.log"
    for queue in ("high_priority", "low_priority", "default"):
        app.send_task("promotions.tasks.cleanup_expired_promos", queue=queue)
    command = ["run_worker", "--queues", "low_priority,default", "--concurrency", "1"]
    options = ["--", "--hostname", "by-command@%h", "--max-tasks-per-child=5"]
    with running(str(Path("manage.py").resolve()), *command, *options, log=log) as worker:
        wait_until(lambda: b"by-command@" in log.read_bytes(), what="the worker's banner")
        wait_until(lambda: log.read_text().count(" succeeded in ") == 2, what="two tasks are done")
        assert len(waiting("high_priority")) == 1
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait(30) == 0
    assert "concurrency: 1 (prefork)" in log.read_text()
    assert "Warm shutdown" in log.read_text()


@pytest.mark.worker
@pytest.mark.django_db(transaction=True)
def test_a_task_s_result_is_waited_for(broker, call, tmp_path):
    log = tmp_path / "worker.log"
    imports = {"CELERY_IMPORTS": retrying_tasks.__name__}
    with running("manage.py", "run_worker", "--concurrency", "1", log=log, **imports):
        out, _ = call("run_task", RELEASE, "--wait")
        assert json.loads(out.splitlines()[1]) == {"released": 0}
        tries = json.dumps([str(tmp_path / "tries")])
        with pytest.raises(CommandError, match=r"failed: ConnectionError: no route") as failed:
            call("run_task", retrying_tasks.plain.name, "--args", tries, "--wait", "60")
        assert failed.value.returncode == 1


@pytest.mark.worker
@pytest.mark.django_db(transaction=True)
def test_beat_runs_from_anywhere(broker, tmp_path, monkeypatch):
    log, alive = tmp_path / "beat.log", tmp_path / "alive"
    manage = str(Path("manage.py").resolve())
    monkeypatch.chdir(tmp_path)
    with running(manage, "run_beat", "--loglevel=DEBUG", log=log, LIVENESS_FILE=str(alive)) as beat:
        wait_until(alive.exists, what="beat ticks")
        os.kill(beat.pid, signal.SIGTERM)
        beat.wait(30)
    assert "beat: Starting..." in log.read_text()
