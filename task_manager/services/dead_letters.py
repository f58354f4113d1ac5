"""Failed tasks that are kept with all it takes to run them again."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models.functions import Now
from django.utils import timezone

from task_manager import entries
from task_manager.exceptions import LetterClosed, UnknownTask
from task_manager.models import DeadLetter
from task_manager.services.registry import task_named

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
    FROM ROWS FROM (json_to_recordset(%s::json) AS (
        task_id text, task_name text, celery_name text, args jsonb, kwargs jsonb, queue text,
        error text, traceback text, retries integer, created_at float8)) WITH ORDINALITY AS letter
    LEFT JOIN task_manager_taskexecution AS task USING (task_id)
    ORDER BY letter.task_id, letter.ordinality
    ON CONFLICT (task_id) DO NOTHING
"""


def dead_letters_record(letters: Iterable[dict[str, Any]]) -> None:
    """Keep these, of each task the first; one that is there already stays as it is."""
    data = b",".join(map(entries.encode, letters))
    with connection.cursor() as cursor:
        cursor.execute(_RECORD, [f"[{data.decode()}]"])


@transaction.atomic
def dead_letter_discard(letter_id: int) -> None:
    """Give the letter up. Raises DeadLetter.DoesNotExist and LetterClosed."""
    letter = dead_letter_waiting(letter_id)
    letter.status = DeadLetter.Status.DISCARDED
    letter.closed_at = timezone.now()
    letter.save(update_fields=["status", "closed_at"])


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


def dead_letter_waiting(letter_id: int) -> DeadLetter:
    """The letter, locked: of several who would close it one does.

    Raises DeadLetter.DoesNotExist and LetterClosed.
    """
    letter = DeadLetter.objects.select_for_update().get(pk=letter_id)
    if letter.status != DeadLetter.Status.WAITING:
        raise LetterClosed
    return letter
