"""The Celery application: `celery -A marketplace worker|beat|flower|inspect|control`."""

import os

from celery import Celery
from celery.signals import task_prerun
from django.db import close_old_connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

app = Celery("marketplace")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

# As Django does before a request: a connection that PostgreSQL has closed is opened anew.
task_prerun.connect(close_old_connections, dispatch_uid="marketplace.connections")

from marketplace import liveness  # noqa: E402, F401  connects its signal
