"""`/ws/tasks/`: the updates of one's own tasks, of all for staff, as they happen.

Messages to the client, each a JSON object:

- `{"event": "task_update", "task_id", "state", "progress", "message", "result", "id"}`: `state` is
  the REST API's `status`; a running task's progress is STARTED with another `progress`. What ended
  without a result has why in `message`, and as `{"message": …}` in `result`.
- `{"event": "alive", "id"}`: once the client has all that it missed, and after each
  `BEAT` silent seconds, so that proxies keep the connection and a dead one is noticed.
- `{"event": "resync", "id"}`: there is no telling what the client missed; it is in the REST API.

A client that was disconnected comes back with the last `id` of any message,
`/ws/tasks/?last_id=…`, and is given what came after. One that comes without gets the last two
seconds, too, which the REST API may not show yet: connect first, then fetch, and take updates
that are already known for what they are.

Who is not signed in, or comes from another site's page, is refused with 403. The connection is
closed with 4401 when the session or the user's rights end, 1012 when the server restarts, 1013
when there is no room or Redis is away: come back a little later; 1008 when it talks too much,
since nothing that it says is read.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs

from asgiref.typing import ASGIReceiveCallable, ASGISendCallable
from channels.db import database_sync_to_async
from django.conf import settings
from django.db import Error

from marketplace.sessions import user_of
from task_manager.services import updates

logger = logging.getLogger(__name__)

#: Seconds of silence after which the client is told that the connection lives.
BEAT = 25.0
#: Seconds between two looks whether the client is still signed in.
RECHECK = 60.0
#: Messages that a client may send at once, and one more each second.
MAX_RECEIVED = 60

NOT_SIGNED_IN = 4401
POLICY = 1008


async def task_updates(scope: Any, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """The ASGI application; the scope holds `user` and `cookies`, as Channels sets them."""
    await receive()
    user = scope["user"]
    if not user.is_authenticated:
        await _close(send, POLICY)  # before it is accepted: 403
        return
    query = parse_qs(scope["query_string"].decode("latin-1"))
    last_id = query["last_id"][-1] if "last_id" in query else None
    try:
        with updates.joined(user.pk, sees_all=user.is_staff, last_id=last_id) as client:
            await _accept(send)
            code = await _first(
                client.ended(), _sending(client, send), _receiving(receive), _watching(scope)
            )
    except updates.Unavailable:
        await _accept(send)
        code = updates.TRY_AGAIN
    if code:
        await _close(send, code)


async def _accept(send: ASGISendCallable) -> None:
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})


async def _close(send: ASGISendCallable, code: int) -> None:
    await send({"type": "websocket.close", "code": code, "reason": None})


async def _first(*coroutines: Coroutine[Any, Any, int]) -> int:
    """What the first of these to end returned; the others are cancelled."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        # Again, if need be: while it connects, redis-py may swallow a cancellation.
        while pending := [task for task in tasks if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sending(client: updates.Client, send: ASGISendCallable) -> int:
    try:
        async for text in client.messages(BEAT):
            await send({"type": "websocket.send", "text": text, "bytes": None})
    except updates.Unavailable:
        pass
    return updates.TRY_AGAIN


async def _receiving(receive: ASGIReceiveCallable) -> int:
    """Drops what the client says, until it says too much or is gone."""
    began, count = time.monotonic(), 0
    while (await receive())["type"] == "websocket.receive":
        count += 1
        if count > MAX_RECEIVED + time.monotonic() - began:
            return POLICY
    return 0


async def _watching(scope: Any) -> int:
    """Returns when the session ended, or the user may see less or more than before."""
    while True:
        await asyncio.sleep(RECHECK)
        user = await _user_now(scope)
        if user is not None and (user.pk, user.is_staff) != (
            scope["user"].pk,
            scope["user"].is_staff,
        ):
            return NOT_SIGNED_IN


async def _user_now(scope: Any) -> Any:
    """Whom the session's cookie stands for now; None when PostgreSQL does not say."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    session = store(scope["cookies"][settings.SESSION_COOKIE_NAME])
    try:
        return await database_sync_to_async(user_of)(session)
    except Error as error:
        logger.warning("Whether user %s is still signed in: %s", scope["user"].pk, error)
        return None
