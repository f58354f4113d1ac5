"""How many workers `scripts/autoscale` wants, and that it gets them."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded.folder import Folder
from deploy.ops.autoscale import Look, Rules, decide, look
from deploy.ops.embedded import Embedded
from tests.embedded import ROOT, Quickstart, running_embedded

TASKS = "tests.runbook_tasks"
pytestmark = pytest.mark.worker
RULES = Rules(minimum=1, maximum=8, wait=30, calm=300)


def queue(depth: int = 0, oldest: float = 0.0) -> dict[str, float]:
    return {"depth": depth, "oldest_seconds": oldest}


@pytest.mark.parametrize(
    ("workers", "wanted"), [(0, 1), (1, 2), (2, 3), (4, 6), (6, 8), (8, 8), (9, 8)]
)
def test_half_as_many_again_while_tasks_wait_too_long(workers: int, wanted: int) -> None:
    before, now = Look(100, 20, 0), Look(200, 31, 0)
    assert decide(now, before, workers, RULES) == wanted


def test_no_more_while_the_wait_gets_shorter() -> None:
    before, now = Look(200, 60, 0), Look(150, 50, 0)
    assert decide(now, before, 3, RULES) == 3


def test_no_more_for_many_tasks_that_do_not_wait_long() -> None:
    before, now = Look(1000, 5, 0), Look(5000, 10, 0)
    assert decide(now, before, 3, RULES) == 3


def test_one_less_after_a_time_without_a_waiting_task() -> None:
    assert decide(Look(0, 0, 299), Look(0, 0, 284), 3, RULES) == 3
    assert decide(Look(0, 0, 300), Look(0, 0, 285), 3, RULES) == 2
    assert decide(Look(0, 0, 900), Look(0, 0, 885), 1, RULES) == 1


def test_a_look_is_at_all_queues() -> None:
    state = {"queues": {"a": queue(3, 12.0), "b": queue(2, 40.0), "c": queue()}}
    assert look(state, calm=100) == Look(5, 40.0, 0.0)
    assert look({"queues": {"a": queue()}}, calm=100) == Look(0, 0.0, 100)


# --- Really --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quickstart]:
    folder = tmp_path_factory.mktemp("autoscale") / "embedded"
    with running_embedded(
        folder, f"CELERY_WORKER_CONCURRENCY=1\nCELERY_IMPORTS={TASKS}\n"
    ) as running:
        yield running


def test_workers_come_with_the_load_and_go_with_it(quickstart: Quickstart, tmp_path: Path) -> None:
    rules = ["--max", "2", "--wait", "1", "--calm", "2", "--every", "1"]
    command = [str(ROOT / "scripts" / "autoscale"), "--on", "embedded", *rules]
    environment = quickstart.shell(PYTHONUNBUFFERED="1")
    lasts = tmp_path / "lasts"
    lasts.touch()
    # What two workers run at once and take ahead, and more.
    publish = f"""
from tests.runbook_tasks import last
for _ in range(12):
    last.apply_async(({str(lasts)!r},), queue="default")
"""
    Embedded(Folder(quickstart.folder)).manage("shell", "-v", "0", "-c", publish)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            said = iter(process.stdout)
            assert next(line for line in said if "1 -> 2 workers" in line)
            assert next(line for line in said if "2 workers stay" in line)
            lasts.unlink()
            assert next(line for line in said if "2 -> 1 workers" in line)
            assert next(line for line in said if "1 workers stay" in line)
        finally:
            process.terminate()
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--max", "0"], "--min 1 --max 0: give 1 <= min <= max"),
        (["--max", "2", "--every", "0"], "--every 0: give at least 1 second"),
    ],
)
def test_wrong_numbers_are_refused(arguments: list[str], error: str) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "autoscale", *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, f"error: {error}\n")
