"""Redis behind Sentinel: every new connection goes to the one that is the master by then.

Whatever kind of client it is, kombu's, Celery's, RedBeat's or one of ours, it connects by one of
these classes, and finds the new master as it would find a Redis that was started anew.
"""

from typing import Any, NoReturn

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Seconds in which a sentinel must answer.
TIMEOUT = 1.0

#: What a Redis says that is no longer the master, or may not be it any more because its replicas
#: cannot be reached: what it would take now could be lost.
_NO_MASTER = ("NOREPLICAS", "UNBLOCKED", "MASTERDOWN")


def options() -> dict[str, Any]:
    """For a client of Redis."""
    return {"connection_class": MasterConnection} if settings.REDIS_SENTINELS else {}


def async_options() -> dict[str, Any]:
    return {"connection_class": AsyncMasterConnection} if settings.REDIS_SENTINELS else {}


def _login(retry: type) -> dict[str, Any]:
    """One that does not answer at once is not asked again: there are others."""
    return {
        "retry": retry(NoBackoff(), 0),
        "username": settings.REDIS_USER,
        "password": settings.REDIS_PASSWORD,
        "socket_timeout": TIMEOUT,
        "socket_connect_timeout": TIMEOUT,
    }


class MasterConnection(redis.Connection):
    def _connect(self) -> Any:
        sentinel = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
            settings.REDIS_SENTINELS, sentinel_kwargs=_login(Retry)
        )
        try:
            self.host, self.port = sentinel.discover_master(  # type: ignore[no-untyped-call]
                settings.REDIS_SENTINEL_MASTER
            )
        finally:
            for client in sentinel.sentinels:
                client.close()
        return super()._connect()  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except redis.ResponseError as error:
            if not _is_of_no_master(error):
                raise
            self.disconnect()  # type: ignore[no-untyped-call]
            _raise_lost(error)


class AsyncMasterConnection(redis.asyncio.Connection):
    async def _connect(self) -> None:
        sentinel = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
            settings.REDIS_SENTINELS, sentinel_kwargs=_login(AsyncRetry)
        )
        try:
            self.host, self.port = await sentinel.discover_master(settings.REDIS_SENTINEL_MASTER)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()
        await super()._connect()  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().read_response(*args, **kwargs)
        except redis.ResponseError as error:
            if not _is_of_no_master(error):
                raise
            await self.disconnect()
            _raise_lost(error)


def _is_of_no_master(error: redis.ResponseError) -> bool:
    return isinstance(error, redis.exceptions.ReadOnlyError) or str(error).startswith(_NO_MASTER)


def _raise_lost(error: redis.ResponseError) -> NoReturn:
    """As a lost connection, after which everybody connects anew."""
    raise redis.ConnectionError(f"This Redis is not the master: {error}") from error
