"""The tasks end to end on the real servers, without a worker."""

import pytest

from promotions import tasks
from promotions.models import FlashPromo, Notification


@pytest.mark.django_db(transaction=True)
def test_a_promo_opens_and_its_shoppers_are_told(make_promo, make_shopper, queue):
    promo = make_promo(status=FlashPromo.Status.SCHEDULED)
    near = make_shopper()
    make_shopper(latitude=19.5)
    result = tasks.check_active_promos.apply().get()
    assert result == {"closed": 0, "opened": 1, "notified": 1, "published": 1}
    result = tasks.process_notification_queue.apply().get()
    assert result == {"requeued": 0, "published": 0, "delivered": 1, "failed": 0}
    notification = Notification.objects.get()
    assert (notification.shopper, notification.promo, notification.status) == (
        near,
        promo,
        "DELIVERED",
    )
