"""Signs of life that a health check reads for next to nothing.

A worker answers no cheap question and beat answers none at all, so each touches
`LIVENESS_FILE` (when set) while it lives: a worker at each heartbeat, every two seconds even
when idle or busy; beat (`marketplace.beat`) at each tick.
"""

from pathlib import Path
from typing import Any

from celery.signals import heartbeat_sent
from django.conf import settings


@heartbeat_sent.connect(dispatch_uid="marketplace.liveness")
def touch(**kwargs: Any) -> None:
    if settings.LIVENESS_FILE:
        Path(settings.LIVENESS_FILE).touch()
