"""Tasks that are promised: kept in PostgreSQL from the caller's commit until they have ended.

A message may be lost: with the last second of a Redis that was killed, with a publisher that was,
or because the broker is away or its queue full. The row of a promised task outlives that, and the
reconciliation publishes again, under the same id, what has not ended and is nowhere to be found.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from celery import current_app
from celery.utils import uuid
from django.conf import settings
from django.db import connection, transaction
from kombu.exceptions import OperationalError as BrokerError
from kombu.utils.json import dumps, loads
from redis import RedisError

from marketplace import context
from marketplace.broker import QueueFull
from task_manager import entries
from task_manager.exceptions import UnknownTask
from task_manager.models import OutboxTask, TaskStatus
from task_manager.services.executions import executions_record
from task_manager.services.registry import task_named

logger = logging.getLogger(__name__)

#: Tasks that one transaction takes to publish them.
BATCH = 500
#: Seconds for which a publication is left alone, whose message may be on its way.
RECENT_SECONDS = 20

_TAKE = """
    UPDATE task_manager_outboxtask AS promised
    SET published_at = now(), publications = publications + 1
    FROM (
        SELECT task_id FROM task_manager_outboxtask
        WHERE {which}
        ORDER BY task_id LIMIT %s FOR UPDATE SKIP LOCKED) AS taken
        JOIN task_manager_taskexecution AS task USING (task_id)
    WHERE promised.task_id = taken.task_id
    RETURNING promised.task_id, promised.celery_name, promised.body, promised.queue, promised.eta,
        promised.expires, task.user_id, task.retries, promised.request_id
"""
_TAKE_WAITING = _TAKE.format(which="published_at IS NULL")
_TAKE_LOST = _TAKE.format(
    which="task_id = ANY(%s) AND publications < %s AND (published_at IS NULL "
    "OR published_at < now() - %s * interval '1 second')"
)
_PUT_BACK = """
    UPDATE task_manager_outboxtask SET published_at = NULL, publications = publications - 1
    WHERE task_id = ANY(%s)
"""
_REMOVE_ENDED = """
    DELETE FROM task_manager_outboxtask AS promised USING task_manager_taskexecution AS task
    WHERE task.task_id = promised.task_id AND task.status IN ('SUCCESS', 'FAILURE', 'REVOKED')
"""


@dataclass(frozen=True)
class Promise:
    """A message as it is to be published, again if need be."""

    task_id: str
    celery_name: str
    body: str
    queue: str
    eta: datetime | None
    expires: datetime | None
    user_id: int | None
    retries: int = 0
    request_id: str = ""

    @property
    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        args, kwargs = loads(self.body)
        return args, kwargs

    @property
    def headers(self) -> dict[str, Any]:
        """What its message says of whom it is for, and of the request that it came from."""
        told = {entries.USER_ID: self.user_id, context.REQUEST_ID: self.request_id}
        return {name: value for name, value in told.items() if value}

    def publish(self) -> None:
        args, kwargs = self.arguments
        task_named(self.celery_name).apply_async(
            args,
            kwargs,
            task_id=self.task_id,
            # A queue that is gone since would never be read.
            queue=self.queue if self.queue in current_app.amqp.queues else None,
            eta=self.eta,
            expires=self.expires,
            retries=self.retries,
            headers=self.headers,
            # Once over a new connection; the next sweep has more patience.
            retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0},
        )


# --- Promising -----------------------------------------------------------------------------------
def task_enqueue(
    name: str,
    args: Sequence[Any] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    user_id: int | None = None,
    queue: str = "",
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: datetime | None = None,
) -> str:
    """Promise to run the task, in the caller's transaction; its id.

    It is published on commit, later when the broker cannot take it, and again until it has ended:
    so it may run twice. `countdown` is in seconds. Raises UnknownTask, and TypeError for
    arguments that the task or JSON does not take.
    """
    task = task_named(name)
    if task.typing:
        task.__header__(*args, **(kwargs or {}))
    now = datetime.now(UTC)
    promise = Promise(
        task_id=uuid(),
        celery_name=task.name,
        body=dumps([list(args), kwargs or {}]),
        queue=queue,
        eta=now + timedelta(seconds=countdown) if countdown is not None else eta,
        expires=expires,
        user_id=user_id,
        request_id=context.current().request_id,
    )
    with transaction.atomic():
        OutboxTask.objects.create(
            task_id=promise.task_id,
            celery_name=promise.celery_name,
            body=promise.body,
            queue=promise.queue,
            eta=promise.eta,
            expires=promise.expires,
            published_at=now,
            publications=1,
            request_id=promise.request_id,
        )
        executions_record([_pending(promise, now.timestamp())])
        transaction.on_commit(partial(_publish, [promise]))
    return promise.task_id


def _pending(promise: Promise, now: float) -> bytes:
    args, kwargs = promise.arguments
    message = {
        "id": promise.task_id,
        "task": promise.celery_name,
        entries.PUBLISHED_AT: now,
        entries.USER_ID: promise.user_id,
    }
    entry = entries.of_message(message, args, kwargs)
    if promise.queue:
        entry["queue"] = promise.queue
    return entries.transition(entry, TaskStatus.PENDING, now)


# --- Keeping the promise -------------------------------------------------------------------------
def outbox_publish_waiting() -> int:
    """Publish what the broker could not take before; how many."""
    published = 0
    while promises := _take(_TAKE_WAITING, [BATCH]):
        count = _publish(promises)
        published += count
        if count < len(promises):
            break
    return published


def outbox_publish_again(task_ids: Iterable[str]) -> set[str]:
    """Publish again those of these lost tasks that were promised; which ones.

    One that was lost `TASK_MAX_DELIVERIES` times is not: it may be what takes its workers down.
    """
    again = _take(
        _TAKE_LOST, [list(task_ids), settings.TASK_MAX_DELIVERIES, RECENT_SECONDS, 2**31 - 1]
    )
    _publish(again)
    return {promise.task_id for promise in again}


def outbox_arguments(task_ids: Iterable[str]) -> dict[str, tuple[str, list[Any], dict[str, Any]]]:
    """By id, the name and the arguments of those that were promised."""
    rows = OutboxTask.objects.filter(task_id__in=list(task_ids))
    return {
        task_id: (name, *loads(body))
        for task_id, name, body in rows.values_list("task_id", "celery_name", "body")
    }


def outbox_cleanup() -> int:
    """Forget the promised tasks that have ended; how many."""
    with connection.cursor() as cursor:
        cursor.execute(_REMOVE_ENDED)
        removed: int = cursor.rowcount
    return removed


def _take(statement: str, parameters: list[Any]) -> list[Promise]:
    """As published: should this process be killed before it does, they are found lost again."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return [Promise(*row) for row in cursor.fetchall()]


def _publish(promises: list[Promise]) -> int:
    """How many were published; the others wait for the next sweep."""
    failed = []
    for number, promise in enumerate(promises):
        try:
            promise.publish()
        except QueueFull as error:  # other queues may have room
            failed.append(promise.task_id)
            logger.warning("A promised task waits in the outbox: %s", error)
        except (BrokerError, RedisError, OSError, UnknownTask) as error:
            failed += [each.task_id for each in promises[number:]]
            logger.warning("%d promised tasks wait in the outbox: %r", len(failed), error)
            break
    if failed:
        with connection.cursor() as cursor:
            cursor.execute(_PUT_BACK, [failed])
    return len(promises) - len(failed)
