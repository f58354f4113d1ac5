"""The real web server on the test's own database and Redis, and WebSockets to it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from websockets.sync.client import ClientConnection, connect

from deploy.embedded.servers import free_port
from tests.processes import wait_until


@dataclass
class Web:
    port: int
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"http://{self.host}"

    def workers(self) -> list[int]:
        """The ids of its processes."""
        pid = self.process.pid
        return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        http = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            http.request("GET", "/healthz")
            return http.getresponse().status == 200
        except OSError:
            return False
        finally:
            http.close()

    def connect(
        self,
        user: User | None = None,
        *,
        cookie: str = "",
        last_id: str | None = None,
        headers: dict[str, str] | None = None,
        path: str = "/ws/tasks/",
        **options: Any,
    ) -> ClientConnection:
        """A live client, signed in as the user or by the cookie; to be used with `with`."""
        if user:
            cookie = session_of(user)
        headers = (headers or {}) | ({"Cookie": f"sessionid={cookie}"} if cookie else {})
        query = f"?last_id={last_id}" if last_id is not None else ""
        url = f"ws://{self.host}{path}{query}"
        client: ClientConnection = connect(url, additional_headers=headers, **options)
        return client


def session_of(user: User) -> str:
    client = Client()
    client.force_login(user)
    return client.cookies["sessionid"].value


def events(client: ClientConnection, event: str = "task_update") -> Iterator[dict[str, Any]]:
    """The client's messages of this kind, each waited for."""
    while True:
        message = json.loads(client.recv(timeout=20))
        if message["event"] == event:
            yield message


@contextmanager
def web(
    folder: Path,
    *,
    application: str = "marketplace.asgi",
    project: Path | str | None = None,
    **environ: str,
) -> Iterator[Web]:
    """gunicorn as it runs everywhere; nothing may have gone wrong in it by the end."""
    log, bind = folder / "web.log", environ.get("WEB_BIND")
    port = int(bind.rpartition(":")[2]) if bind else free_port()
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "POSTGRES_DB": str(connection.settings_dict["NAME"]),
        "WEB_BIND": f"127.0.0.1:{port}",
        "WEB_WORKERS": "1",
        "DJANGO_STATIC_ROOT": str(folder),
        "PYTHONWARNINGS": "error",
        **environ,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--config", "deploy/gunicorn.conf.py", application],
            cwd=project,
            env=environment,
            stdout=output,
            stderr=output,
        )
    server = Web(port, process, log)
    try:
        wait_until(server.answers, what="the web answers")
        yield server
    finally:
        process.terminate()
        process.wait(60)
    assert not re.search(r"Traceback|Warning|ERROR|Forcing close", log.read_text()), log.read_text()
