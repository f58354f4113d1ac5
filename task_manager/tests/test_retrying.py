"""How the base class retries, and what a task's own options change."""

from datetime import UTC, datetime
from typing import Any

import pytest
from celery.exceptions import Ignore, Retry

from marketplace.celery import app
from task_manager.clients.broker import broker as open_broker
from task_manager.retrying import RetryingTask


@pytest.fixture
def make_task():
    """A task of this module that raises `error`, and the list of its tries."""
    made: list[str] = []

    def make(error: Exception, **options):
        tries: list[int] = []

        @app.task(base=RetryingTask, bind=True, name=f"retrying.{len(made)}", **options)
        def task(self) -> None:
            tries.append(self.request.retries)
            raise error

        made.append(task.name)
        return task, tries

    yield make
    for name in made:
        app.tasks.pop(name)


def waits(task, retries: int) -> int:
    """Seconds until the retry that follows this one, as it was published."""
    task.push_request(id="a", retries=retries, called_directly=False, is_eager=False, args=[])
    try:
        with pytest.raises(Retry) as retry:
            task.run()
    finally:
        task.pop_request()
    with open_broker() as queues:
        (message,) = queues.waiting("default")
        queues.client.delete("default")
    wait: Any = retry.value.when
    assert message.headers["retries"] == retries + 1
    if wait:  # no wait is no ETA
        eta = datetime.fromisoformat(message.headers["eta"])
        assert wait - 5 < (eta - datetime.now(UTC)).total_seconds() <= wait
    return int(wait)


def test_it_is_tried_once_and_three_times_more(broker, make_task):
    task, tries = make_task(OSError("busy"))
    result = task.apply()
    assert tries == [0, 1, 2, 3]
    assert (result.status, repr(result.result)) == ("FAILURE", "OSError('busy')")


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_the_waits_double_and_are_drawn_by_lot(broker, make_task, retries):
    task, _ = make_task(OSError("busy"))
    drawn = {waits(task, retries) for _ in range(12)}
    assert all(0 <= wait <= 60 * 2**retries for wait in drawn)
    assert len(drawn) > 1


def test_the_waits_have_a_bound(broker, make_task):
    task, _ = make_task(OSError("busy"), max_retries=20, retry_jitter=False)
    assert [waits(task, retries) for retries in (0, 1, 2, 9)] == [60, 120, 240, 600]


def test_the_documents_own_pattern(broker, make_task):
    task, tries = make_task(
        OSError("busy"),
        autoretry_for=(Exception,),
        retry_kwargs={"max_retries": 2, "countdown": 45},
        retry_backoff=False,
    )
    assert [waits(task, retries) for retries in (0, 1)] == [45, 45]
    tries.clear()
    task.apply()
    assert tries == [0, 1, 2]


@pytest.mark.parametrize(
    ("error", "options", "count"),
    [
        (OSError("busy"), {"max_retries": 1}, 2),
        (OSError("busy"), {"autoretry_for": (ValueError,)}, 1),
        (ConnectionError("busy"), {"autoretry_for": (OSError,)}, 4),
        (ValueError("wrong"), {"dont_autoretry_for": (ValueError,)}, 1),
        (Ignore(), {}, 1),
    ],
)
def test_options_say_what_is_retried_and_how_often(broker, make_task, error, options, count):
    task, tries = make_task(error, **options)
    task.apply()
    assert len(tries) == count


def test_it_asks_for_a_dead_letter_unless_told_otherwise(make_task):
    assert make_task(OSError())[0].dead_letter is True
    assert make_task(OSError(), dead_letter=False)[0].dead_letter is False
