"""The application with less patience and less room, for tests of both."""

from marketplace.asgi import application
from task_manager.api import live
from task_manager.services import updates

live.BEAT = live.RECHECK = 0.2
updates.MAX_CLIENTS, updates.MAX_CLIENTS_OF_USER = 3, 2
updates.MAX_MISSED = updates.READ = 5

__all__ = ["application"]
