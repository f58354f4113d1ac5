"""Sync and merge, set off by somebody instead of by beat."""

from django.contrib.auth.models import User

from task_manager.utils import enqueue
from telemetry import selectors
from telemetry.exceptions import NotHeld
from telemetry.services.sync import require_url

CHAIN = "telemetry.tasks.sync_and_merge_telemetry_chain"


def chain_start(*, user: User) -> str:
    """The task's id; raises NotConfigured, or NotHeld when they are at work already."""
    require_url()
    if selectors.state_row().is_held:
        raise NotHeld
    return enqueue(CHAIN, user=user)
