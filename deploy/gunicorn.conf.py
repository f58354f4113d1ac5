"""gunicorn's settings, the same under Compose, systemd and supervisor.

`gunicorn --config deploy/gunicorn.conf.py marketplace.asgi`
"""

import os
import socket
from typing import Any

from marketplace.env import Env

env = Env()

bind = env.text("WEB_BIND", "127.0.0.1:8000")
workers = env.integer("WEB_WORKERS", 2, minimum=1)
worker_class = "asgi"
asgi_lifespan = "off"
# A control socket in the home folder is nothing that anybody here uses.
control_socket_disable = True
reload = env.boolean("WEB_RELOAD", False)
# Heartbeats on memory, not on a disk that may stall.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
graceful_timeout = 30
max_requests = env.integer("WEB_MAX_REQUESTS", 10_000)
max_requests_jitter = max_requests // 10
accesslog = env.text("WEB_ACCESS_LOG") or None
# A proxy of ours says whether the client came by HTTPS, in this header alone.
forwarded_allow_ips = ",".join(env.words("TRUSTED_PROXIES", ["127.0.0.1", "::1"]))
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
# What a WebSocket's client says is unmasked byte by byte; nobody here has much to say.
websocket_max_message_size = 16 * 1024


def when_ready(server: Any) -> None:
    """A connection whose other end takes nothing for a minute is over, also while it is closed."""
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        return
    for listener in server.LISTENERS:
        if listener.sock.family in (socket.AF_INET, socket.AF_INET6):
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)


def post_worker_init(worker: Any) -> None:
    """Live connections end when their process is told to, instead of holding up its stop."""
    from task_manager.services import updates

    updates.is_serving = lambda: worker.alive
