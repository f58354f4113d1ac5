"""A client of Redis for each process, which a forked child does not share with its parent."""

import os
from collections.abc import Callable
from typing import TypeVar

from django.conf import settings

T = TypeVar("T")


def per_process(make: Callable[[str], T]) -> Callable[[], T]:
    """`make(url)` once in each process.

    A child that a worker forked must not touch its parent's client: a lock in it, which a thread
    of the parent held at that moment, is held for ever in the child. Nor is that client closed
    there, which would need the lock; so it is kept.
    """
    made: dict[tuple[int, str], T] = {}

    def get() -> T:
        key = os.getpid(), settings.REDIS_URL
        return made.get(key) or made.setdefault(key, make(settings.REDIS_URL))

    return get
