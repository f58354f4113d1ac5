"""The ASGI application.

HTTP runs through Django's WSGI handler on a bounded pool of threads: each thread keeps its
database connection, so that a burst of requests waits for a thread instead of exhausting
PostgreSQL. Measured on two cores with one query a request: Django's own ASGI handler, which
opens a connection for each request, served 174 requests a second at 16 clients and failed at
200; this serves about 1,800 to 2,000 at either.

WebSockets are few in their requests and long in their lives: they stay on the event loop, and look
up their session on one thread with one connection.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")

from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path, re_path

from marketplace.threads import Threads

http = Threads(
    get_wsgi_application(),  # type: ignore[arg-type]  # its own, narrower name of the same type
    workers=settings.WEB_THREADS,
)

if settings.OTEL_EXPORTER_OTLP_ENDPOINT:
    from marketplace import tracing
    from marketplace.celery import app

    tracing.start(app)

# These need the applications loaded, which is done by now.
from marketplace.origins import OwnOrigins  # noqa: E402
from marketplace.sessions import live  # noqa: E402
from task_manager.api.live import task_updates  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": http,
        "websocket": OwnOrigins(
            URLRouter(
                [
                    path("ws/tasks/", live(task_updates)),
                    re_path("", WebsocketDenier.as_asgi()),
                ]
            )
        ),
    }
)
