"""The task of `benchmarks.tracking`, and the publisher that is timed."""

import sys
import time

from celery import shared_task


@shared_task
def noop() -> None:
    pass


def publish(count: int) -> float:
    """Call `delay()` so often; the seconds that it took."""
    noop.delay()  # connects
    start = time.perf_counter()
    for _ in range(count - 1):
        noop.delay()
    return time.perf_counter() - start


if __name__ == "__main__":
    import django

    django.setup()
    from benchmarks import tracking_tasks

    print(tracking_tasks.publish(int(sys.argv[1])))
