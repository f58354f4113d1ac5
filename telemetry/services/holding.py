"""One chain of sync and merge at a time: it holds the state's row, by its root's task id.

Held until the chain ends or, when it died, for `SECONDS` after its last sign of life.
"""

from datetime import timedelta

from django.db import connection
from django.utils import timezone

from telemetry.exceptions import NotHeld
from telemetry.models import SyncState

#: More than a retry's minute, and than the longest that a call or a batch takes.
SECONDS = 300


def chain_hold(holder: str) -> None:
    """Take the chain, or keep it for longer; raises NotHeld."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO telemetry_syncstate AS state (id, holder, held_until)
            VALUES (1, %(holder)s, now() + %(seconds)s * interval '1 second')
            ON CONFLICT (id) DO UPDATE
            SET holder = excluded.holder, held_until = excluded.held_until
            WHERE state.holder IN ('', excluded.holder) OR state.held_until < now()
            """,
            {"holder": holder, "seconds": SECONDS},
        )
        if not cursor.rowcount:
            raise NotHeld


def chain_release(holder: str) -> None:
    """Let it go; when another has it, nothing happens."""
    SyncState.objects.filter(holder=holder).update(holder="", held_until=None)


def state_locked(holder: str) -> SyncState:
    """The state's row, locked until the transaction ends, with more time on it; raises NotHeld."""
    state = SyncState.objects.select_for_update().get()
    if state.holder != holder:
        raise NotHeld
    state.held_until = timezone.now() + timedelta(seconds=SECONDS)
    return state
