"""The Celery application: `celery -A marketplace worker|beat|flower|inspect|control`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

app = Celery("marketplace")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

from marketplace import liveness  # noqa: E402, F401  connects its signal
