"""The real settings, varied as TRACKING says, for the processes of `benchmarks.tracking`."""

import os

from marketplace.settings import *  # noqa: F403
from marketplace.settings import INSTALLED_APPS

VARIANT = os.environ["TRACKING"]

INSTALLED_APPS = [name for name in INSTALLED_APPS if name != "task_manager"]
CELERY_IMPORTS = ["benchmarks.tracking_tasks"]
CELERY_TASK_ROUTES = {"benchmarks.tracking_tasks.*": {"queue": "bench"}}
CELERY_TASK_QUEUES = {"idle": {}, "bench": {}}
CELERY_TASK_DEFAULT_QUEUE = "bench"
CELERY_TASK_TRACK_STARTED = False
# An acknowledged message is a finished task: so the end of a drain is seen from outside.
CELERY_TASK_ACKS_LATE = True

match VARIANT:
    case "results":
        pass
    case "tracking":
        INSTALLED_APPS.append("task_manager")
    case "django-celery-results":
        INSTALLED_APPS.append("django_celery_results")
        CELERY_RESULT_BACKEND = "django-db"
        CELERY_TASK_TRACK_STARTED = True
    case "orm":
        INSTALLED_APPS.append("task_manager")
        CELERY_IMPORTS.append("benchmarks.tracking_orm")
    case "events":
        CELERY_WORKER_SEND_TASK_EVENTS = True
        CELERY_TASK_SEND_SENT_EVENT = True
    case _:
        raise ValueError(f"TRACKING={VARIANT!r} is no variant")
