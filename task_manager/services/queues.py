"""Tells the administrators of queues that fill faster than workers empty them."""

import logging

from django.conf import settings
from django.core.mail import mail_admins

from task_manager.clients.broker import Broker, broker

logger = logging.getLogger(__name__)

#: The part of its limit from which on a queue is said to fill.
FULL = 0.8
#: Set for as long as nothing more is said of a queue.
ALERTED = "task_manager:queue_alert:"


def queues_check() -> dict[str, int]:
    """Log and mail which queues fill, each once in `TASK_ALERT_SECONDS`; their depths."""
    with broker() as messages:
        filling = {
            queue: depth
            for queue, limit in messages.limits().items()
            if (depth := messages.depth(queue)) >= FULL * limit
        }
        for queue, depth in filling.items():
            _alert(messages, queue, depth)
    return filling


def _alert(messages: Broker, queue: str, depth: int) -> None:
    key = ALERTED + queue
    if not messages.client.set(key, 1, nx=True, ex=max(1, settings.TASK_ALERT_SECONDS)):
        return
    text = (
        f"The queue {queue!r} holds {depth} of the {messages.limits()[queue]} messages that it may "
        f"(QUEUE_LIMIT); {messages.refused().get(queue, 0)} publications were refused so far.\n"
        "Add workers, or find out why they do not get on. What `enqueue()` promised waits in "
        "PostgreSQL; who calls `delay()` gets the error QueueFull."
    )
    logger.error("%s", text)
    try:
        mail_admins(f"The queue {queue} is filling", text)
    except BaseException:  # it is said again at the next check
        messages.client.delete(key)
        raise
