"""Django's WSGI handler on a bounded pool of threads, for an ASGI server: `a2wsgi`, of which no
thread is lost to a client that goes away in the middle of a long answer.
"""

from typing import Any

from a2wsgi import WSGIMiddleware
from a2wsgi.wsgi import WSGIResponder


class ClientGone(Exception):
    """Nobody takes the rest of the answer."""


class Threads(WSGIMiddleware):
    """An ASGI application of HTTP alone."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await Responder(self.app, self.executor, self.send_queue_size)(scope, receive, send)


class Responder(WSGIResponder):
    """Its thread waits for room in the queue, which nobody empties once the server gave up."""

    is_over = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.is_over = True
            while not self.send_queue.empty():
                self.send_queue.get_nowait()

    def send(self, message: Any) -> None:
        # A head is taken still: until then Django has not handed over what it wants closed.
        if self.is_over and message["type"] == "http.response.body":
            raise ClientGone
        super().send(message)
