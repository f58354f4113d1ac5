"""The periodic tasks; each may run twice at any moment, to the same result."""

from celery import shared_task

from task_manager.services import dead_letters, executions, notifications, reconciliation


@shared_task
def reconcile_executions() -> dict[str, int]:
    """Bring rows that look stuck to what result backend, broker and workers know."""
    counts = reconciliation.executions_reconcile()
    return counts | {"reopened": dead_letters.dead_letters_reopen()}


@shared_task
def cleanup_executions() -> dict[str, int]:
    """Remove finished executions past their retention."""
    return {"removed": executions.executions_cleanup()}


@shared_task
def deliver_notifications() -> dict[str, int]:
    """Send the e-mails, webhooks and alerts that are due."""
    return notifications.notifications_deliver()
