"""Tasks that say something, for the tests of what the logs and traces tell of them."""

import logging
from typing import Any

from celery import shared_task
from django.db import connection

from task_manager.utils import enqueue

logger = logging.getLogger(__name__)


@shared_task
def begin(password: str = "") -> None:
    """Sets off two more: one by Celery's own means, one that is promised."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 WHERE %s <> ''", [password])
    logger.info("Begun with password=%s", password)
    print("Printed")
    again.delay()
    enqueue(fail.name, kwargs={"password": password})


@shared_task(bind=True, max_retries=1)
def again(self: Any) -> None:
    if not self.request.retries:
        raise self.retry(countdown=0)
    logger.info("Done at last")


@shared_task
def fail(password: str) -> None:
    raise ValueError(f"no such login: password={password}")
