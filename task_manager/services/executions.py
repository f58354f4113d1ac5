"""Writes the task history: many transitions at once, each row forward only."""

import json
import logging
import time
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import redis
from django.conf import settings
from django.db import DataError, IntegrityError, connection, transaction

from task_manager import entries
from task_manager.clients.cancellations import cancellations
from task_manager.clients.stream import Reader, backlog, writer
from task_manager.models import TaskExecution, TaskStatus
from task_manager.services import dead_letters, notifications

logger = logging.getLogger(__name__)

#: Seconds since its last sign of life for which a worker is trusted to write the history.
WORKER_SECONDS = 3.0
#: Seconds after which a caller takes over what a worker has read and not written.
ORPHANED_SECONDS = 1.0
#: Seconds that a caller spends on writing what waits.
CATCH_UP_SECONDS = 2.0
#: Rows removed in a transaction.
REMOVED = 5000

# In the order of creation, whose index leads there: a row that old and not finished is rare.
_REMOVE = """
    DELETE FROM task_manager_taskexecution WHERE task_id IN (
        SELECT task_id FROM task_manager_taskexecution
        WHERE created_at < now() - %s * interval '1 day'
            AND finished_at < now() - %s * interval '1 day'
            AND status IN ('SUCCESS', 'FAILURE', 'REVOKED')
        ORDER BY created_at LIMIT %s FOR UPDATE SKIP LOCKED)
"""
_REMOVE_STATISTICS = """
    DELETE FROM task_manager_taskstatistic WHERE hour < now() - %s * interval '1 day'
"""
_REMOVE_NOTIFICATIONS = """
    DELETE FROM task_manager_tasknotification
    WHERE created_at < now() - %s * interval '1 day'
"""

_RECORD = """
WITH raw AS (
    SELECT * FROM json_to_recordset(%s::json) AS raw(
        id text, status text, position bigint, at float8, name text, celery_name text,
        module text, description text, user_id bigint, parameters jsonb, queue text, worker text,
        retries integer, created_at float8, started_at float8, finished_at float8,
        duration float8, progress integer, message text, result jsonb, error text, traceback text,
        own boolean)
), named AS (
    -- What a task said of itself, which its later entries do not repeat.
    SELECT DISTINCT ON (id) id, name, module, description, parameters, user_id
    FROM raw WHERE own ORDER BY id, at DESC
), progressed AS (
    SELECT DISTINCT ON (id) id, retries, progress, message
    FROM raw WHERE progress IS NOT NULL AND finished_at IS NULL ORDER BY id, at DESC
), entry AS (
    SELECT DISTINCT ON (id) * FROM raw ORDER BY id, position DESC, at DESC
), changed AS (
    INSERT INTO task_manager_taskexecution AS task (
        task_id, task_name, celery_name, task_module, description, user_id, status,
        previous_status, position, changed_at, progress, message, parameters, result, error,
        traceback, worker, queue, retries, created_at, started_at, finished_at, duration)
    SELECT entry.id, left(COALESCE(named.name, entry.name, ''), 255),
        left(COALESCE(celery_name, ''), 255),
        left(COALESCE(named.module, entry.module, ''), 100),
        COALESCE(named.description, entry.description, ''), auth_user.id, status,
        '', position, to_timestamp(at),
        GREATEST(entry.progress, progressed.progress, 0),
        COALESCE(entry.message, progressed.message, ''),
        COALESCE(NULLIF(named.parameters, '{{}}'), entry.parameters, '{{}}'), result,
        COALESCE(error, ''),
        COALESCE(traceback, ''), COALESCE(worker, ''), COALESCE(queue, ''),
        COALESCE(entry.retries, 0),
        to_timestamp(COALESCE(created_at, started_at, at)), to_timestamp(started_at),
        to_timestamp(finished_at), COALESCE(duration, finished_at - started_at)
    FROM entry LEFT JOIN named USING (id)
        LEFT JOIN progressed ON progressed.id = entry.id
            AND progressed.retries IS NOT DISTINCT FROM entry.retries
        LEFT JOIN auth_user ON auth_user.id = COALESCE(named.user_id, entry.user_id)
    ORDER BY entry.id
    ON CONFLICT (task_id) DO UPDATE SET
        task_name = CASE WHEN {named} THEN EXCLUDED.task_name ELSE task.task_name END,
        task_module = CASE WHEN {named} THEN EXCLUDED.task_module ELSE task.task_module END,
        description = CASE WHEN {named} THEN EXCLUDED.description ELSE task.description END,
        celery_name = COALESCE(NULLIF(EXCLUDED.celery_name, ''), task.celery_name),
        user_id = COALESCE(EXCLUDED.user_id, task.user_id),
        status = EXCLUDED.status,
        previous_status = task.status,
        position = EXCLUDED.position,
        changed_at = EXCLUDED.changed_at,
        progress = CASE WHEN EXCLUDED.retries > task.retries THEN EXCLUDED.progress
            ELSE GREATEST(EXCLUDED.progress, task.progress) END,
        message = COALESCE(NULLIF(EXCLUDED.message, ''), task.message),
        parameters = COALESCE(NULLIF(EXCLUDED.parameters, '{{}}'), task.parameters),
        result = COALESCE(EXCLUDED.result, task.result),
        error = CASE WHEN EXCLUDED.status = 'SUCCESS' THEN ''
            ELSE COALESCE(NULLIF(EXCLUDED.error, ''), task.error) END,
        traceback = CASE WHEN EXCLUDED.status = 'SUCCESS' THEN ''
            ELSE COALESCE(NULLIF(EXCLUDED.traceback, ''), task.traceback) END,
        worker = COALESCE(NULLIF(EXCLUDED.worker, ''), task.worker),
        queue = COALESCE(NULLIF(EXCLUDED.queue, ''), task.queue),
        retries = GREATEST(EXCLUDED.retries, task.retries),
        created_at = LEAST(EXCLUDED.created_at, task.created_at),
        started_at = COALESCE(EXCLUDED.started_at, task.started_at),
        finished_at = EXCLUDED.finished_at,
        duration = COALESCE(EXCLUDED.duration,
            EXTRACT(epoch FROM EXCLUDED.finished_at - task.started_at))
    WHERE (EXCLUDED.position, EXCLUDED.changed_at) > (task.position, task.changed_at)
    RETURNING task.*
), ended AS (
    SELECT date_trunc('hour', finished_at, 'UTC') AS hour, task_name, task_module, status,
        {bucket} AS bucket, count(*) AS count, sum(COALESCE(duration, 0)) AS seconds
    FROM changed
    WHERE finished_at IS NOT NULL AND previous_status NOT IN ('SUCCESS', 'FAILURE', 'REVOKED')
    GROUP BY 1, 2, 3, 4, 5
), counted AS (
    INSERT INTO task_manager_taskstatistic AS statistic
        (hour, task_name, task_module, status, bucket, count, seconds)
    SELECT span.hour, task_name, task_module, status, bucket, sum(count), sum(seconds)
    FROM ended CROSS JOIN LATERAL (VALUES (ended.hour), (NULL)) AS span(hour)
    GROUP BY 1, 2, 3, 4, 5
    ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (hour, task_name, task_module, status, bucket) DO UPDATE SET
        count = statistic.count + EXCLUDED.count, seconds = statistic.seconds + EXCLUDED.seconds
)
SELECT array_agg(task_id) FROM changed
"""


# A task's own word names it, as does a description where there was only Celery's name.
_NAMED = """EXCLUDED.task_name <> '' AND (task.task_name IN ('', task.celery_name)
            OR EXISTS (SELECT FROM named WHERE named.id = EXCLUDED.task_id))"""
# A step of durations: see TaskStatistic.
_BUCKET = """CASE WHEN duration > 1e-4 THEN ceil(4 * ln(duration) / ln(2::float8))::integer
            ELSE -53 END"""
_RECORD = _RECORD.format(named=_NAMED, bucket=_BUCKET)

_REOPEN = f"""
WITH ended AS (
    SELECT task_id, date_trunc('hour', finished_at, 'UTC') AS hour, task_name, task_module,
        status, {_BUCKET} AS bucket, COALESCE(duration, 0) AS seconds
    FROM task_manager_taskexecution
    WHERE task_id = ANY(%(ids)s) AND position = %(presumed)s AND error = %(error)s
    ORDER BY task_id FOR UPDATE
), reopened AS (
    UPDATE task_manager_taskexecution AS task
    SET status = 'PENDING', previous_status = task.status, position = 3 * retries,
        changed_at = now(), finished_at = NULL, duration = NULL, error = ''
    FROM ended WHERE task.task_id = ended.task_id
)
INSERT INTO task_manager_taskstatistic AS statistic
    (hour, task_name, task_module, status, bucket, count, seconds)
SELECT span.hour, task_name, task_module, status, bucket, -count(*), -sum(seconds)
FROM ended CROSS JOIN LATERAL (VALUES (ended.hour), (NULL)) AS span(hour)
GROUP BY 1, 2, 3, 4, 5
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT (hour, task_name, task_module, status, bucket) DO UPDATE SET
    count = statistic.count + EXCLUDED.count, seconds = statistic.seconds + EXCLUDED.seconds
"""

# What a task said of itself may be written after its end, which another reader had: the row does
# not move, but it takes the words. Its statistics stay under the name that it had.
_NAME = """
    UPDATE task_manager_taskexecution AS task SET
        task_name = left(own.name, 255), task_module = left(own.module, 100),
        description = own.description, user_id = COALESCE(auth_user.id, task.user_id),
        parameters = COALESCE(NULLIF(own.parameters, '{}'), task.parameters)
    FROM (
        SELECT DISTINCT ON (id) * FROM json_to_recordset(%s::json) AS raw(
            id text, at float8, retries integer, name text, module text, description text,
            user_id bigint, parameters jsonb, own boolean)
        WHERE own ORDER BY id, at DESC) AS own
        LEFT JOIN auth_user ON auth_user.id = own.user_id
    WHERE task.task_id = own.id AND task.retries <= COALESCE(own.retries, 0)
        AND (task.task_name, task.task_module, task.description)
            IS DISTINCT FROM (left(own.name, 255), left(own.module, 100), own.description)
"""
_PROGRESS = """
    UPDATE task_manager_taskexecution AS task SET
        progress = GREATEST(said.progress, task.progress),
        message = COALESCE(NULLIF(said.message, ''), task.message)
    FROM (
        SELECT DISTINCT ON (id) * FROM json_to_recordset(%s::json) AS raw(
            id text, at float8, retries integer, progress integer, message text)
        WHERE message IS NOT NULL ORDER BY id, at DESC) AS said
    WHERE task.task_id = said.id AND task.retries = COALESCE(said.retries, 0)
        AND (task.progress < said.progress OR task.message = '' AND said.message <> '')
"""


def executions_record(transitions: Iterable[bytes]) -> int:
    """Bring the rows up to these transitions; the number that moved, all in one transaction.

    Repeated and reordered transitions change nothing. What PostgreSQL refuses of them is logged
    and left out.
    """
    data = list(transitions)
    if not data:
        return 0
    try:
        return _record(b"[" + b",".join(data) + b"]")
    except (DataError, IntegrityError) as error:
        return _record_each(data, error)


def _record_each(data: list[bytes], error: Exception) -> int:
    """One by one, so that a transition that cannot be stored stops no other."""
    each = [text for part in data for text in _objects(part)]
    if len(each) == 1:
        logger.error("A transition was refused: %s: %s", error, each[0][:500])
        return 0
    return sum(executions_record([text]) for text in each)


def _objects(part: bytes) -> list[bytes]:
    """A part may hold several JSON objects, with commas between."""
    try:
        objects = json.loads(b"[" + part + b"]")
    except ValueError:
        return [part]
    return [json.dumps(item).encode() for item in objects]


def _record(data: bytes) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_RECORD, [data.decode()])
        changed: list[str] = cursor.fetchone()[0] or []
        if b'"letter":' in data:
            dead_letters.dead_letters_record(_letters(json.loads(data), set(changed)))
        notifications.notifications_create(changed, failures=b'"FAILURE"' in data)
    _record_late_words(data)
    return len(changed)


def _record_late_words(data: bytes) -> None:
    """In transactions of their own: they lock rows out of the upsert's order."""
    statements = ((b'"own":', _NAME), (b'"message":', _PROGRESS))
    with connection.cursor() as cursor:
        for mark, statement in statements:
            if mark in data:
                cursor.execute(statement, [data.decode()])


def _letters(transitions: list[dict[str, Any]], changed: set[str]) -> list[dict[str, Any]]:
    return [
        {
            "task_id": entry["id"],
            "task_name": entry.get("name") or entry["celery_name"],
            "celery_name": entry["celery_name"],
            **entry["letter"],
            "queue": entry.get("queue") or "",
            "error": entry.get("error") or "",
            "traceback": entry.get("traceback") or "",
            "retries": entry.get("retries") or 0,
            "created_at": entry["at"],
        }
        for entry in transitions
        if entry.get("letter") and entry["id"] in changed
    ]


def executions_reopen(task_ids: list[str], *, error: str) -> None:
    """Rows presumed to have ended with this error wait again, and count as ended no more."""
    presumed = entries.position(TaskStatus.REVOKED, presumed=True)
    with connection.cursor() as cursor:
        cursor.execute(_REOPEN, {"ids": task_ids, "presumed": presumed, "error": error})


def executions_catch_up(task_id: str | None = None) -> None:
    """Write what waits in the stream when no worker does; so the rows are right when looked at.

    With a task's id: have its row, too, when it is still on its way to the table.
    """
    try:
        writer().flush()
        if not cancellations().workers(seconds=WORKER_SECONDS):
            _write_waiting()
        if task_id is not None:
            _await_row(task_id)
    except (redis.RedisError, OSError) as error:
        logger.warning("The task history may lag: Redis does not answer: %s", error)


def _write_waiting() -> None:
    deadline = time.monotonic() + CATCH_UP_SECONDS
    with closing(Reader("web")) as reader:
        while time.monotonic() < deadline and _write_batch(reader):
            pass


def _write_batch(reader: Reader) -> bool:
    """Write what nobody has, or has had for too long; False when there is nothing."""
    batch = reader.claim(seconds=ORPHANED_SECONDS) or reader.new(block_ms=None)
    executions_record(data for _, data in batch)
    reader.acknowledge(batch)
    return bool(batch)


def _await_row(task_id: str) -> None:
    deadline = time.monotonic() + CATCH_UP_SECONDS
    with closing(Reader("web")) as reader:
        while not TaskExecution.objects.filter(pk=task_id).exists():
            if not _write_batch(reader) and not backlog(reader.client).pending:
                return
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


def executions_cleanup() -> int:
    """Remove finished rows past `TASK_RETENTION_DAYS`, a batch a transaction; their number."""
    days: int = settings.TASK_RETENTION_DAYS
    removed = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_REMOVE, [days, days, REMOVED])
            batch: int = cursor.rowcount
        removed += batch
        if batch < REMOVED:
            break
    with connection.cursor() as cursor:
        cursor.execute(_REMOVE_STATISTICS, [days])
        cursor.execute(_REMOVE_NOTIFICATIONS, [days])
    dead_letters.dead_letters_cleanup(days=days)
    cancellations().forget(seconds=days * 86_400)
    return removed
