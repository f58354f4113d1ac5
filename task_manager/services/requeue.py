"""Runs the tasks of dead letters again."""

from django.db import transaction
from django.utils import timezone

from task_manager.exceptions import ArgumentsRefused
from task_manager.models import DeadLetter, TaskExecution
from task_manager.services.dead_letters import dead_letter_waiting
from task_manager.services.outbox import task_enqueue
from task_manager.services.registry import task_named


@transaction.atomic
def dead_letter_requeue(letter_id: int) -> str:
    """Promise to run the letter's task anew, once however many ask for it; the new task's id.

    Raises DeadLetter.DoesNotExist, LetterClosed, UnknownTask and ArgumentsRefused.
    """
    letter = dead_letter_waiting(letter_id)
    _check_arguments(letter)
    rows = TaskExecution.objects.filter(pk=letter.task_id)
    letter.requeued_task_id = task_enqueue(
        letter.celery_name,
        letter.args,
        letter.kwargs,
        user_id=rows.values_list("user_id", flat=True).first(),
        queue=letter.queue,
    )
    letter.status = DeadLetter.Status.REQUEUED
    letter.closed_at = timezone.now()
    letter.save(update_fields=["status", "closed_at", "requeued_task_id"])
    return letter.requeued_task_id


def _check_arguments(letter: DeadLetter) -> None:
    task = task_named(letter.celery_name)
    try:
        task.__header__(*letter.args, **letter.kwargs)
    except TypeError as error:
        raise ArgumentsRefused from error
