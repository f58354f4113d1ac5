"""The Celery tasks; each may run twice at any moment, to the same result."""

from typing import Any

from celery import chain, shared_task

from task_manager.retrying import RetryingTask
from telemetry.exceptions import TelemetryError
from telemetry.services import holding, merge, sync


class ChainTask(RetryingTask):
    """Tried three times more, a minute apart; after that the next chain goes on where it was."""

    retry_backoff = False
    retry_kwargs = {"countdown": 60}
    # There is nothing to requeue that the next chain does not do.
    dead_letter = False

    @property
    def holder(self) -> str:
        """What all tasks of a chain have in common."""
        return str(self.request.root_id or self.request.id)

    def on_failure(self, *args: Any, **kwargs: Any) -> None:
        holding.chain_release(self.holder)
        super().on_failure(*args, **kwargs)


@shared_task(base=ChainTask, bind=True)
def sync_and_merge_telemetry_chain(self: ChainTask) -> dict[str, Any]:
    """Set off sync and merge, one after the other, unless they still run."""
    try:
        sync.require_url()
        holding.chain_hold(self.holder)
    except TelemetryError as reason:
        return {"skipped": str(reason)}
    started = chain(sync_telemetry_task.si(), merge_ott_task.s()).apply_async()
    return {"started": started.id}


@shared_task(base=ChainTask, bind=True)
def sync_telemetry_task(self: ChainTask) -> dict[str, Any]:
    """Store what PanAccess has beyond the highest record that is known."""
    try:
        result = sync.telemetry_sync(holder=self.holder)
    except TelemetryError as reason:
        return {"skipped": str(reason)}
    if not self.request.chain:
        holding.chain_release(self.holder)
    return result


@shared_task(base=ChainTask, bind=True)
def merge_ott_task(self: ChainTask, sync_result: dict[str, Any] | None = None) -> dict[str, Any]:
    """Give the views that are new, or whose name is, their channels' names.

    `sync_result` is what the sync returned; the result tells of its `highest_id_after`, too.
    """
    try:
        result = merge.ott_merge(holder=self.holder)
    except TelemetryError as reason:
        return {"skipped": str(reason)}
    holding.chain_release(self.holder)
    return {**result, "highest_id_after": (sync_result or {}).get("highest_id_after")}
