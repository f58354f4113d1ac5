"""Makes good what no transition told: the sweep over rows that look stuck.

A worker that is killed takes the transitions of its last quarter of a second with it, and an
outage of Redis those of longer. The result backend knows how a task ended, the broker what waits
or is held, the workers what they run. What none of them knows is lost: what was promised of it is
published again, the rest is said to be lost; should the truth come after all, it overrides that.
"""

import logging
import time
from datetime import datetime
from typing import Any

import redis
from celery import current_app, states
from django.conf import settings
from django.db import connection

from marketplace import sentinel
from task_manager import entries
from task_manager.clients.broker import Broker, Message, broker
from task_manager.clients.cancellations import cancellations
from task_manager.clients.stream import writer
from task_manager.models import UNFINISHED, TaskExecution, TaskStatus
from task_manager.services import outbox
from task_manager.services.executions import executions_record

logger = logging.getLogger(__name__)

#: Seconds without news after which a row looks stuck.
QUIET_SECONDS = 20
#: Rows of one sweep.
LIMIT = 5000
#: Messages of a queue that are searched for a row; a longer queue is left to the next sweep.
SEARCHED = 20_000
#: A row is lost when two sweeps in a row find no trace of it.
SUSPECTS = "task_manager:suspects"
SUSPECT_SECONDS = 900

_STUCK = """
    SELECT task_id, status, queue, retries, cancelled_at IS NOT NULL
    FROM task_manager_taskexecution
    WHERE status = ANY(%s) AND changed_at < now() - %s * interval '1 second'
        AND NOT EXISTS (
            SELECT FROM unnest(%s::text[], %s::float8[]) AS head(queue, published_at)
            WHERE status = 'PENDING' AND head.queue = task_manager_taskexecution.queue
                AND created_at >= to_timestamp(head.published_at))
    ORDER BY changed_at LIMIT %s
"""

Row = tuple[str, str, str, int, bool]


def executions_reconcile() -> dict[str, int]:
    """Bring stuck rows to what is known of them; how many of each kind there were."""
    outbox.outbox_publish_waiting()
    with broker() as messages:
        stuck = _stuck(messages)
        known, told = _from_results(stuck)
        rest = [row for row in stuck if row[0] not in known]
        searched, waiting = _search(messages)
        held = {message.task_id: message for message in messages.held()}
        missing = _without_row({**waiting, **held})
        rest = [
            row
            for row in rest
            if row[0] not in waiting and row[0] not in held and (not row[2] or row[2] in searched)
        ]
        running = _running([row[0] for row in rest])
        lost = _twice_suspected([row for row in rest if row[0] not in running])
    again = outbox.outbox_publish_again(row[0] for row in lost if not row[4])
    lost = [row for row in lost if row[0] not in again]
    found = [*told, *missing, *_lost(lost)]
    if found:
        executions_record(found)
        writer().send(found)  # for live clients
    if lost:
        logger.warning("%d tasks were lost: %s", len(lost), ", ".join(row[0] for row in lost[:10]))
    if again:
        logger.warning("%d lost tasks were promised, and are published again", len(again))
    outbox.outbox_cleanup()
    return {
        "checked": len(stuck),
        "told": len(told),
        "missing": len(missing),
        "again": len(again),
        "lost": len(lost),
    }


def _stuck(messages: Broker) -> list[Row]:
    """Rows that should have moved. What stands behind the head of its queue merely waits."""
    heads = {queue: messages.oldest(queue) for queue in messages.queues()}
    heads = {queue: at for queue, at in heads.items() if at is not None}
    with connection.cursor() as cursor:
        cursor.execute(
            _STUCK, [list(UNFINISHED), QUIET_SECONDS, list(heads), list(heads.values()), LIMIT]
        )
        rows: list[Row] = cursor.fetchall()
    return rows


def _from_results(rows: list[Row]) -> tuple[set[str], list[bytes]]:
    """The tasks that the result backend saw end, and the transitions that say so."""
    backend = current_app.backend
    told = []
    known = set()
    for row in rows:
        meta = backend.get_task_meta(row[0], cache=False)
        if meta["status"] in states.READY_STATES:
            known.add(row[0])
            told.append(_from_meta(row, meta))
    return known, told


def _from_meta(row: Row, meta: dict[str, Any]) -> bytes:
    done = meta.get("date_done")
    at = datetime.fromisoformat(done).timestamp() if isinstance(done, str) else time.time()
    entry: dict[str, Any] = {"id": row[0], "retries": row[3], "finished_at": at}
    if meta["status"] == states.SUCCESS:
        entry |= {"result": entries.bounded(meta["result"]), "progress": 100}
    else:
        entry |= entries.error(meta["result"], meta.get("traceback"))
    return entries.transition(entry, meta["status"], at)


def _search(messages: Broker) -> tuple[set[str], dict[str, Message]]:
    """The queues short enough to be searched, and what waits in them by task id."""
    short = {queue for queue in messages.queues() if messages.depth(queue) <= SEARCHED}
    return short, {
        message.task_id: message for queue in short for message in messages.waiting(queue)
    }


def _without_row(messages: dict[str, Message]) -> list[bytes]:
    """PENDING for messages whose publisher could not say it."""
    now = time.time()
    ids = [
        task_id
        for task_id, message in messages.items()
        if (message.published_at or 0) < now - QUIET_SECONDS
    ]
    present = set(TaskExecution.objects.filter(task_id__in=ids).values_list("task_id", flat=True))
    return [_pending(messages[task_id], now) for task_id in ids if task_id not in present]


def _pending(message: Message, now: float) -> bytes:
    entry = entries.of_message(message.headers, message.args, message.kwargs)
    entry["queue"] = message.queue
    return entries.transition(entry, TaskStatus.PENDING, message.published_at or now)


def _running(task_ids: list[str]) -> set[str]:
    """Those that a worker says it has."""
    if not task_ids or not cancellations().workers(seconds=60):
        return set()
    answers = current_app.control.inspect(timeout=2).query_task(*task_ids) or {}
    return {task_id for tasks in answers.values() for task_id in tasks}


def _twice_suspected(rows: list[Row]) -> list[Row]:
    """Rows without a trace at the last sweep as well: a message may have been on its way."""
    client = redis.Redis.from_url(settings.REDIS_URL, **sentinel.options())
    with client, client.pipeline() as pipe:
        pipe.smembers(SUSPECTS)
        pipe.delete(SUSPECTS)
        if rows:
            pipe.sadd(SUSPECTS, *(row[0] for row in rows))
            pipe.expire(SUSPECTS, SUSPECT_SECONDS)
        before = {member.decode() for member in pipe.execute()[0]}
    return [row for row in rows if row[0] in before]


def _lost(rows: list[Row]) -> list[bytes]:
    promised = outbox.outbox_arguments(row[0] for row in rows)
    return [_end_of_lost(row, promised.get(row[0])) for row in rows]


def _end_of_lost(row: Row, promised: Any) -> bytes:
    task_id, _status, queue, retries, cancelled = row
    now = time.time()
    entry: dict[str, Any] = {"id": task_id, "retries": retries, "finished_at": now}
    if cancelled:
        entry["error"] = "The task was cancelled; its worker is gone."
        return entries.transition(entry, TaskStatus.REVOKED, now, presumed=True)
    entry["error"] = LOST
    if promised:
        name, args, kwargs = promised
        entry |= {"celery_name": name, "queue": queue, "letter": {"args": args, "kwargs": kwargs}}
    return entries.transition(entry, TaskStatus.FAILURE, now, presumed=True)


LOST = "The task was lost: no worker has it, no queue holds it, and no result was stored."
