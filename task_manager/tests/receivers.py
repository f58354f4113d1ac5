"""Servers that receive what notifications send: webhooks over HTTP, e-mails over SMTP."""

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SO_LINGER, SOL_SOCKET
from socketserver import BaseServer, StreamRequestHandler, ThreadingTCPServer
from typing import Any


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    server: "Receiver"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, self.headers, body))
        match self.path.partition("?")[0]:
            case "/fail":
                self.send_error(500)
            case "/redirect":
                self.send_response(302)
                self.send_header("Location", "/ok")
                self.end_headers()
            case "/hang":
                self.server.released.wait(30)
            case "/drip":
                self.drip()
            case "/reset":
                self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "/nonsense":
                self.wfile.write(b"What?\r\n\r\n")
            case "/long":
                self.send_response(200)
                self.send_header("Content-Length", str(2**40))
                self.end_headers()
            case _:
                self.send_response(204)
                self.end_headers()

    def drip(self) -> None:
        """An answer of which each byte comes in time, and the end never."""
        self.send_response_only(200)
        self.flush_headers()
        try:
            while not self.server.released.wait(0.05):
                self.wfile.write(b"x")
        except OSError:
            pass

    def log_message(self, *args: Any) -> None:
        pass


class Receiver(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.received: list[tuple[str, Any, bytes]] = []
        self.released = threading.Event()

    def handle_error(self, *args: Any) -> None:
        """A client that hangs up is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.received]


class Post(StreamRequestHandler):
    """Enough of SMTP. Refuses who is called `refused`, and hangs up at who is called `goodbye`."""

    server: "PostOffice"

    def handle(self) -> None:
        self.server.connections += 1
        self.answer("220 ready")
        while line := self.rfile.readline().decode().lower():
            if line.startswith("rcpt to:<goodbye"):
                return
            if line.startswith("rcpt to:<refused"):
                self.answer("550 no such user")
            elif line.startswith("data"):
                self.answer("354 go on")
                self.server.letters.append(self.letter())
                self.answer("250 taken")
            else:
                self.answer("250 fine")

    def letter(self) -> str:
        return b"".join(iter(self.rfile.readline, b".\r\n")).decode()

    def answer(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class PostOffice(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.connections = 0
        self.letters: list[str] = []
