"""A server in PanAccess' place, for what the simulator does not do."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

SESSION = "session-of-the-vendor"


@dataclass
class Reply:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    #: Whether the connection stays open when the body is too short.
    stalls: bool = False


def sound(answer: Any) -> Reply:
    return Reply(json.dumps({"success": True, "answer": answer}).encode())


def refusal(message: Any) -> Reply:
    return Reply(json.dumps({"success": False, "errorMessage": message}).encode())


def entries(records: Any) -> Reply:
    return sound({"telemetryRecordEntries": records})


@dataclass
class Vendor:
    url: str
    #: What it was asked, in this order: the function and its form.
    asked: list[tuple[str, dict[str, str]]]

    @property
    def functions(self) -> list[str]:
        return [function for function, _ in self.asked]


@contextmanager
def vendor(
    listing: Callable[[dict[str, str]], Reply],
    login: Callable[[dict[str, str]], Reply] = lambda form: sound(SESSION),
) -> Iterator[Vendor]:
    """It answers with these, to the form that came."""
    asked: list[tuple[str, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            function = dict(parse_qsl(urlsplit(self.path).query))["f"]
            asked.append((function, form))
            reply = (login if function == "login" else listing)(form)
            self.send_response(reply.status)
            if "Transfer-Encoding" not in reply.headers:
                reply.headers.setdefault("Content-Length", str(len(reply.body)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)
            if reply.stalls:
                self.wfile.flush()
                self.rfile.read(1)  # until the client goes
            self.close_connection = int(reply.headers.get("Content-Length", 0)) > len(reply.body)

        def log_request(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Vendor(f"http://127.0.0.1:{server.server_port}/", asked)
        finally:
            server.shutdown()
            thread.join()
