"""A task that this worker does not know waits for a worker that does.

While a release takes the place of another, the new one publishes tasks that the old one's workers
have never heard of, and Celery would drop their messages. Here they go back to their queue, after
a pause that grows while nobody takes them. One that no worker knew for `TASK_UNKNOWN_SECONDS`
fails as Celery has it.
"""

import logging
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import redis
from celery import signals
from celery.utils.time import maybe_iso8601
from django.conf import settings

from marketplace import consumer

logger = logging.getLogger(__name__)

#: A message's header: since when, in epoch seconds, workers do not know its task.
UNKNOWN_SINCE = "unknown_since"
#: Seconds between two tries, at first and at last.
SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 30.0


class Consumer(consumer.Consumer):
    """The worker's own, as the setting `worker_consumer` names it."""

    connection_errors: Any
    qos: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: The timers of the messages that are held meanwhile, by delivery tag.
        self._pauses: dict[str, Any] = {}
        self._told: set[str] = set()

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        now = time.time()
        waited = now - _since(message, now)
        is_ours = "task" in message.headers  # nobody of ours speaks the protocol without
        if not is_ours or waited >= settings.TASK_UNKNOWN_SECONDS:
            super().on_unknown_task(body, message, exc)
        elif _has_expired(message):
            self._revoke(message)
        else:
            self._say(message)
            # As for a countdown: what is held takes nobody's place.
            self.qos.increment_eventually()
            pause = min(max(waited / 4, SHORTEST_PAUSE), LONGEST_PAUSE)
            self._pauses[message.delivery_tag] = self.timer.call_after(
                pause, self._give_back, (message, now - waited)
            )

    def on_close(self) -> None:
        # What the channel holds it gives back itself.
        for timer in self._pauses.values():
            timer.cancel()
        self._pauses.clear()
        super().on_close()

    def _give_back(self, message: Any, since: float) -> None:
        del self._pauses[message.delivery_tag]
        self.qos.decrement_eventually()
        try:
            message.channel.qos.give_back(message.delivery_tag, {UNKNOWN_SINCE: since})
        except (redis.RedisError, OSError) as error:
            # Nobody renews its lease any more, so that it comes back by itself.
            logger.warning("A message of an unknown task was not given back: %s", error)

    def _say(self, message: Any) -> None:
        name = message.headers["task"]
        if name not in self._told:
            self._told.add(name)
            logger.warning(
                "This worker knows no task %s: it waits for one that does, at most %d s",
                name,
                settings.TASK_UNKNOWN_SECONDS,
            )

    def _revoke(self, message: Any) -> None:
        """As any worker does with a task that comes too late."""
        headers = message.headers
        request: Any = SimpleNamespace(id=headers["id"], request_dict=headers, chord=None)
        message.ack_log_error(logger, self.connection_errors)
        self.app.backend.mark_as_revoked(headers["id"], "expired", request=request)
        signals.task_revoked.send(
            sender=self, request=request, terminated=False, signum=None, expired=True
        )


def _since(message: Any, now: float) -> float:
    since = message.headers.get(UNKNOWN_SINCE)
    return since if isinstance(since, int | float) and since <= now else now


def _has_expired(message: Any) -> bool:
    try:
        expires = maybe_iso8601(message.headers.get("expires"))
    except (TypeError, ValueError):
        return False
    if expires is None:
        return False
    return expires.replace(tzinfo=expires.tzinfo or UTC) < datetime.now(UTC)
