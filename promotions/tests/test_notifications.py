"""The outbox reaches SNS, SQS and the shopper, whatever breaks on the way."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.conf import settings as project_settings
from django.core import mail
from django.db import connection
from django.utils import timezone

from deploy.embedded.servers import free_port
from promotions.clients.promo_queue import promo_queue
from promotions.models import Notification
from promotions.services import notifications

pytestmark = pytest.mark.django_db


@pytest.fixture
def owe(make_promo, make_shopper):
    """Make that many notifications, each to a shopper of its own."""

    def make(count: int = 1, **fields) -> list[Notification]:
        promo = make_promo()
        return [
            Notification.objects.create(
                promo=promo,
                shopper=make_shopper(email=f"shopper{number}@example.com"),
                local_day=timezone.now().date(),
                **({"channel": "in_app"} | fields),
            )
            for number in range(count)
        ]

    return make


@pytest.fixture(autouse=True)
def quick(settings):
    settings.SQS_WAIT_SECONDS = 0
    settings.NOTIFICATION_RETRY_SECONDS = 0


def states() -> list[str]:
    return list(Notification.objects.order_by("pk").values_list("status", flat=True))


def dead_letters(queue) -> list[str]:
    url = queue.sqs.get_queue_url(QueueName=project_settings.SQS_DEAD_LETTER_QUEUE_NAME)["QueueUrl"]
    answer = queue.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
    return [message["Body"] for message in answer.get("Messages", [])]


def test_the_outbox_is_published_in_tens_and_delivered(owe, queue):
    owe(25)
    assert notifications.notifications_publish() == 25
    assert set(states()) == {"PUBLISHED"}
    assert notifications.queue_drain() == {"delivered": 25, "failed": 0}
    assert set(states()) == {"DELIVERED"}
    assert queue.receive(0) == []


def test_a_second_run_finds_nothing(owe, queue):
    owe(3)
    assert notifications.notifications_publish() == 3
    assert notifications.notifications_publish() == 0
    assert notifications.queue_drain()["delivered"] == 3
    assert notifications.queue_drain() == {"delivered": 0, "failed": 0}


def test_a_repeated_message_delivers_once(owe, queue):
    row, *_ = owe(1)
    for _ in range(3):
        queue.publish([row.pk])
    assert notifications.queue_drain() == {"delivered": 1, "failed": 0}
    row.refresh_from_db()
    delivered_at = row.delivered_at
    queue.publish([row.pk])
    assert notifications.queue_drain() == {"delivered": 0, "failed": 0}
    row.refresh_from_db()
    assert row.delivered_at == delivered_at
    assert queue.receive(0) == []


def test_without_sns_the_outbox_keeps_its_rows_and_says_why(owe, settings):
    settings.AWS_ENDPOINT_URL = f"http://127.0.0.1:{free_port()}"
    owe(12)
    promo_queue.cache_clear()
    with pytest.raises(Exception, match="Could not connect"):
        notifications.notifications_publish()
    assert states() == ["PENDING"] * 12
    assert "Could not connect" in Notification.objects.earliest("pk").last_error
    promo_queue.cache_clear()


def test_what_sns_refuses_waits_with_its_reason(owe, queue, settings):
    owe(12)
    queue.sns.delete_topic(TopicArn=settings.SNS_TOPIC_ARN)
    with pytest.raises(notifications.PublishError, match="12 notifications were not published"):
        notifications.notifications_publish()
    assert states() == ["PENDING"] * 12
    assert "not" in Notification.objects.earliest("pk").last_error.lower()


def test_what_was_published_too_long_ago_is_published_again(owe, queue, settings):
    old = timezone.now() - timedelta(seconds=settings.NOTIFICATION_REPUBLISH_SECONDS + 1)
    owe(2, status="PUBLISHED", published_at=old)
    assert notifications.notifications_requeue_stale() == 2
    assert notifications.notifications_publish() == 2
    assert notifications.notifications_requeue_stale() == 0
    assert notifications.queue_drain()["delivered"] == 2


def test_an_email_goes_out_once(owe, queue):
    (row,) = owe(1, channel="email")
    queue.publish([row.pk])
    queue.publish([row.pk])
    assert notifications.queue_drain()["delivered"] == 1
    (message,) = mail.outbox
    assert message.to == ["shopper0@example.com"]
    assert "60.00" in message.subject
    assert "100.00" in message.body


def test_a_name_with_a_newline_makes_no_header(owe, queue):
    (row,) = owe(1, channel="email")
    row.promo.product.name = "Soap\nBcc: everyone@example.com"
    row.promo.product.save()
    queue.publish([row.pk])
    assert notifications.queue_drain()["delivered"] == 1
    assert "\n" not in mail.outbox[0].subject


def test_a_mail_server_away_for_a_while_delays(owe, queue, settings):
    (row,) = owe(1, channel="email")
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", free_port()
    settings.NOTIFICATION_RETRY_SECONDS = 1
    queue.publish([row.pk])
    assert notifications.queue_drain() == {"delivered": 0, "failed": 1}
    row.refresh_from_db()
    assert (row.status, row.attempts) == ("PUBLISHED", 1)
    assert "refused" in row.last_error
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    settings.SQS_WAIT_SECONDS = 5
    assert notifications.queue_drain() == {"delivered": 1, "failed": 0}


def test_what_cannot_be_delivered_five_times_is_a_dead_letter_and_its_row_says_why(
    owe, queue, settings
):
    (row,) = owe(1, channel="email")
    row.shopper.email = ""
    row.shopper.save()
    assert notifications.notifications_publish() == 1
    assert notifications.queue_drain() == {"delivered": 0, "failed": 5}
    row.refresh_from_db()
    assert (row.status, row.attempts) == ("FAILED", 5)
    assert row.last_error == "The shopper has no e-mail address."
    assert [json.loads(body) for body in dead_letters(queue)] == [{"notification_id": row.pk}]


@pytest.mark.parametrize("body", ["hello", "[]", "{}", '{"notification_id": "1"}', "null"])
def test_an_unreadable_message_is_a_dead_letter(queue, body):
    queue.sqs.send_message(QueueUrl=queue.url, MessageBody=body)
    assert notifications.queue_drain() == {"delivered": 0, "failed": 5}
    assert dead_letters(queue) == [body]


def test_a_message_of_a_row_that_is_gone_is_dropped(queue, db):
    queue.publish([987654])
    assert notifications.queue_drain() == {"delivered": 0, "failed": 0}
    assert queue.receive(0) == []


def test_a_bad_message_holds_up_no_other(owe, queue):
    queue.sqs.send_message(QueueUrl=queue.url, MessageBody="hello")
    owe(3)
    notifications.notifications_publish()
    assert notifications.queue_drain() == {"delivered": 3, "failed": 5}


@pytest.mark.django_db(transaction=True)
def test_publishers_and_drains_at_once_deliver_each_row_once(owe, queue):
    owe(60)

    def run(number: int) -> int:
        try:
            if number % 2:
                return notifications.notifications_publish()
            return notifications.queue_drain()["delivered"]
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))
    notifications.queue_drain()
    assert set(states()) == {"DELIVERED"}


@pytest.mark.django_db(transaction=True)
def test_a_row_in_other_hands_comes_again_later(owe, queue):
    (row,) = owe(1)
    queue.publish([row.pk])
    with connection.cursor() as cursor:
        cursor.execute("BEGIN; SELECT 1 FROM promotions_notification FOR UPDATE")

        def drain_once() -> dict[str, int]:
            try:
                return notifications.queue_drain(seconds=1)
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(drain_once).result()["delivered"] == 0
        cursor.execute("ROLLBACK")
    # Its message was received again and again meanwhile; the stale sweep makes it good.
    Notification.objects.update(status="PENDING")
    notifications.notifications_publish()
    assert notifications.queue_drain()["delivered"] == 1
