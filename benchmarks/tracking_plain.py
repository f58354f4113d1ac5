"""Celery as it is installed, with the real settings: nothing of the bundle's own is in it."""

from celery import Celery
from celery.app.backends import BACKEND_ALIASES
from kombu.transport import TRANSPORT_ALIASES

import marketplace  # noqa: F401 - which puts its own in their place

_REDIS = ("redis", "rediss")
TRANSPORT_ALIASES.update(dict.fromkeys(_REDIS, "kombu.transport.redis:Transport"))
BACKEND_ALIASES.update(dict.fromkeys(_REDIS, "celery.backends.redis:RedisBackend"))

app = Celery("plain")
app.config_from_object("django.conf:settings", namespace="CELERY")
