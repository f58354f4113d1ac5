# First, so that every program has the variables of ENV_FILE.
from marketplace import env  # noqa: F401
from marketplace.celery import app as celery_app

__all__ = ["celery_app"]
