"""Writes the task history: many transitions at once, each row forward only."""

from collections.abc import Iterable

from django.db import connection

_RECORD = """
WITH entry AS (
    SELECT DISTINCT ON (id) * FROM json_to_recordset(%s::json) AS entry(
        id text, status text, position bigint, at float8, name text, celery_name text,
        module text, description text, user_id bigint, parameters jsonb, queue text, worker text,
        retries integer, created_at float8, started_at float8, finished_at float8,
        duration float8, progress integer, message text, result jsonb, error text, traceback text)
    ORDER BY id, position DESC, at DESC
), changed AS (
    INSERT INTO task_manager_taskexecution AS task (
        task_id, task_name, celery_name, task_module, description, user_id, status,
        previous_status, position, changed_at, progress, message, parameters, result, error,
        traceback, worker, queue, retries, created_at, started_at, finished_at, duration)
    SELECT entry.id, left(entry.name, 255), left(COALESCE(celery_name, ''), 255),
        left(module, 100), COALESCE(description, ''), auth_user.id, status,
        '', position, to_timestamp(at), COALESCE(progress, 0), COALESCE(message, ''),
        COALESCE(parameters, '{}'), result, COALESCE(error, ''),
        COALESCE(traceback, ''), COALESCE(worker, ''), COALESCE(queue, ''), COALESCE(retries, 0),
        to_timestamp(COALESCE(created_at, started_at, at)), to_timestamp(started_at),
        to_timestamp(finished_at), duration
    FROM entry LEFT JOIN auth_user ON auth_user.id = entry.user_id
    ORDER BY entry.id
    ON CONFLICT (task_id) DO UPDATE SET
        task_name = CASE WHEN EXCLUDED.task_name = EXCLUDED.celery_name
            THEN task.task_name ELSE EXCLUDED.task_name END,
        task_module = CASE WHEN EXCLUDED.task_name = EXCLUDED.celery_name
            THEN task.task_module ELSE EXCLUDED.task_module END,
        description = CASE WHEN EXCLUDED.task_name = EXCLUDED.celery_name
            THEN task.description ELSE EXCLUDED.description END,
        celery_name = COALESCE(NULLIF(EXCLUDED.celery_name, ''), task.celery_name),
        user_id = COALESCE(EXCLUDED.user_id, task.user_id),
        status = EXCLUDED.status,
        previous_status = task.status,
        position = EXCLUDED.position,
        changed_at = EXCLUDED.changed_at,
        progress = CASE WHEN EXCLUDED.retries > task.retries THEN EXCLUDED.progress
            ELSE GREATEST(EXCLUDED.progress, task.progress) END,
        message = COALESCE(NULLIF(EXCLUDED.message, ''), task.message),
        parameters = COALESCE(NULLIF(EXCLUDED.parameters, '{}'), task.parameters),
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
        CASE WHEN duration > 1e-4 THEN ceil(4 * ln(duration) / ln(2::float8))::integer ELSE -53 END
            AS bucket,
        count(*) AS count, sum(COALESCE(duration, 0)) AS seconds
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
SELECT count(*) FROM changed
"""


def executions_record(entries: Iterable[bytes]) -> int:
    """Bring the rows up to these entries, in one statement; the number of rows that changed.

    Repeated and reordered entries change nothing.
    """
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, [(b"[" + b",".join(entries) + b"]").decode()])
        changed: int = cursor.fetchone()[0]
    return changed
