"""The Celery tasks; each may run twice at any moment, to the same result."""

from celery import shared_task

from promotions.services import notifications, promos, reservations


@shared_task
def check_active_promos() -> dict[str, int]:
    """Close and open the promos that are due, tell eligible shoppers, publish the outbox."""
    closed = promos.promos_close()
    opened, notified = promos.promos_open()
    published = notifications.notifications_publish()
    return {"closed": closed, "opened": opened, "notified": notified, "published": published}


@shared_task
def send_promo_notification(promo_id: int) -> dict[str, int]:
    """Tell the eligible shoppers of one open promo who were not told of any today."""
    notified = promos.promo_notify(promo_id)
    return {"notified": notified, "published": notifications.notifications_publish()}


@shared_task
def process_notification_queue() -> dict[str, int]:
    """Publish what waits too long, then deliver what the queue holds."""
    requeued = notifications.notifications_requeue_stale()
    published = notifications.notifications_publish(seconds=notifications.RUN_SECONDS / 2)
    drained = notifications.queue_drain(seconds=notifications.RUN_SECONDS / 2)
    return {"requeued": requeued, "published": published, **drained}


@shared_task
def release_expired_reservations() -> dict[str, int]:
    """Free the units whose hold is over."""
    return {"released": reservations.reservations_release()}


@shared_task
def cleanup_expired_promos() -> dict[str, int]:
    """Remove promos past their retention; archive those that sold something."""
    return promos.promos_cleanup()
