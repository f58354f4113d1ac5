"""What a user does with notifications."""

from django.db.models import QuerySet
from django.db.models.functions import Now

from task_manager.models import TaskNotification


def notifications_read(notifications: QuerySet[TaskNotification]) -> int:
    """Mark those as read that were not; their number."""
    return notifications.filter(read_at__isnull=True).update(read_at=Now())
