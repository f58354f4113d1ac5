"""The Celery application: `celery -A marketplace worker|beat|flower|inspect|control`."""

import os
import re
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from celery import Celery
from celery.app import utils
from celery.app.backends import BACKEND_ALIASES
from celery.signals import beat_init, setup_logging, task_prerun, worker_process_init
from django.conf import settings
from django.db import close_old_connections
from kombu.transport import TRANSPORT_ALIASES

from marketplace import logs
from marketplace.leases import Lease

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

# Before anybody connects: kombu's own transport and Celery's own backend give way to ours.
TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "marketplace.broker:Transport"))
BACKEND_ALIASES.update(dict.fromkeys(("redis", "rediss"), "marketplace.results:Backend"))

# `inspect conf`, `celery report` and Flower show the settings: a URL or a login may hold a
# password, too, and is masked as what Celery knows to be secret.
_hidden = f"{utils.HIDDEN_SETTINGS.pattern}|URL|LOGIN"  # type: ignore[attr-defined]
utils.HIDDEN_SETTINGS = re.compile(_hidden, re.IGNORECASE)  # type: ignore[attr-defined]


class App(Celery):
    """Celery, whose messages say of secret arguments that there are some.

    Flower, `celery inspect` and the worker's log show what the message's headers say.
    """

    @staticmethod
    def publishing(name: str) -> AbstractContextManager[None]:
        """Surrounds a task's publication; `marketplace.tracing` puts another in its place."""
        return nullcontext()

    def send_task(
        self, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
    ) -> Any:
        from task_manager.entries import representations

        if shown := representations(name, args, kwargs):
            options.setdefault("argsrepr", shown[0])
            options.setdefault("kwargsrepr", shown[1])
        with self.publishing(name):
            return super().send_task(name, args, kwargs, *rest, **options)


app = App("marketplace", task_cls="marketplace.task:Task", control="marketplace.control:Control")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["consumer"].add(Lease)

# As Django does before a request: a connection that PostgreSQL has closed is opened anew.
task_prerun.connect(close_old_connections, dispatch_uid="marketplace.connections")


@setup_logging.connect(weak=False)
def keep_logging(loglevel: int, logfile: str | None, **_: Any) -> None:
    """Celery's programs log as Django's LOGGING says; their --loglevel and --logfile count."""
    logs.follow(loglevel, logfile)
    if app.conf.worker_redirect_stdouts:
        app.log.redirect_stdouts(app.conf.worker_redirect_stdouts_level)


@worker_process_init.connect(weak=False)
@beat_init.connect(weak=False)
def trace(**_: Any) -> None:
    """In what publishes and runs tasks; web processes do it themselves."""
    if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
        from marketplace import tracing

        tracing.start(app)


from marketplace import liveness  # noqa: E402, F401  connects its signal
