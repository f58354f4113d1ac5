"""Queues that fill are told of, once, to who can do something about it."""

import pytest
from celery import current_app
from django.core import mail

from task_manager.tasks import check_queues

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("broker")]


@pytest.fixture(autouse=True)
def _limits(limit_queues, settings):
    settings.ADMINS = [("", "ops@example.com")]
    limit_queues(default=5, high_priority=5, low_priority=0)


def fill(queue: str, count: int) -> None:
    for _ in range(count):
        current_app.send_task("shop.tasks.pack", queue=queue)


def test_a_filling_queue_is_mailed_and_logged_once(caplog):
    fill("default", 4)
    fill("high_priority", 3)
    fill("low_priority", 9)  # without a bound
    for _ in range(3):
        assert check_queues() == {"default": 4}
    [message] = mail.outbox
    assert message.subject == "[Flash Promos] The queue default is filling"
    assert "holds 4 of the 5 messages that it may (QUEUE_LIMIT)" in message.body
    assert caplog.text.count("'default' holds 4 of the 5") == 1


def test_it_is_told_again_after_the_pause(broker):
    fill("default", 5)
    check_queues()
    broker.delete("task_manager:queue_alert:default")
    check_queues()
    assert len(mail.outbox) == 2


def test_a_mail_that_failed_is_sent_at_the_next_check(settings):
    fill("default", 5)
    settings.EMAIL_BACKEND = "django.core.mail.backends.nothing.EmailBackend"
    with pytest.raises(ImportError):
        check_queues()
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    check_queues()
    assert len(mail.outbox) == 1


def test_queues_with_room_are_no_news():
    fill("default", 3)
    assert check_queues() == {}
    assert not mail.outbox
