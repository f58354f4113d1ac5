"""A worker renews the leases of the messages that it holds, for as long as it lives.

A worker's message comes back to its queue once nobody has renewed it for `visibility_timeout`
seconds: soon after its worker was killed, and never while it works, however long that takes.
"""

import logging
import threading
import time
from typing import Any

import redis
from celery import bootsteps
from celery.worker import state

from marketplace import liveness

logger = logging.getLogger(__name__)


class Lease(bootsteps.StartStopStep):
    """Renews every third of `visibility_timeout`, in the worker's own loop."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.timer: Any = None
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Begin, or go on with a new connection: the tasks that run have lost theirs."""
        qos = consumer.task_consumer.channel.qos
        qos.is_under_way = _is_under_way
        for request in list(state.active_requests):
            if not request.acknowledged:
                qos.adopt(request.message)
        _renew(qos)
        period = qos.visibility_timeout / 3
        self.timer = consumer.timer.call_repeatedly(period, _renew, (qos,))

    def stop(self, consumer: Any) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None
        # At its own end, by TERM or by `celery control shutdown`, not at a connection's.
        is_ending = consumer.blueprint.state == bootsteps.CLOSE  # type: ignore[attr-defined]
        if is_ending and not _is_told(state.should_terminate):
            self._go_on(consumer.task_consumer.channel.qos)

    def _go_on(self, qos: Any) -> None:
        """The loop has ended, and the pool's last tasks may take their time."""

        def renew() -> None:
            while True:
                liveness.touch()
                time.sleep(qos.visibility_timeout / 3)
                _renew(qos)

        threading.Thread(target=renew, name="leases", daemon=True).start()


def _is_under_way(tag: str) -> bool:
    """Whether a task goes on that holds this message: unless it is about to be ended."""
    if _is_told(state.should_terminate):
        return False
    return any(request.message.delivery_tag == tag for request in list(state.active_requests))


def _is_told(exit_code: Any) -> bool:
    """Whether the worker was told to end, and with which code; 0 is one."""
    return exit_code is not None and exit_code is not False


def _renew(qos: Any) -> None:
    try:
        gone = qos.renew()
    except (redis.RedisError, OSError) as error:
        logger.warning("The leases were not renewed: %s", error)
        return
    if gone:
        logger.warning("%d messages were held too long without a sign of life", len(gone))


def is_lost(message: Any) -> bool:
    """Whether another worker may have this message by now, because this one stood still."""
    try:
        lost: bool = message.channel.qos.has_lost(message.delivery_tag)
    except AttributeError:  # of another transport
        return False
    except (redis.RedisError, OSError):
        return False  # its connection is about to be found lost
    return lost
