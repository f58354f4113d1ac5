"""Telemetry's sync and merge against bare PostgreSQL, as ratios, and the worker's memory.

Starts servers and a worker of its own and a stand-in for PanAccess that costs next to nothing,
lets task and baseline take turns, prints a Markdown table and removes everything. Nothing passes
or fails by a time.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import command, servers, table
from benchmarks.rounds import interleave, progress, seconds
from benchmarks.servers import calm, connect, execute

CASES = {"a": "ingest", "b": "merge"}
RECORDS = 1_000_000
#: Of six records five are views: as many views are merged as records are ingested.
VIEWS_SHARE = 5 / 6
TASK_SECONDS = 600.0

_RECORDS = "telemetry_telemetryrecordentry"
_MERGED = "telemetry_mergedtelemetricott"


def main() -> None:
    options = command.parser("telemetry", __doc__ or "", CASES).parse_args()
    command.run(options, partial(_report, options), aws_endpoint="")


def _report(options: argparse.Namespace, running: servers.Processes) -> Iterator[str]:
    records = max(2_000, round(RECORDS * options.scale))
    rows: list[table.Row] = []
    peaks: dict[str, int] = {}
    for case in options.only:
        count = records if case == "a" else round(records / VIEWS_SHARE)
        measure = _ingest if case == "a" else _merge
        with _worker(running, count) as worker:
            rows.append(measure(options, worker, count))
            peaks[CASES[case]] = worker.peak()
    yield f"{command.about(options)}."
    yield table.ratios(rows)
    told = " and ".join(f"{peak:,} MB with the {name}" for name, peak in peaks.items())
    yield f"The most memory that the worker's child had: {told}; it began with {worker.first} MB."


# --- The worker ----------------------------------------------------------------------------------
class Worker:
    """A Celery worker with one child, as production has them."""

    def __init__(self, process: servers.Process) -> None:
        self.process = process
        self.first = 0

    def run(self, task: str, *arguments: Any) -> dict[str, Any]:
        from celery import current_app

        self.process.check()
        result = current_app.send_task(f"telemetry.tasks.{task}", arguments)
        answer: dict[str, Any] = result.get(timeout=TASK_SECONDS)
        return answer

    def peak(self) -> int:
        """Megabytes, the most that a child of its pool ever had."""
        import psutil  # type: ignore[import-untyped]

        children = psutil.Process(self.process.popen.pid).children()
        told = (Path(f"/proc/{child.pid}/status").read_text() for child in children)
        found = [re.search(r"VmHWM:\s+(\d+) kB", text) for text in told]
        return max(int(match[1]) for match in found if match) // 1024


@contextmanager
def _worker(running: servers.Processes, count: int) -> Iterator[Worker]:
    with servers.processes(running.folder) as started:
        progress(f"making {count:,} records")
        source = started.start(
            "source",
            [sys.executable, "-m", "benchmarks.telemetry_source", str(running.folder), str(count)],
            talks=True,
        )
        port = source.ask("")
        environ = {
            **os.environ,
            "PANACCESS_URL": f"http://127.0.0.1:{port}/",
            "PANACCESS_USERNAME": "bench",
            "PANACCESS_PASSWORD": "bench-bench-bench",
            "CELERY_TASK_ACKS_LATE": "1",
            "CELERY_WORKER_PREFETCH_MULTIPLIER": "1",
            "PYTHONWARNINGS": "ignore",
        }
        celery = [sys.executable, "-m", "celery", "-A", "marketplace", "worker"]
        process = started.start("worker", [*celery, "--concurrency=1"], environ)
        worker = Worker(process)
        worker.run("merge_ott_task")
        worker.first = worker.peak()
        yield worker


# --- (a) Ingest ----------------------------------------------------------------------------------
def _ingest(options: argparse.Namespace, worker: Worker, count: int) -> table.Row:
    file = worker.process.log.with_name("records.copy")
    measured = interleave(
        "(a) ingest",
        options.rounds,
        {"sync": partial(_sync, worker, count, file), "COPY": partial(_copy, count, file)},
    )
    return table.Row(
        f"(a) ingest: `sync_telemetry_task`, {count:,} records in pages of 1,000 / bare COPY of "
        "the same rows into the same table",
        measured["sync"],
        measured["COPY"],
        "/s",
        "at least 0.4",
    )


def _sync(worker: Worker, count: int, file: Path) -> float:
    execute(f"TRUNCATE {_RECORDS}, telemetry_syncstate")
    calm(_RECORDS)
    results: list[dict[str, Any]] = []
    duration = seconds(lambda: results.append(worker.run("sync_telemetry_task")))
    if (results[0].get("inserted"), results[0].get("is_complete")) != (count, True):
        raise servers.Failed(f"the sync did {results[0]}, and there are {count} records")
    if not file.exists():
        _with_file(file, "wb", f"COPY {_RECORDS} TO STDOUT")
    return count / duration


def _copy(count: int, file: Path) -> float:
    execute(f"TRUNCATE {_RECORDS}")
    calm(_RECORDS)
    return count / seconds(lambda: _with_file(file, "rb", f"COPY {_RECORDS} FROM STDIN"))


def _with_file(file: Path, mode: str, statement: str) -> None:
    connection = connect()
    with connection.cursor() as cursor, file.open(mode) as opened:
        cursor.copy_expert(statement, opened, 1_000_000)
    connection.close()


# --- (b) Merge -----------------------------------------------------------------------------------
def _merge(options: argparse.Namespace, worker: Worker, count: int) -> table.Row:
    progress("(b) syncing what is merged")
    execute(f"TRUNCATE {_RECORDS}, telemetry_syncstate")
    worker.run("sync_telemetry_task")
    calm(_RECORDS)
    views = _count(f"{_RECORDS} WHERE action_id = 8")
    measured = interleave(
        "(b) merge",
        options.rounds,
        {"merge": partial(_merge_task, worker, views), "join": partial(_join, views)},
    )
    return table.Row(
        f"(b) merge: `merge_ott_task`, {views:,} views among {count:,} records / one bare INSERT "
        "of the SQL join into the same table",
        measured["merge"],
        measured["join"],
        "/s",
        "at least 0.8",
    )


def _merge_task(worker: Worker, views: int) -> float:
    _forget_merged()
    results: list[dict[str, Any]] = []
    duration = seconds(lambda: results.append(worker.run("merge_ott_task")))
    if (results[0].get("merged"), results[0].get("is_complete")) != (views, True):
        raise servers.Failed(f"the merge did {results[0]}, and there are {views} views")
    return views / duration


def _join(views: int) -> float:
    _forget_merged()
    duration = seconds(lambda: execute(_bare_join()))
    if _count(_MERGED) != views:
        raise servers.Failed(f"the join found {_count(_MERGED)} views of {views}")
    return views / duration


def _bare_join() -> str:
    from telemetry.models import MergedTelemetricOTT
    from telemetry.services.windows import name_of

    fields = MergedTelemetricOTT._meta.concrete_fields
    columns = [field.name for field in fields if field.name != "data_name"]
    listed = ", ".join(columns)
    return (
        f"INSERT INTO {_MERGED} ({listed}, data_name) "
        f"SELECT {listed}, {name_of('view')} FROM {_RECORDS} view WHERE action_id = 8"
    )


def _forget_merged() -> None:
    execute(f"TRUNCATE {_MERGED}", "UPDATE telemetry_syncstate SET merged_revision = 0")
    calm(_MERGED)


def _count(what: str) -> int:
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {what}")
        found = int(cursor.fetchone()[0])
    connection.close()
    return found


if __name__ == "__main__":
    main()
