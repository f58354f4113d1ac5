"""The periodic tasks; each may run twice at any moment, to the same result."""

from celery import shared_task

from task_manager.services import executions, notifications, queues, reconciliation


@shared_task
def reconcile_executions() -> dict[str, int]:
    """Bring rows that look stuck to what result backend, broker and workers know."""
    return reconciliation.executions_reconcile()


@shared_task
def cleanup_executions() -> dict[str, int]:
    """Remove finished executions past their retention."""
    return {"removed": executions.executions_cleanup()}


@shared_task
def deliver_notifications() -> dict[str, int]:
    """Send the e-mails, webhooks and alerts that are due."""
    return notifications.notifications_deliver()


@shared_task
def check_queues() -> dict[str, int]:
    """Tell the administrators of queues that fill faster than they are emptied."""
    return queues.queues_check()
