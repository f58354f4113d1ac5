"""The real settings, varied as TRACKING says, for the processes of `benchmarks.tracking`."""

import os

from marketplace.settings import *  # noqa: F403
from marketplace.settings import INSTALLED_APPS

VARIANT = os.environ["TRACKING"]
VARIANTS = ("results", "plain", "task-manager", "django-celery-results", "orm", "events")
if VARIANT not in VARIANTS:
    raise ValueError(f"TRACKING={VARIANT!r} is none of {', '.join(VARIANTS)}")

CELERY_IMPORTS = ["benchmarks.tracking_tasks"]
CELERY_TASK_ROUTES = {"benchmarks.tracking_tasks.*": {"queue": "bench"}}
# The worker starts on `idle`, and has `bench` only while it is measured.
CELERY_TASK_QUEUES = {"idle": {}, "bench": {}}
CELERY_TASK_DEFAULT_QUEUE = "bench"
CELERY_TASK_TRACK_STARTED = VARIANT == "django-celery-results"
# An acknowledged message is a finished task: so the end of a drain is seen from outside.
CELERY_TASK_ACKS_LATE = True

if VARIANT != "task-manager":
    _tables = "benchmarks.tracking_orm." + ("Writes" if VARIANT == "orm" else "Tables")
    INSTALLED_APPS = [_tables if app == "task_manager" else app for app in INSTALLED_APPS]
if VARIANT == "plain":
    CELERY_WORKER_CONSUMER = "celery.worker.consumer:Consumer"
if VARIANT == "django-celery-results":
    INSTALLED_APPS = [*INSTALLED_APPS, "django_celery_results"]
    CELERY_RESULT_BACKEND = "django-db"
if VARIANT == "events":
    CELERY_WORKER_SEND_TASK_EVENTS = True
    CELERY_TASK_SEND_SENT_EVENT = True
