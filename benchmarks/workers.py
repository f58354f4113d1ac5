"""Workers with production's settings, and what they do with a load of tasks."""

import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks import servers
from benchmarks.rounds import progress
from benchmarks.tracking_variants import cpu_seconds

#: As docker-compose.prod.yml has them.
PRODUCTION = {
    "CELERY_TASK_ACKS_LATE": "1",
    "CELERY_TASK_REJECT_ON_WORKER_LOST": "1",
    "CELERY_WORKER_PREFETCH_MULTIPLIER": "1",
    "CELERY_WORKER_MAX_TASKS_PER_CHILD": "1000",
    "CELERY_WORKER_MAX_MEMORY_PER_CHILD": "200000",
    "CELERY_IMPORTS": "benchmarks.capacity_tasks",
    "PYTHONWARNINGS": "ignore",
}
#: Children of a worker, as docker-compose.yml has it.
CONCURRENCY = 4
TASK = "benchmarks.capacity_tasks.wait"
SECONDS = 600.0


@dataclass(frozen=True)
class Drain:
    """What a load that was there before the workers was done with."""

    #: Tasks a second, from the tenth part on.
    rate: float
    #: CPU seconds a task, by process: worker, Redis, Postgres.
    cpu: dict[str, float]


@contextmanager
def workers(running: servers.Processes, count: int) -> Iterator[list[servers.Process]]:
    """So many, each with a name of its own, stopped at the end."""
    with servers.processes(running.folder) as started:
        celery = (sys.executable, "-m", "celery", "-A", "marketplace", "worker")
        for number in range(count):
            name = f"worker-{number}"
            options = (f"--hostname={name}@%h", f"--concurrency={CONCURRENCY}")
            quiet = ("--loglevel=WARNING", "--without-mingle")
            environ = {**os.environ, **PRODUCTION}
            started.start(name, [*celery, *options, *quiet], environ)
        yield list(started)


def publish(count: int, seconds: float) -> float:
    """Publish so many tasks as fast as one process does; returns how many a second."""
    from celery import current_app

    start = time.perf_counter()
    for _ in range(count):
        current_app.send_task(TASK, [seconds], ignore_result=True)
    return count / (time.perf_counter() - start)


def publish_at_random(rate: float, seconds: float, task_seconds: float) -> int:
    """Publish so many a second, at moments that know nothing of each other; returns how many."""
    from celery import current_app

    moment = start = time.perf_counter()
    count = 0
    while (moment := moment + random.expovariate(rate)) < start + seconds:
        time.sleep(max(0.0, moment - time.perf_counter()))
        current_app.send_task(TASK, [task_seconds], ignore_result=True)
        count += 1
    return count


def drain(running: servers.Processes, count: int, number: int) -> Drain:
    """What `number` workers make of `count` tasks that wait for them already."""
    with workers(running, number) as started, closing(servers.connect()) as connection:
        processes = [*running, *started]
        trees = {process.name: psutil.Process(process.popen.pid) for process in processes}
        _wait_until(connection, started[0], count // 10)
        before, start, first = _cpu(trees), time.perf_counter(), done(connection)
        _wait_until(connection, started[0], count)
        seconds = time.perf_counter() - start
        after = _cpu(trees)
    rest = max(1, count - first)
    cpu = {name: (after[name] - before[name]) / rest for name in after}
    progress(f"{number} workers: {rest / seconds:.0f} tasks/s")
    return Drain(rest / seconds, cpu)


def done(connection: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM task_manager_taskexecution "
            "WHERE celery_name = %s AND status = 'SUCCESS'",
            [TASK],
        )
        return int(cursor.fetchone()[0])


def forget() -> None:
    """The history, before the next load."""
    servers.execute("TRUNCATE task_manager_taskexecution")


def _wait_until(connection: Any, process: servers.Process, count: int) -> None:
    what = f"{count} tasks are done"
    process.wait_until(lambda: done(connection) >= count, what, seconds=SECONDS)


def _cpu(trees: dict[str, Any]) -> dict[str, float]:
    """CPU seconds so far, of all workers together and of each server, with their children."""
    spent: dict[str, float] = {}
    for name, process in trees.items():
        kind = "worker" if name.startswith("worker") else name
        spent[kind] = spent.get(kind, 0.0) + sum(cpu_seconds(process))
    return spent


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
