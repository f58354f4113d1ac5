"""A real worker and a real beat: what the documents' commands and settings do."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from promotions import tasks
from promotions.models import FlashPromo, Notification
from tests.processes import celery, control, wait_until

pytestmark = [pytest.mark.worker, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "celery.log"


@pytest.fixture(scope="module")
def worker(worker_database, tmp_path_factory) -> Iterator[Path]:
    """A worker for the whole module; its log."""
    log = tmp_path_factory.mktemp("worker") / "celery.log"
    with celery("worker", "--loglevel=info", "--concurrency=2", log=log):
        wait_until(lambda: b" ready." in log.read_bytes(), what="the worker is ready")
        yield log


def opened(promo: FlashPromo) -> bool:
    return FlashPromo.objects.filter(pk=promo.pk, status="ACTIVE").exists()


def test_a_task_called_by_hand_answers(worker, make_promo, make_shopper, queue):
    make_promo(status=FlashPromo.Status.SCHEDULED)
    make_shopper()
    result = tasks.check_active_promos.delay()
    assert result.get(timeout=30) == {"closed": 0, "opened": 1, "notified": 1, "published": 1}
    assert tasks.process_notification_queue.delay().get(timeout=30)["delivered"] == 1
    assert tasks.cleanup_expired_promos.delay().get(timeout=30) == {"removed": 0, "archived": 0}
    assert tasks.release_expired_reservations.delay().get(timeout=30) == {"released": 0}


def test_a_log_line_names_task_and_id(worker):
    result = tasks.release_expired_reservations.delay()
    result.get(timeout=30)
    line = f"promotions.tasks.release_expired_reservations[{result.id}] succeeded"
    # Celery stores the result first.
    wait_until(lambda: line in worker.read_text(), what="the line is in the log")


@pytest.mark.parametrize("command", ["ping", "active", "scheduled", "stats", "conf"])
def test_the_worker_answers_inspect(worker, command):
    answer = control("inspect", command)
    assert answer.returncode == 0, answer.stderr
    assert "1 node online" in answer.stdout


def test_the_pool_restarts_on_command(worker):
    tasks.release_expired_reservations.delay().get(timeout=30)
    answer = control("control", "pool_restart")
    assert answer.returncode == 0, answer.stderr
    assert "reload started" in answer.stdout
    assert tasks.release_expired_reservations.delay().get(timeout=30) == {"released": 0}


def test_beat_and_worker_open_and_deliver_a_promo(
    worker, log, make_promo, make_shopper, queue, tmp_path
):
    alive = tmp_path / "alive"
    make_shopper()
    promo = make_promo(status="SCHEDULED", starts_at=timezone.now() + timedelta(seconds=1))
    with celery(
        "beat",
        "--loglevel=info",
        log=log,
        LIVENESS_FILE=str(alive),
        CHECK_ACTIVE_PROMOS_SECONDS="1",
        PROCESS_NOTIFICATION_QUEUE_SECONDS="1",
    ):
        wait_until(lambda: opened(promo), what="the promo opens")
        wait_until(
            lambda: Notification.objects.filter(status="DELIVERED").count() == 1,
            what="the notification is delivered",
        )
        assert alive.exists()
