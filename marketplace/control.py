"""Asks the workers, also after Redis was away."""

from typing import Any

from celery.app import control


class Control(control.Control):
    """Celery's own takes a connection that idled in the pool, and if Redis has closed it since, the
    question fails. Here each has a new one; what is published tries again by itself.
    """

    def broadcast(self, *args: Any, **options: Any) -> Any:
        if options.get("connection") or options.get("channel"):
            return super().broadcast(*args, **options)
        with self.app.connection_for_write() as connection:
            return super().broadcast(*args, **options | {"connection": connection})
