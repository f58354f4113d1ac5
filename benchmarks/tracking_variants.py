"""(a) to (e): workers that drain the same no-op tasks, each with its own way to keep a history.

Each variant has a worker, a publisher, a Redis database and a PostgreSQL database of its own.
They live throughout and take turns by slices of a round, so that what slows the machine for a
minute slows them all. A slice is published while the worker may not have it, then drained.
"""

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil  # type: ignore[import-untyped]
import redis
from django.db import connections

from benchmarks import data, servers, table
from benchmarks.rounds import interleave, progress
from deploy.embedded.servers import free_port

TASKS = 10_000
SLICES = 10
CONCURRENCY = 2
#: From when this share of a slice is drained, the worker is at its pace.
RUN_UP = 0.05
#: Seconds between publication and drain, for what the publisher and its readers do later.
SETTLE = 0.5
#: Bounds a worker's start, a slice, and the time until its history is complete.
SECONDS = 300.0

#: What TRACKING says, and what the tables say.
VARIANTS = {
    "a": ("results", "Redis result backend, no tracking"),
    "p": ("plain", "Celery as installed: neither leases nor limits nor masking, no tracking"),
    "b": ("task-manager", "`task_manager`'s tracking on top"),
    "c": ("django-celery-results", "`django-celery-results` as installed, `task_track_started`"),
    "k": ("django-celery-results", "the same, its connection to PostgreSQL kept"),
    "d": ("orm", "one ORM write a transition"),
    "e": ("events", "events on, Flower listening"),
}
PROCESSES = ("publisher", "worker", "its children", "Redis", "Postgres", "Flower")


def run(options: argparse.Namespace, running: servers.Processes) -> list[str]:
    """The paragraphs and tables of throughput and of CPU time."""
    letters = [letter for letter in VARIANTS if letter == "a" or letter in options.only]
    tasks = data.scaled(TASKS, options.scale, 100)
    slices = min(SLICES, max(2, tasks // 100))
    with _variants(letters, running) as variants:
        sides = {letter: partial(variants[letter].slice, tasks // slices) for letter in letters}
        progress("a slice of each to warm up")
        for side in sides.values():
            side()
        rounds: dict[str, list[Round]] = {letter: [] for letter in letters}
        for number in range(options.rounds):
            title = f"round {number + 1} of {options.rounds}"
            for letter, measured in interleave(title, slices, sides, turn="slice").items():
                rounds[letter].append(Round(measured))
    return list(_report(rounds))


# --- What is measured ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Slice:
    tasks: int
    publishing: float  # seconds in `delay()`
    drained: int  # tasks after the run-up
    draining: float  # seconds for these
    completing: float  # seconds from the last task until the history was complete
    cpu: Mapping[str, float]  # seconds by process, from the first `delay()` until then

    def __str__(self) -> str:
        return f"{self.drained / self.draining:.0f} /s"


class Round:
    """What the slices of a round make together."""

    def __init__(self, slices: Sequence[Slice]) -> None:
        self.tasks = sum(one.tasks for one in slices)
        self.rate = sum(one.drained for one in slices) / sum(one.draining for one in slices)
        self.delay = sum(one.publishing for one in slices) / self.tasks
        self.completing = [one.completing for one in slices]
        seconds: Counter[str] = Counter()
        for one in slices:
            seconds.update(one.cpu)
        self.cpu = {name: seconds[name] / self.tasks for name in PROCESSES}


def _report(rounds: Mapping[str, list[Round]]) -> Iterator[str]:
    tasks = rounds["a"][0].tasks
    yield (
        f"(a) is Celery with the {VARIANTS['a'][1]}. A round is {tasks:,} no-op tasks for each "
        f"variant, prefork {CONCURRENCY}, in slices that take turns; the workers of the others, "
        "and Flower, are idle meanwhile."
    )
    if len(rounds) > 1:
        yield table.ratios(_rows(rounds))
    if "b" in rounds:
        completing = [seconds for one in rounds["b"] for seconds in one.completing]
        yield (
            f"(b) had one row for each of {sum(one.tasks for one in rounds['b']):,} tasks, all of "
            f"them SUCCESS {median(completing):.2f} s after a slice's last acknowledgement "
            f"(median; at most {max(completing):.2f} s)."
        )
    yield "CPU µs a task, from its publication until the history is complete:"
    yield _cpu_table(rounds)


def _rows(rounds: Mapping[str, list[Round]]) -> Iterator[table.Row]:
    rates = {letter: [one.rate for one in values] for letter, values in rounds.items()}
    delays = {letter: [one.delay * 1e6 for one in values] for letter, values in rounds.items()}
    others = [letter for letter in rounds if letter != "a"]
    for letter in others:
        case = f"({letter}) {VARIANTS[letter][1]}: drain / (a)"
        aim = "at least 0.95" if letter == "b" else ""
        yield table.Row(case, rates[letter], rates["a"], "/s", aim)
    for letter, aim in {"p": "", "c": "at least 3", "k": ""}.items():
        if {"b", letter} <= rounds.keys():
            yield table.Row(f"drain of (b) / ({letter})", rates["b"], rates[letter], "/s", aim)
    for letter in others:
        case = f"({letter}) a `delay()` / (a)"
        aim = "at most 1.1" if letter == "b" else ""
        yield table.Row(case, delays[letter], delays["a"], "µs", aim)
    if {"b", "p"} <= rounds.keys():
        yield table.Row("a `delay()` of (b) / (p)", delays["b"], delays["p"], "µs", "")


def _cpu_table(rounds: Mapping[str, list[Round]]) -> str:
    figures = {
        letter: [1e6 * median(one.cpu[name] for one in values) for name in PROCESSES]
        for letter, values in rounds.items()
    }
    more = {letter: sum(values) - sum(figures["a"]) for letter, values in figures.items()}
    return table.markdown(
        ["variant", *PROCESSES, "sum", "more than (a)"],
        [
            [
                f"({letter}) {VARIANTS[letter][1]}",
                *(f"{figure:,.0f}" for figure in [*values, sum(values)]),
                f"{more[letter]:+,.0f}" if letter != "a" else "",
            ]
            for letter, values in figures.items()
        ],
        texts={"variant"},
    )


# --- One variant ---------------------------------------------------------------------------------
#: Begins to count; what it returns says how many successes the history got since.
History = Callable[[], Callable[[], int]]


@dataclass(frozen=True)
class Variant:
    worker: servers.Process
    publisher: servers.Process
    redis: "redis.Redis"
    history: History | None
    trees: Mapping[str, psutil.Process]

    def slice(self, tasks: int) -> Slice:
        self._forget_results()
        succeeded = self.history() if self.history else lambda: tasks
        before = self._cpu()
        publishing = float(self.publisher.ask(f"publish {tasks}"))
        time.sleep(SETTLE)
        self.publisher.ask("consume")
        self._drain_to(int(tasks * (1 - RUN_UP)), pause=0.002)
        left, start = self._left(), time.perf_counter()
        self._drain_to(0, pause=0.01)
        end = time.perf_counter()
        what = f"the history has {tasks} successes"
        self.worker.wait_until(lambda: succeeded() == tasks, what, seconds=SECONDS)
        completing = time.perf_counter() - end
        after = self._cpu()
        self.publisher.ask("pause")
        cpu = {name: after[name] - before[name] for name in after}
        return Slice(tasks, publishing, left, end - start, completing, cpu)

    def _forget_results(self) -> None:
        if keys := list(self.redis.scan_iter("celery-task-meta-*", count=5000)):
            self.redis.unlink(*keys)

    def _left(self) -> int:
        with self.redis.pipeline() as pipe:
            pipe.llen("bench")
            pipe.hlen("unacked")
            return sum(pipe.execute())

    def _drain_to(self, left: int, *, pause: float) -> None:
        self.worker.wait_until(
            lambda: self._left() <= left, "it drains the queue", seconds=SECONDS, pause=pause
        )

    def _cpu(self) -> dict[str, float]:
        spent: dict[str, float] = {}
        for name, process in self.trees.items():
            own, children = cpu_seconds(process)
            if name == "worker":
                spent |= {name: own, "its children": children}
            else:
                spent[name] = own + children
        return spent


def cpu_seconds(process: psutil.Process) -> tuple[float, float]:
    """Of the process itself, and of its children, with those that ended."""
    times = process.cpu_times()
    children = times.children_user + times.children_system
    for child in process.children():
        with suppress(psutil.NoSuchProcess):
            children += sum(cpu_seconds(child))
    return times.user + times.system, children


def _rows_since(connection: Any) -> Callable[[], int]:
    """(b)'s history: the tasks that became rows since now, once each of them is a SUCCESS."""
    began = time.time()

    def count() -> int:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*), count(*) FILTER (WHERE status = 'SUCCESS') "
                "FROM task_manager_taskexecution WHERE created_at >= to_timestamp(%s)",
                [began],
            )
            rows, succeeded = cursor.fetchone()
        return int(rows if rows == succeeded else 0)

    return count


@dataclass(frozen=True)
class Flower:
    """(e)'s history: what Flower hears of."""

    process: servers.Process
    address: str

    def heard_since(self) -> Callable[[], int]:
        # It knows of a worker by its heartbeats, which are events too.
        online = partial(self._sum, "flower_worker_online{")
        self.process.wait_until(online, "it hears the worker", seconds=SECONDS)
        before = self._successes()
        return lambda: self._successes() - before

    def _successes(self) -> int:
        return self._sum("flower_events_total{", 'type="task-succeeded"')

    def _sum(self, metric: str, label: str = "") -> int:
        self.process.check()
        try:
            with urlopen(f"{self.address}/metrics", timeout=30) as answer:  # noqa: S310
                lines = answer.read().decode().splitlines()
        except URLError:  # not up yet
            return 0
        found = (line for line in lines if line.startswith(metric) and label in line)
        return int(sum(float(line.split()[-1]) for line in found))


# --- All of them ---------------------------------------------------------------------------------
@contextmanager
def _variants(letters: Sequence[str], running: servers.Processes) -> Iterator[dict[str, Variant]]:
    """Workers, publishers and Flower, ready; stopped at the end."""
    progress(f"starting a worker and a publisher for each of {', '.join(letters)}")
    connections.close_all()  # nobody may be connected to a database that is copied
    for letter in letters:
        _database_make(letter)
    with servers.processes(running.folder) as started, ExitStack() as stack:
        variants = {letter: _start(letter, started, running, stack) for letter in letters}
        for variant in variants.values():
            variant.worker.wait_until(
                lambda: variant.publisher.ask("workers") == "1",  # noqa: B023 - called at once
                "it answers a ping",
                seconds=SECONDS,
            )
        yield variants


def _database(letter: str) -> str:
    return f"bench_{letter}"


def _environment(letter: str) -> dict[str, str]:
    # Without this number, as Celery comes, a task has a new connection.
    closed = {"CELERY_DB_REUSE_MAX": "0"} if letter == "c" else {}
    return {
        **os.environ,
        **closed,
        "DJANGO_SETTINGS_MODULE": "benchmarks.tracking_settings",
        "TRACKING": VARIANTS[letter][0],
        "POSTGRES_DB": _database(letter),
        "REDIS_DATABASE": str(list(VARIANTS).index(letter) + 1),
        "PYTHONWARNINGS": "ignore",
    }


def _database_make(letter: str) -> None:
    servers.execute(f"CREATE DATABASE {_database(letter)} TEMPLATE {os.environ['POSTGRES_DB']}")
    if VARIANTS[letter][0] == "django-celery-results":
        migrate = [sys.executable, "manage.py", "migrate", "--verbosity=0"]
        subprocess.run(migrate, env=_environment(letter), check=True)


def _start(
    letter: str, started: servers.Processes, running: servers.Processes, stack: ExitStack
) -> Variant:
    environ = _environment(letter)
    app = "benchmarks.tracking_plain" if letter == "p" else "marketplace"
    celery = [sys.executable, "-m", "celery", "-A", app]
    options = [f"--concurrency={CONCURRENCY}", "--queues=idle", "--loglevel=WARNING"]
    publish = [sys.executable, "-m", "benchmarks.tracking_publisher", app]
    processes = {server.name: server for server in running} | {
        "worker": started.start(f"worker-{letter}", [*celery, "worker", *options], environ),
        "publisher": started.start(f"publisher-{letter}", publish, environ, talks=True),
    }
    history: History | None = None
    if letter == "b":
        connection = stack.enter_context(closing(servers.connect(database=_database(letter))))
        history = partial(_rows_since, connection)
    elif letter == "e":
        port = free_port()
        flower = [*celery, "flower", "--address=127.0.0.1", f"--port={port}", "--logging=warning"]
        processes["Flower"] = started.start("flower", flower, environ)
        history = Flower(processes["Flower"], f"http://127.0.0.1:{port}").heard_since
    return Variant(
        worker=processes["worker"],
        publisher=processes["publisher"],
        redis=redis.Redis(
            host=os.environ["REDIS_HOST"],
            port=int(os.environ["REDIS_PORT"]),
            username="operator",
            password=os.environ["REDIS_PASSWORD"],
            db=int(environ["REDIS_DATABASE"]),
        ),
        history=history,
        trees={name: psutil.Process(process.popen.pid) for name, process in processes.items()},
    )
