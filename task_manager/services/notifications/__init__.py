"""What a template asks to be told of its task's runs, and what the administrators must know.

Notifications are made in the transaction that records what happened, once each, and sent later.
"""

from task_manager.services.notifications.creation import notifications_create
from task_manager.services.notifications.delivery import notifications_deliver, notifications_retry
from task_manager.services.notifications.wishes import settings_errors

__all__ = [
    "notifications_create",
    "notifications_deliver",
    "notifications_retry",
    "settings_errors",
]
