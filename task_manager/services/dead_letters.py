"""Failed tasks that are kept with all it takes to run them again."""

from collections.abc import Iterable
from datetime import timedelta
from functools import partial
from typing import Any

from celery import current_app
from celery.utils import uuid
from django.db import connection, transaction
from django.db.models.functions import Now

from task_manager import entries
from task_manager.clients.stream import writer
from task_manager.exceptions import ArgumentsRefused, LetterClosed, UnknownTask
from task_manager.models import DeadLetter, TaskExecution
from task_manager.services.templates import task_named

# The execution's row knows more than the failure of a killed task says.
_RECORD = """
    INSERT INTO task_manager_deadletter (
        task_id, task_name, celery_name, args, kwargs, queue, error, traceback, retries,
        status, created_at, requeued_task_id)
    SELECT letter.task_id, COALESCE(NULLIF(task.task_name, ''), left(letter.task_name, 255)),
        left(letter.celery_name, 255), COALESCE(args, '[]'), COALESCE(kwargs, '{}'),
        COALESCE(NULLIF(letter.queue, ''), task.queue, ''), COALESCE(letter.error, ''),
        COALESCE(letter.traceback, ''), GREATEST(letter.retries, task.retries, 0),
        'WAITING', to_timestamp(letter.created_at), ''
    FROM json_to_recordset(%s::json) AS letter(
        task_id text, task_name text, celery_name text, args jsonb, kwargs jsonb, queue text,
        error text, traceback text, retries integer, created_at float8)
    LEFT JOIN task_manager_taskexecution AS task USING (task_id)
    ORDER BY letter.task_id
    ON CONFLICT (task_id) DO NOTHING
"""

# Long enough for the row of the new task to come, by the sweep at the latest.
_REOPEN = """
    UPDATE task_manager_deadletter AS letter
    SET status = 'WAITING', closed_at = NULL, requeued_task_id = ''
    WHERE status = 'REQUEUED' AND closed_at BETWEEN now() - interval '1 day'
            AND now() - interval '5 minutes'
        AND NOT EXISTS (
            SELECT FROM task_manager_taskexecution WHERE task_id = letter.requeued_task_id)
"""


def dead_letters_record(letters: Iterable[dict[str, Any]]) -> None:
    """Keep these; one that is there already stays as it is."""
    data = b",".join(map(entries.encode, letters))
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, [f"[{data.decode()}]"])


def dead_letter_requeue(letter_id: int) -> str:
    """Publish the letter's task anew, once however many ask for it; the new task's id.

    When that fails the letter waits again, and the error is the broker's. Raises
    DeadLetter.DoesNotExist, LetterClosed, UnknownTask and ArgumentsRefused.
    """
    letter = DeadLetter.objects.get(pk=letter_id)
    if letter.status != DeadLetter.Status.WAITING:
        raise LetterClosed
    task = task_named(letter.celery_name)
    _check_arguments(task, letter)
    task_id = uuid()
    _close(letter_id, status=DeadLetter.Status.REQUEUED, requeued_task_id=task_id)
    transaction.on_commit(partial(_publish, task, letter, task_id))
    return task_id


def dead_letter_discard(letter_id: int) -> None:
    """Give the letter up. Raises DeadLetter.DoesNotExist and LetterClosed."""
    DeadLetter.objects.only("pk").get(pk=letter_id)
    _close(letter_id, status=DeadLetter.Status.DISCARDED)


def dead_letters_reopen() -> int:
    """Let letters wait again whose requeued task never came to be: their publisher was killed."""
    with connection.cursor() as cursor:
        cursor.execute(_REOPEN)
        reopened: int = cursor.rowcount
    return reopened


def dead_letters_cleanup(*, days: int) -> None:
    """Remove those that were closed longer ago than this."""
    DeadLetter.objects.exclude(status=DeadLetter.Status.WAITING).filter(
        closed_at__lt=Now() - timedelta(days=days)
    ).delete()


def dead_letter_parameters(letter: DeadLetter) -> dict[str, Any]:
    """Its arguments by name, to be shown: shortened, secrets masked.

    Which are secret, the names say; where those are not known, none is shown.
    """
    try:
        task_named(letter.celery_name)
    except UnknownTask:
        named = {"args": entries.MASK} if letter.args else {}
        named |= letter.kwargs
    else:
        named = entries.describe(letter.celery_name).bind(letter.args, letter.kwargs)
    parameters: dict[str, Any] = entries.bounded(named)
    return parameters


def _check_arguments(task: Any, letter: DeadLetter) -> None:
    try:
        task.__header__(*letter.args, **letter.kwargs)
    except TypeError as error:
        raise ArgumentsRefused from error


def _close(letter_id: int, **fields: Any) -> None:
    """In one statement, so that of several callers one succeeds."""
    waiting = DeadLetter.objects.filter(pk=letter_id, status=DeadLetter.Status.WAITING)
    if not waiting.update(closed_at=Now(), **fields):
        raise LetterClosed


def _publish(task: Any, letter: DeadLetter, task_id: str) -> None:
    rows = TaskExecution.objects.filter(pk=letter.task_id)
    user_id = rows.values_list("user_id", flat=True).first()
    try:
        task.apply_async(
            letter.args,
            letter.kwargs,
            task_id=task_id,
            # A queue that is gone since would never be read.
            queue=letter.queue if letter.queue in current_app.amqp.queues else None,
            headers={entries.USER_ID: user_id} if user_id else None,
        )
    except BaseException:
        DeadLetter.objects.filter(requeued_task_id=task_id).update(
            status=DeadLetter.Status.WAITING, closed_at=None, requeued_task_id=""
        )
        raise
    writer().flush()  # so that whoever asks next finds it
