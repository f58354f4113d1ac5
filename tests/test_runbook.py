"""The runbook's first commands on a real deployment of the embedded way."""

import json
import re
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.states import READY_STATES

from deploy.embedded.folder import Folder
from deploy.embedded.supervisor import call
from tests.embedded import ROOT, Quickstart, running_embedded
from tests.processes import wait_until

pytestmark = pytest.mark.worker

TASKS = "tests.runbook_tasks"
#: As in production: a worker takes no more than it runs.
ENVIRONMENT = f"""\
CELERY_IMPORTS={TASKS}
CELERY_TASK_ACKS_LATE=1
CELERY_WORKER_PREFETCH_MULTIPLIER=1
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    folder = tmp_path_factory.mktemp("runbook") / "embedded"
    with running_embedded(folder, env=ENVIRONMENT) as quickstart:
        yield quickstart


def status(system: Quickstart) -> dict[str, Any]:
    told = system.ops("status", "--json")
    assert told.returncode in (0, 1), told.stderr
    read: dict[str, Any] = json.loads(told.stdout)
    assert read["healthy"] == (told.returncode == 0)
    return read


def until(system: Quickstart, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The first status of which the condition holds."""
    seen: list[dict[str, Any]] = []

    def holds() -> bool:
        seen[:] = [status(system)]
        return bool(condition(seen[0]))

    try:
        wait_until(holds, seconds=90)
    except AssertionError:
        raise AssertionError(json.dumps(seen[0], indent=1)) from None
    return seen[0]


def whats(told: dict[str, Any]) -> list[str]:
    return [problem["what"] for problem in told["problems"]]


@dataclass(frozen=True)
class Task:
    """By its id alone: a result of Celery's own speaks to Redis when it is forgotten, which may be
    in another test and after Redis has gone."""

    app: Celery
    id: str

    @property
    def state(self) -> str:
        return str(self.app.backend.get_state(self.id))

    def result(self) -> object:
        wait_until(lambda: self.state in READY_STATES, seconds=60)
        return self.app.backend.get_result(self.id)


@pytest.fixture(scope="module")
def publish(system: Quickstart) -> Iterator[Callable[..., Task]]:
    """Publishes a task of tests/runbook_tasks.py."""
    port, password = system.ports["EMBEDDED_REDIS_PORT"], system.values["REDIS_PASSWORD"]
    url = f"redis://marketplace:{password}@127.0.0.1:{port}/0"
    with Celery(broker=url, backend=url, set_as_current=False) as app:
        app.conf.task_default_queue = "default"
        yield lambda name, *arguments: Task(app, app.send_task(f"{TASKS}.{name}", arguments).id)


@pytest.fixture
def lasting(publish, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """`lasting(number)` are tasks that run until `lasting.end` is called, or the test's end."""
    file = tmp_path / "lasts"
    file.touch()

    def make(number: int = 1) -> list[Task]:
        tasks = [publish("last", str(file)) for _ in range(number)]
        wait_until(lambda: {task.state for task in tasks} == {"STARTED"}, seconds=60)
        return tasks

    make.end = lambda: file.unlink(missing_ok=True)  # type: ignore[attr-defined]
    yield make
    file.unlink(missing_ok=True)


def supervise(system: Quickstart, method: str, program: str) -> None:
    call(Folder(system.folder).socket, method, program)


@contextmanager
def started(system: Quickstart, name: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A command of the runbook in the background, which SIGINT reaches as Ctrl-C does."""
    with subprocess.Popen(
        [ROOT / "scripts" / name, *arguments],
        env=system.shell(FLASH_PROMOS_ON="embedded"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        # Whoever reads on for what does not come is not kept for ever.
        end = threading.Timer(180, process.kill)
        end.start()
        try:
            yield process
        finally:
            end.cancel()
            process.kill()


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    """What it prints up to the line with this text."""
    assert process.stdout
    read = ""
    for line in process.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"{text!r} is not in: {read}")


# --- status --------------------------------------------------------------------------------------
def test_a_sound_system_is_all_well(system: Quickstart):
    for name, manifest in (("20260101T000000Z", "{}"), ("20260102T000000Z", "unfinish")):
        (system.folder / "backups" / name).mkdir(parents=True)
        (system.folder / "backups" / name / "manifest.json").write_text(manifest)
    told = until(system, lambda told: told["healthy"])
    assert told["backup_at"] == "2026-01-01T00:00:00+00:00"
    assert told["notes"] == []
    states = {service["name"]: service["state"] for service in told["services"]}
    programs = ("postgres", "redis", "aws", "sandbox", "web", "worker", "beat", "flower")
    assert states == dict.fromkeys(programs, "running")
    (node,) = told["state"]["workers"]
    assert all(queue["workers"] == [node] for queue in told["state"]["queues"].values())
    shown = system.ops("status")
    assert shown.returncode == 0
    assert "\033" not in shown.stdout
    for line in (
        r"worker +worker +running +\S+ +\d+ s|min",
        r"high_priority +0 +50000 +- +" + re.escape(node),
        r"check-queues-every-minute +60 s +\d+ s ago",
        r"Dead letters +0 wait",
        r"Last backup +\d+ d \d+ h ago",
        r"All is well\.",
    ):
        assert re.search(rf"^{line}", shown.stdout, re.MULTILINE), shown.stdout


def test_watching_goes_on_until_ctrl_c(system: Quickstart):
    with started(system, "status", "--watch", "1", "--json") as watch:
        assert watch.stdout
        for _ in range(2):
            assert json.loads(watch.stdout.readline())["healthy"]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(30) == 0


def test_a_dead_letter_is_a_problem_and_its_task_is_found_in_the_logs(system: Quickstart, publish):
    task_id = publish("refuse").id
    told = until(system, lambda told: told["state"].get("dead_letters_waiting"))
    what = "1 dead letter waits to be requeued or discarded"
    assert told["problems"] == [{"what": what, "help": "scripts/dead-letters list"}]
    shown = system.ops("logs", "--task", task_id)
    assert "received" in shown.stdout
    assert "ValueError: no such box" in shown.stdout
    heads = [line for line in shown.stdout.splitlines() if re.match(r"\S+ +\| \[", line)]
    assert heads
    assert all(task_id in line for line in heads)
    discard = ("python", "manage.py", "dead_letters", "discard", "--all", "--yes")
    assert system.run("run", *discard).returncode == 0


# --- logs ----------------------------------------------------------------------------------------
def test_logs_are_interleaved_by_time(system: Quickstart):
    shown = system.ops("logs", "--lines", "30").stdout.splitlines()
    assert {line.partition("|")[0].strip() for line in shown} >= {"web", "worker", "beat", "redis"}
    beat_and_worker = [line for line in shown if re.match(r"beat|worker", line)]
    times = re.findall(r"\| \[(\S+ \S+?):", "\n".join(beat_and_worker))
    assert len(times) > 20
    assert times == sorted(times)


def test_a_task_that_no_log_names_is_an_error(system: Quickstart):
    missing = system.ops("logs", "--task", "no-such-task")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr == "error: no line names the task no-such-task\n"


def test_following_shows_what_comes(system: Quickstart, publish):
    with started(system, "logs", "worker", "--follow", "--lines", "0") as logs:
        read_until(logs, "check_active_promos")  # it follows from here on
        publish("last", "/nowhere")
        assert f"Task {TASKS}.last[" in read_until(logs, f"{TASKS}.last")


def test_since_leaves_out_what_was_before(system: Quickstart):
    assert system.ops("logs", "worker", "--since", "1d").stdout.count("ready.") == 1
    assert "ready." not in system.ops("logs", "worker", "--since", "1s").stdout


# --- scale and drain -----------------------------------------------------------------------------
def test_a_second_worker_takes_tasks_and_survives_a_restart(system: Quickstart):
    scaled = system.ops("scale", "worker", "2")
    assert scaled.returncode == 0, scaled.stderr
    assert scaled.stdout.endswith("before: 1 (worker)\nafter:  2 (worker, worker-2)\n")
    assert all(len(q["workers"]) == 2 for q in status(system)["state"]["queues"].values())
    assert system.run("stop").returncode == 0
    stopped = status(system)
    assert {"PostgreSQL", "Redis"} <= {what.split(" ")[0] for what in whats(stopped)}
    assert "worker is stopped" in whats(stopped)
    assert system.run().returncode == 0
    until(system, lambda told: len(told["state"].get("workers", ())) == 2)


def test_a_drained_worker_ends_its_tasks_and_stops(system: Quickstart, lasting):
    tasks = lasting(4)  # two in each worker
    with started(system, "drain", "worker-2") as drain:
        shown = read_until(drain, "2 tasks run: tests.runbook_tasks.last ")
        assert "takes no more tasks" in shown
        lasting.end()
        shown = read_until(drain, "drained: worker-2. Back with: scripts/scale worker N")
        assert "no task runs" in shown
        assert drain.wait(30) == 0
    assert {task.result() for task in tasks} == {"lasted"}
    told = status(system)
    assert told["problems"][0]["what"] == "worker-2 is stopped"
    assert told["problems"][0]["help"].startswith("scripts/scale worker 2")


def test_an_interrupted_drain_takes_it_back(system: Quickstart, lasting, publish):
    (task,) = lasting()
    with started(system, "drain", "worker", "--yes") as drain:
        # Beside it, maybe, a periodic one.
        read_until(drain, "tests.runbook_tasks.last ")
        drain.send_signal(signal.SIGINT)
        read_until(drain, "worker takes tasks again")
        assert drain.wait(60) == 130
    assert publish("last", "/nowhere").result() == "lasted"
    assert task.state == "STARTED"


def test_a_drain_that_takes_too_long_takes_it_back(system: Quickstart, lasting):
    lasting()
    late = system.ops("drain", "worker", "--yes", "--stop-timeout", "0")
    assert late.returncode == 1
    assert "worker takes tasks again" in late.stderr
    # Beside it, maybe, a periodic one.
    running = r"\d tasks? runs?: .*tests\.runbook_tasks\.last \d+ s"
    assert re.search(rf"error: after 0 s {running}.*: nothing was stopped", late.stderr)
    assert all(queue["workers"] for queue in status(system)["state"]["queues"].values())


def test_the_last_worker_is_not_drained_unasked(system: Quickstart):
    refused = system.ops("drain", "--all", text="n\n")
    assert refused.returncode == 1
    assert "No other worker takes from default, high_priority, low_priority" in refused.stdout
    assert "nothing was changed" in refused.stderr


def test_without_a_worker_the_queues_are_a_problem(system: Quickstart):
    assert system.ops("drain", "--all", "--yes").returncode == 0
    told = until(system, lambda told: not told["state"]["workers"])
    assert "worker is stopped" in whats(told)
    assert "no worker takes from the queues default, high_priority, low_priority" in whats(told)
    assert system.ops("drain", "--all").returncode == 3
    scaled = system.ops("scale", "worker", "1")
    assert scaled.returncode == 0, scaled.stderr
    assert "before: 0 (none)\nafter:  1 (worker)" in scaled.stdout
    assert not list((system.folder / "workers").iterdir())
    until(system, lambda told: told["healthy"])


# --- What is down --------------------------------------------------------------------------------
def test_without_postgresql_the_rest_is_shown(system: Quickstart):
    supervise(system, "stopProcess", "postgres")
    try:
        began = time.monotonic()
        told = status(system)
        assert time.monotonic() - began < 60
        assert whats(told)[0] == "postgres is stopped"
        assert any(
            what.startswith("PostgreSQL does not answer: Operational") for what in whats(told)
        )
        assert told["state"]["queues"].keys() == {"default", "high_priority", "low_priority"}
        assert "dead_letters_waiting" not in told["state"]
        assert "QUEUE" in system.ops("status").stdout
    finally:
        supervise(system, "startProcess", "postgres")
    until(system, lambda told: told["healthy"])


def test_without_redis_a_worker_is_neither_scaled_nor_drained(system: Quickstart):
    supervise(system, "stopProcess", "redis")
    try:
        assert "Redis does not answer" in system.ops("status").stdout
        refused = system.ops("scale", "worker", "2")
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: workers could not take tasks, nothing was changed")
        assert system.ops("drain", "worker").returncode == 1
    finally:
        supervise(system, "startProcess", "redis")
    until(system, lambda told: told["healthy"])


# --- Wrong calls and completion ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "pieces"),
    [
        (("scale", "worker", "65"), "65 workers: give a number from 0 to 64"),
        (("scale", "web", "2"), "invalid choice: 'web'"),
        (("scale", "worker", "0", "--yes"), "the first worker of supervisor's stays"),
        (("drain",), "name a worker as scripts/status shows it, or give --all"),
        (("drain", "worker-9"), "no worker is called worker-9; there are worker"),
        (("logs", "nonsense"), "no service is called nonsense; there are "),
        (("logs", "--since", "yesterday"), "--since yesterday: give 90s, 15m, 2h or 1d"),
        (("status", "--watch", "0"), "--watch 0: give 1 to 3600 seconds"),
        (("status", "--on", "nowhere"), "argument --on: invalid choice: 'nowhere'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_call_says_what_is_right(system: Quickstart, command: tuple[str, ...], pieces: str):
    refused = system.ops(*command)
    assert refused.returncode in (1, 2)
    assert pieces in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("scripts/status --", {"--json", "--watch", "--on", "--help"}),
        ("scripts/status --on ", {"compose", "systemd", "supervisor", "embedded"}),
        ("scripts/logs w", {"web", "worker"}),
        ("scripts/logs worker --f", {"--follow"}),
        (
            "/srv/flash-promos/scripts/scale ",
            {"worker", "-h", "--help", "--on", "--timeout", "--yes"},
        ),
        ("scripts/drain --stop", {"--stop-timeout"}),
        ("flash-promos stat", {"status"}),  # as install-host puts it on the PATH
        ("flash-promos scale w", {"worker"}),
        ("scripts/completion ", {"bash", "zsh", "-h", "--help"}),
        ("status --", set()),  # another program of this name
    ],
)
def test_bash_completes(typed: str, completed: set[str]):
    *words, current = typed.split(" ")
    code = f"""
source <(scripts/completion bash)
[[ $(complete -p {shlex.quote(words[0].rpartition("/")[2])}) == *'-F _flash_promos'* ]] || exit 1
COMP_WORDS=({shlex.join([*words, current])}) COMP_CWORD={len(words)}
_flash_promos
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == completed
