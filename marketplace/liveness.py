"""Signs of life that a health check reads for next to nothing.

A worker answers no cheap question and beat answers none at all, so each touches
`LIVENESS_FILE` (when set) while it lives: a worker at each heartbeat, every two seconds even
when idle or busy; beat at each tick, at most `beat_max_loop_interval` apart.
"""

from pathlib import Path
from typing import Any

from celery.signals import heartbeat_sent
from django.conf import settings
from redbeat import RedBeatScheduler


def touch(**kwargs: Any) -> None:
    if settings.LIVENESS_FILE:
        Path(settings.LIVENESS_FILE).touch()


heartbeat_sent.connect(touch, dispatch_uid="marketplace.liveness")


class BeatScheduler(RedBeatScheduler):  # type: ignore[misc]
    """RedBeat that shows that it ticks."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        touch()
        delay: float = super().tick(*args, **kwargs)
        return delay
