"""A simulator of vendor APIs, for tests and for trying things out without an account.

usage: python compose/sandbox

Environment, with defaults:

  SANDBOX_BIND               127.0.0.1:8090; port 0 takes a free one
  PANACCESS_USERNAME         sandbox
  PANACCESS_PASSWORD         sandbox; plain, or the 32 hex digits that a client sends
  PANACCESS_API_TOKEN        sandbox
  PANACCESS_TIME_ZONE        UTC; the zone in which timestamps are told
  SANDBOX_PANACCESS_SECONDS  2; between two records
  SANDBOX_PANACCESS_KEPT     20000; so many of the newest records are there
"""

import os
import re
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import ceil
from urllib.parse import parse_qsl

from answers import Answer, Call, WrongUse, json_answer, whole_number
from panaccess import PanAccess

NAME = "Flash-Promos-Sandbox"
TITLE = f"""\
{NAME}: a simulator of vendor APIs, for tests and for trying things out. Nothing is real.

  curl http://127.0.0.1:8090/healthz
"""
LARGEST_BODY = 64 * 1024
#: More could not be slept between.
DRIPS_A_SECOND = 1000


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], vendors: dict[str, PanAccess]) -> None:
        self.vendors = vendors
        super().__init__(address, Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    #: Head and body leave together.
    wbufsize = -1
    error_content_type = "application/json"
    error_message_format = '{"error": "%(explain)s"}'

    def do_GET(self) -> None:
        if (body := self._body()) is None:
            return
        path, _, query = self.path.partition("?")
        try:
            answer = self._route(path, query, body) or json_answer({"error": "not found"}, 404)
        except WrongUse as error:
            answer = json_answer({"error": str(error)}, 400)
        self._send(answer)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    def _body(self) -> bytes | None:
        """None when it was refused."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch("[0-9]{1,18}", length):
            self.send_error(411, explain="send the body with its Content-Length")
        elif int(length) > LARGEST_BODY:
            # Closed with bytes unread, the connection would take the answer with it.
            self.rfile.read(min(int(length), 16 * LARGEST_BODY))
            self.send_error(413, explain=f"a body may have {LARGEST_BODY} bytes")
        else:
            return self.rfile.read(int(length))
        return None

    def _route(self, path: str, query: str, body: bytes) -> Answer | None:
        if (self.command, path) == ("GET", "/"):
            return _text(_help(self.server.vendors))
        if (self.command, path) == ("GET", "/healthz"):
            return _text("ok\n")
        name, slash, rest = path.removeprefix("/").partition("/")
        if not slash or name not in self.server.vendors:
            return None
        call = Call(self.command, rest, _fields(query), _fields(body.decode(errors="replace")))
        answer = self.server.vendors[name].answer(call)
        if answer and answer.log:
            print(f"{name} {answer.log}\n", end="", flush=True)
        return answer

    def _send(self, answer: Answer) -> None:
        time.sleep(answer.delay)
        if answer.dropped:
            self.close_connection = True
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", f"{answer.type}; charset=utf-8")
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.drip:
            self._drip(answer.body, answer.drip)
        else:
            self.wfile.write(answer.body)

    def _drip(self, body: bytes, seconds: float) -> None:
        """Byte by byte, or a few at once where there are too many for the time."""
        size = ceil(len(body) / (seconds * DRIPS_A_SECOND))
        for start in range(0, len(body), size):
            time.sleep(seconds * size / len(body))
            self.wfile.write(body[start : start + size])
            self.wfile.flush()

    def version_string(self) -> str:
        return NAME

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Vendors say themselves what is worth a line."""


def _fields(text: str) -> dict[str, str]:
    return dict(parse_qsl(text, keep_blank_values=True))


def _text(text: str) -> Answer:
    return Answer(text.encode(), type="text/plain")


def _help(vendors: dict[str, PanAccess]) -> str:
    return "\n".join([TITLE, *(vendor.help() for vendor in vendors.values())])


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (host and colon):
        raise WrongUse(f"SANDBOX_BIND must be host:port, not {text[:80]!r}")
    return host, whole_number("The port of SANDBOX_BIND", port, 0, 65535)


def _server() -> Server:
    bind = os.environ.get("SANDBOX_BIND") or "127.0.0.1:8090"
    try:
        return Server(_address(bind), {"panaccess": PanAccess(os.environ)})
    except (OSError, UnicodeError) as error:
        raise WrongUse(
            f"SANDBOX_BIND must be an address of this machine with a free port, not {bind!r}: "
            f"{error}"
        ) from error


def main() -> int:
    if sys.argv[1:]:
        asked = sys.argv[1:] in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        server = _server()
    except WrongUse as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for end in (signal.SIGTERM, signal.SIGINT):
        # Nothing is kept, so there is nothing to put away; slow answers are not waited for.
        signal.signal(end, lambda *_: os._exit(0))
    host, port = server.server_address[:2]
    print(f"{NAME}, a simulator, listens on http://{host!s}:{port}/", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
