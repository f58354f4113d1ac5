"""What a worker does for the history beside its tasks, in one thread of its main process.

A few times a second it writes to the stream what the worker observed of its tasks, and brings
what stands in the stream to PostgreSQL in one statement.
"""

import logging
import signal
import sys
import threading
import time
from typing import Any

import redis
from celery import Task, bootsteps, signals
from celery.worker import state as worker_state
from celery.worker.control import control_command
from django.db import DEFAULT_DB_ALIAS, Error, connections

from task_manager import observer
from task_manager.clients.stream import READ, Entry, Reader, backlog, writer
from task_manager.services import executions

logger = logging.getLogger(__name__)

#: Seconds between two statements under load, and between two looks at the running tasks.
PERIOD = 0.25
#: Seconds between two looks at what was cancelled; well below `cancellations.LEASE`.
SYNC = 0.5
#: Seconds between two rounds of claiming and tidying.
HOUSEKEEPING = 5.0
#: Seconds after which the recorder lets the worker's own loop take its turn.
SWITCH_SECONDS = 0.0005
#: Seconds without another try after Redis or PostgreSQL failed.
PAUSE = 1.0


class Recorder(threading.Thread):
    """Reads the stream and writes the history, until it is stopped."""

    def __init__(self, worker_name: str) -> None:
        super().__init__(name="task-history", daemon=True)
        self.reader = Reader(worker_name)
        self.stopping = threading.Event()
        self.unsent: list[bytes] = []
        self.held: list[Entry] = []
        self.failing = ""
        self._overflowed = False
        self._sync_at = self._housekeeping_at = 0.0

    def run(self) -> None:
        # Held here too: in a forked child the thread's own storage goes away, and with its last
        # reference the connection would be closed under the parent.
        self.connection = connections[DEFAULT_DB_ALIAS]
        self._attempt(self._resume)
        while not self.stopping.is_set():
            began = time.monotonic()
            done = self._attempt(self._round)
            pause = PERIOD - (time.monotonic() - began) if done else PAUSE
            self.stopping.wait(max(0.0, pause))
        self._attempt(self._round)
        self.reader.close()
        self.connection.close()

    def stop(self) -> None:
        self.stopping.set()
        self.join(5)

    def _attempt(self, work: Any) -> bool:
        try:
            work()
        except (redis.RedisError, OSError, Error) as error:
            if self.failing != (text := f"{type(error).__name__}: {error}".strip()):
                logger.warning("The task history waits: %s", text)
            self.failing = text
            self.connection.close()
            return False
        except Exception:  # whatever it is, the next round is tried
            logger.exception("The task history failed")
            return False
        if self.failing:
            logger.warning("The task history goes on")
            self.failing = ""
        return True

    def _resume(self) -> None:
        self.held = self.reader.own()

    def _round(self) -> None:
        now = time.monotonic()
        if now >= self._sync_at:
            self._sync_at = now + SYNC
            observer.cancelled.sync(self.reader.consumer)
        # Until these are out the next ones stay in the notes, which are bounded.
        self.unsent = self.unsent or observer.drain()
        writer().send(self.unsent)
        self.unsent = []
        if now >= self._housekeeping_at:
            self._housekeeping_at = now + HOUSEKEEPING
            self.held += self.reader.claim()
            self.reader.tidy()
            self._say_overflow()
        while batch := self.held or self.reader.new(block_ms=int(PERIOD * 1000)):
            self.held = batch
            self._record(batch)
            self.reader.acknowledge(batch)
            self.held = []
            if len(batch) < READ:
                break

    def _record(self, batch: list[Entry]) -> None:
        try:
            executions.executions_record(entry for _, entry in batch)
        except (redis.RedisError, OSError, Error):
            raise  # an outage: the batch is kept
        except Exception:  # a batch that cannot be written must not stop the next ones
            logger.exception("%d entries of the task history were left out", len(batch))

    def _say_overflow(self) -> None:
        overflowed = backlog(self.reader.client).overflowed
        if overflowed and not self._overflowed:
            logger.warning(
                "The stream of transitions is full: the oldest are gone before they were written. "
                "The sweep makes their rows good from the results"
            )
        self._overflowed = overflowed


@control_command(args=[("task_ids", list), ("grace", float)], signature="[id1 [id2 […]]] [grace]")
def cancel_tasks(state: Any, task_ids: list[str], grace: float) -> dict[str, list[str]]:
    """Start none of these tasks, and end those that run: SIGTERM, after `grace` s SIGKILL."""
    observer.cancelled.ids.update(task_ids)
    consumer = state.consumer
    terminated = []
    for task_id in task_ids:
        request = worker_state.requests.get(task_id)
        if request is None or request not in worker_state.active_requests:
            continue
        try:
            request.terminate(consumer.pool, signal="TERM")
        except NotImplementedError:  # no pool of processes
            continue
        terminated.append(task_id)
        consumer.timer.call_after(grace, _kill, (request, consumer.pool))
    return {"terminated": terminated}


def _kill(request: Any, pool: Any) -> None:
    if not request.has_ended:
        logger.warning("Task %s[%s] did not end at SIGTERM: SIGKILL", request.name, request.id)
        pool.terminate_job(request.worker_pid, signal.SIGKILL)


class Tracking(bootsteps.StartStopStep):
    """Starts before the worker's pool and stops after it, whose last words are written too."""

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        self.recorder: Recorder | None = None
        for task in worker.app.tasks.values():
            if task.Request == Task.Request:
                task.Request = "task_manager.observer:Request"
        super().__init__(worker, **kwargs)

    def start(self, worker: Any) -> None:
        observer.connect()
        # Once the pool's children are forked.
        signals.worker_ready.connect(self._ready, weak=False)

    def _ready(self, sender: Any, **_: Any) -> None:
        # The worker's loop must not wait 5 ms for a turn whenever the recorder computes.
        sys.setswitchinterval(SWITCH_SECONDS)
        self.recorder = Recorder(sender.hostname)
        self.recorder.start()

    def stop(self, worker: Any) -> None:
        if self.recorder:
            self.recorder.stop()

    def terminate(self, worker: Any) -> None:
        self.stop(worker)
