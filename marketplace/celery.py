"""The Celery application: `celery -A marketplace worker|beat|flower|inspect|control`."""

import os
import re
from typing import Any

from celery import Celery
from celery.app import utils
from celery.app.backends import BACKEND_ALIASES
from celery.signals import after_setup_logger, after_setup_task_logger, task_prerun
from django.db import close_old_connections
from kombu.transport import TRANSPORT_ALIASES

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

    def send_task(
        self, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any
    ) -> Any:
        from task_manager.entries import representations

        if shown := representations(name, args, kwargs):
            options.setdefault("argsrepr", shown[0])
            options.setdefault("kwargsrepr", shown[1])
        return super().send_task(name, args, kwargs, *rest, **options)


app = App("marketplace", task_cls="marketplace.task:Task", control="marketplace.control:Control")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.steps["consumer"].add(Lease)

# As Django does before a request: a connection that PostgreSQL has closed is opened anew.
task_prerun.connect(close_old_connections, dispatch_uid="marketplace.connections")


@after_setup_logger.connect(weak=False)
@after_setup_task_logger.connect(weak=False)
def hide_secrets(logger: Any, **_: Any) -> None:
    """In the log of a worker and of beat, which Celery writes by handlers of its own."""
    from marketplace.masking import mask_handlers

    mask_handlers(logger)


from marketplace import liveness  # noqa: E402, F401  connects its signal
