"""Makes notifications of executions that changed, in one statement."""

import json
from collections.abc import Sequence

from django.conf import settings
from django.db import connection

from task_manager.services.notifications.texts import titles
from task_manager.services.notifications.wishes import wishes_of

#: How the error of a lost task begins: the worker's child died, or no trace of the task is left.
LOST = ["WorkerLostError(%", "The task was lost:%"]

_TEMPLATES = """
    SELECT task_name, notification_settings::text FROM task_manager_tasktemplate
    WHERE notification_settings <> '{}' ORDER BY name
"""

_CREATE = """
WITH wish AS (
    SELECT * FROM json_to_recordset(%(wishes)s::json)
        AS wish(task_name text, event text, step integer, channel text, address text)
), execution AS (
    SELECT task_id, task_name, user_id, status, started_at, progress, message, error
    FROM task_manager_taskexecution WHERE task_id = ANY(%(task_ids)s)
), news AS (
    SELECT execution.*, event, channel, address,
        CASE event WHEN 'progress' THEN execution.progress / step * step ELSE 0 END AS reached
    FROM execution JOIN wish USING (task_name)
    WHERE CASE event
        WHEN 'start' THEN started_at IS NOT NULL
        WHEN 'progress' THEN status IN ('STARTED', 'RETRY') AND progress >= step AND progress < 100
        WHEN 'complete' THEN status = 'SUCCESS'
        ELSE status = 'FAILURE' END
    UNION ALL
    SELECT execution.*, 'alert', 'admins', '', 0 FROM execution
    WHERE status = 'FAILURE' AND (error LIKE ANY(%(lost)s) OR EXISTS (
        SELECT FROM task_manager_deadletter letter WHERE letter.task_id = execution.task_id))
)
INSERT INTO task_manager_tasknotification (
    task_id, task_name, user_id, event, channel, progress, message, address, status,
    next_attempt_at, created_at, delivered_at)
SELECT task_id, task_name, CASE event WHEN 'alert' THEN NULL ELSE user_id END, event, channel,
    reached,
    concat_ws(': ', replace(replace(%(titles)s::json ->> event, '%%(task)s', task_name),
            '%%(progress)s', reached::text),
        NULLIF(CASE WHEN event = 'progress' THEN message
            WHEN event IN ('error', 'alert') THEN error END, '')),
    address,
    CASE channel WHEN 'in_app' THEN 'DELIVERED' ELSE 'PENDING' END,
    CASE channel WHEN 'in_app' THEN NULL ELSE now() END,
    now(),
    CASE channel WHEN 'in_app' THEN now() END
FROM news LEFT JOIN auth_user ON auth_user.id = user_id
WHERE channel <> 'email' OR auth_user.email <> ''
ORDER BY task_id, array_position(ARRAY['start', 'progress', 'complete', 'error'], event)
ON CONFLICT DO NOTHING
"""


def notifications_create(task_ids: Sequence[str], *, failures: bool = True) -> int:
    """Note for these executions, as they stand, what is to be told of them; the number of news.

    Called within the transaction that changed them. What was noted before is not noted again.
    A caller that knows that none of them failed says so, which spares the look at them when no
    template asks for anything.
    """
    if not task_ids:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_TEMPLATES)
        wishes = wishes_of(tuple(cursor.fetchall()))
        if not wishes and not failures:
            return 0
        cursor.execute(
            _CREATE,
            {
                "wishes": json.dumps(wishes),
                "task_ids": list(task_ids),
                "titles": json.dumps(titles(settings.LANGUAGE_CODE)),
                "lost": LOST,
            },
        )
        return int(cursor.rowcount)
