"""Asks the workers, also after Redis was away."""

from typing import Any

from celery.app import control


class Control(control.Control):
    """Celery's own takes a connection that idled in the pool, and if Redis has closed it since, the
    question fails. Here each has a new one; what is published tries again by itself.
    """

    def broadcast(self, command: str, *args: Any, connection: Any = None, **kwargs: Any) -> Any:
        if connection is not None or kwargs.get("channel") is not None:
            return super().broadcast(command, *args, connection=connection, **kwargs)
        with self.app.connection_for_write() as new:
            return super().broadcast(command, *args, connection=new, **kwargs)
