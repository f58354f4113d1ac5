"""A stream of visitors of the web: readers, writers and live clients, who never try again."""

import json
import secrets
import threading
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import count
from types import TracebackType

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

#: How a WebSocket is closed by a server that restarts.
RESTART = 1012
#: Seconds that an answer may take while processes start on a busy machine.
PATIENCE = 120
#: Seconds from one task to the next.
PAUSE = 4
#: Seconds that each rests after an answer: what is tested beside them shall have some of the
#: processors.
REST = 0.2
#: As a proxy that speaks HTTPS says.
BY_HTTPS = {"X-Forwarded-Proto": "https"}


@dataclass
class Visitors(AbstractContextManager["Visitors"]):
    """At work while the context lasts, on `host:port`, as a member of the staff.

    Half of them keep their connections, the others open one for each request. What goes wrong
    for anyone of them, such as a connection that is reset, stands in `failures`. A server that ends
    may close a connection that was kept while nothing is under way on it, as HTTP allows: the
    request is then sent on another one, and had the first one been worked on, that of a writer
    would fail, as its name exists. A proxy stays, and so must what is kept to it.
    """

    port: int
    token: str
    cookie: str
    host: str = "127.0.0.1"
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    #: The names of the templates that the writers were told are made.
    made: list[str] = field(default_factory=list)
    #: Whether a proxy stands before the server.
    proxied: bool = False
    #: The name of a template whose task one of them runs every few seconds, if any.
    template: str = ""
    #: The ids of those tasks.
    tasks: list[str] = field(default_factory=list)
    #: How often a live client was sent away and came back.
    returns: int = 0

    def __post_init__(self) -> None:
        self._leaving = threading.Event()
        self._threads = [
            threading.Thread(target=visit, args=(keep,), daemon=True)
            for visit in (self._read, self._write)
            for keep in (True, True, False, False)
        ]
        self._threads.append(threading.Thread(target=self._watch, daemon=True))
        if self.template:
            self._threads.append(threading.Thread(target=self._run_tasks, daemon=True))

    def __enter__(self) -> "Visitors":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def wait_for_more(self, number: int = 50) -> None:
        """Until so many more of each kind were answered."""
        goal = {kind: self.answers[kind] + number for kind in ("GET", "POST")}
        deadline = time.monotonic() + PATIENCE
        while any(self.answers[kind] < least for kind, least in goal.items()):
            assert not self.failures, self.failures[:5]
            assert time.monotonic() < deadline, f"{self.answers} {goal}"
            time.sleep(0.05)

    def wait_for_tasks(self, number: int = 2) -> None:
        """Until so many more tasks were published."""
        goal, deadline = len(self.tasks) + number, time.monotonic() + PATIENCE
        while len(self.tasks) < goal:
            assert not self.failures, self.failures[:5]
            assert time.monotonic() < deadline, self.tasks
            time.sleep(0.05)

    # --- What they do ---
    def _read(self, keep: bool) -> None:
        self._visit("GET", keep)

    def _write(self, keep: bool) -> None:
        self._visit("POST", keep)

    def _visit(self, method: str, keep: bool) -> None:
        http = HTTPConnection(self.host, self.port, timeout=PATIENCE)
        mine = secrets.token_hex(8)
        for number in count():
            if self._leaving.is_set():
                break
            try:
                if method == "GET":
                    self._ask(http, "GET", "/api/promos/", keep=keep)
                else:
                    self._make(http, f"{mine}-{number}", keep=keep)
            except (OSError, HTTPException) as error:
                self.failures.append(f"{method}, keep={keep}: {error!r}")
                http.close()
            self._leaving.wait(REST)
        http.close()

    def _make(self, http: HTTPConnection, name: str, *, keep: bool) -> None:
        body = json.dumps({"name": name, "task_name": "any", "module": "visitors"})
        if self._ask(http, "POST", "/api/tasks/templates/", keep=keep, body=body):
            self.made.append(name)

    def _run_tasks(self) -> None:
        path = f"/api/tasks/templates/{self.template}/run/"
        while not self._leaving.wait(PAUSE):
            http = HTTPConnection(self.host, self.port, timeout=PATIENCE)
            try:
                if answer := self._ask(http, "POST", path, keep=False, body="{}", status=202):
                    self.tasks.append(json.loads(answer)["task_id"])
            except (OSError, HTTPException) as error:
                self.failures.append(f"{path}: {error!r}")
            finally:
                http.close()

    def _ask(
        self,
        http: HTTPConnection,
        method: str,
        path: str,
        *,
        keep: bool,
        body: str | None = None,
        status: int = 0,
    ) -> bytes:
        """The answer; nothing when it is not the one that was expected."""
        headers = BY_HTTPS | {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/json",
        }
        if not keep:
            headers["Connection"] = "close"
        has_rested = http.sock is not None
        try:
            answer = exchange(http, method, path, body, headers)
        except ConnectionError:
            if self.proxied or not has_rested:
                raise
            http.close()
            answer = exchange(http, method, path, body, headers)
        text = answer.read()
        if answer.status != (status or {"GET": 200, "POST": 201}[method]):
            self.failures.append(f"{method}, keep={keep}: {answer.status} {text[:200]!r}")
            return b""
        self.answers[method] += 1
        return text

    def _watch(self) -> None:
        last_id = ""
        while not self._leaving.is_set():
            try:
                last_id = self._follow(last_id)
            except ConnectionClosed as closed:
                if closed.rcvd is None or closed.rcvd.code != RESTART:
                    self.failures.append(f"WebSocket: {closed!r}")
                self.returns += 1
            except (OSError, WebSocketException) as error:
                self.failures.append(f"WebSocket: {error!r}")

    def _follow(self, last_id: str) -> str:
        url = f"ws://{self.host}:{self.port}/ws/tasks/" + (f"?last_id={last_id}" if last_id else "")
        headers = BY_HTTPS | {"Cookie": self.cookie}
        with connect(url, additional_headers=headers, open_timeout=PATIENCE) as client:
            while not self._leaving.is_set():
                try:
                    last_id = json.loads(client.recv(timeout=0.2))["id"]
                except TimeoutError:
                    continue
        return last_id


def exchange(
    http: HTTPConnection, method: str, path: str, body: str | None, headers: dict[str, str]
) -> HTTPResponse:
    http.request(method, path, body, headers)
    return http.getresponse()
