"""gunicorn's settings, the same under Compose, systemd and supervisor.

`gunicorn --config deploy/gunicorn.conf.py marketplace.asgi`

HUP starts new processes with the code as it is now, while the old ones answer what they have.
"""

import asyncio
import logging
import os
import runpy
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from logging.config import dictConfig
from pathlib import Path
from typing import Any

from gunicorn import glogging
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.systemd import sd_notify

from deploy import web_socket

# By their paths: the processes that a HUP starts have from this one what it has imported, and their
# package imports Celery and more.
PACKAGE = Path(__file__).parent.parent / "marketplace"
env = runpy.run_path(str(PACKAGE / "env.py"))["Env"]()
logs = runpy.run_path(str(PACKAGE / "logs.py"))

bind = [env.text("WEB_BIND", "127.0.0.1:8000")]
# Where several webs on one host meet, each with a socket of its own; empty: there is one web.
socket_dir = env.text("WEB_SOCKET_DIR")
if socket_dir:
    bind.append(f"unix:{web_socket.own(Path(socket_dir))}")
workers = env.integer("WEB_WORKERS", 2, minimum=1)
worker_class = "asgi"
asgi_lifespan = "off"
# A control socket in the home folder is nothing that anybody here uses.
control_socket_disable = True
reload = env.boolean("WEB_RELOAD", False)
# Heartbeats on memory, not on a disk that may stall.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
graceful_timeout = 30
# One request a connection: gunicorn may close one that it has promised to keep when it is told to
# stop, or replaces a process, and the next request on it fails. The proxy keeps its clients'.
keepalive = 0
# Connections that wait to be accepted.
backlog = 2048
max_requests = env.integer("WEB_MAX_REQUESTS", 10_000)
max_requests_jitter = max_requests // 10
accesslog = env.text("WEB_ACCESS_LOG") or None
liveness_file = env.text("LIVENESS_FILE")
access_log_format = (
    '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %({x-request-id}o)s'
)
# A proxy of ours says whether the client came by HTTPS, in this header alone.
forwarded_allow_ips = ",".join(env.words("TRUSTED_PROXIES", ["127.0.0.1", "::1"]))
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
# What a WebSocket's client says is unmasked byte by byte; nobody here has much to say.
websocket_max_message_size = 16 * 1024


class logger_class(glogging.Logger):  # type: ignore[misc]  # noqa: N801  gunicorn's setting
    """Writes as the rest does; requests go where WEB_ACCESS_LOG says."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        configuration = logs["configuration"](env, "web")
        dictConfig(configuration)
        self.access_log.addFilter(_note_request)
        if env.text("LOG_FORMAT") == "json":
            for handler in self.access_log.handlers:
                handler.setFormatter(logs["JSONFormatter"]("web"))


def _note_request(record: logging.LogRecord) -> bool:
    if isinstance(record.args, dict):
        record.request_id = record.args.get("{x-request-id}o", "")
    return True


def when_ready(server: Any) -> None:
    """A connection whose other end takes nothing for a minute is over, also while it is closed."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for listener in server.LISTENERS:
            if listener.sock.family in (socket.AF_INET, socket.AF_INET6):
                listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    if socket_dir and not web_socket.is_served(Path(socket_dir)):
        web_socket.take(Path(socket_dir))
    show_life_of(server)


def show_life_of(server: Any) -> None:
    """Each second gunicorn ends those of its processes that hang; who looks after gunicorn itself
    sees by LIVENESS_FILE, or hears by systemd's socket, that it does."""
    murder_workers = server.murder_workers

    def murder_and_show() -> None:
        murder_workers()
        if liveness_file:
            with suppress(OSError):
                Path(liveness_file).touch()
        sd_notify("WATCHDOG=1", server.log)

    server.murder_workers = murder_and_show


def post_fork(server: Any, worker: Any) -> None:
    """What `Env` brought along is imported anew, too."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "django"]:
        del sys.modules[name]


def post_worker_init(worker: Any) -> None:
    """Live connections end when their process is told to, instead of holding up its stop."""
    from marketplace.masking import mask_handlers
    from task_manager.services import updates

    mask_handlers(worker.log.access_log)
    updates.is_serving = lambda: worker.alive
    create_server = worker.loop.create_server

    async def listen(_: Any, **options: Any) -> Listener:
        # asyncio would make the queue of connections one of 100.
        return Listener(await create_server(lambda: Connection(worker), backlog=backlog, **options))

    worker.loop.create_server = listen


class Connection(ASGIProtocol):  # type: ignore[misc]
    """One on which nothing was said does not hold up its process' stop.

    gunicorn waits for its first word without end, and a browser opens some that it may need.
    """

    #: Seconds between two looks.
    PERIOD = 2
    has_spoken = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look_later()

    def data_received(self, data: bytes) -> None:
        self.has_spoken = True
        super().data_received(data)

    def _look_later(self) -> None:
        self.worker.loop.call_later(self.PERIOD, self._look)

    def _look(self) -> None:
        if self.has_spoken or self.transport.is_closing():
            return
        if self.worker.alive:
            self._look_later()
        else:
            self.transport.close()


class Listener:
    """A server whose last connections are among those that its process answers."""

    def __init__(self, server: asyncio.Server) -> None:
        self.close: Callable[[], None] = server.close

    async def wait_closed(self) -> None:
        # Of what it has accepted asyncio makes a connection some turns later. gunicorn counts
        # those at once, and leaves when there are none.
        for _ in range(10):
            await asyncio.sleep(0)
