"""Signing in by password, for people and programs alike, and no guessing of passwords.

Wrong passwords count for a while, in Redis, so that all processes know of them:

- of one name from one address, `LOGIN_FAILURES`; signing in forgets them,
- of any names from one address, and of one name from all addresses, `LOGIN_FAILURES_TOTAL`. Where
  a user signed in lately these two do not hold for that user, whom nobody can lock out of there
  by guessing from elsewhere, or for others.

Whoever has too many is refused with 429 before the password is looked at; that neither counts
nor lasts longer for being tried. Names that nobody has are treated alike.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network
from typing import Any

import redis
from django.conf import settings
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext
from redis.backoff import NoBackoff
from redis.retry import Retry
from rest_framework.exceptions import Throttled

from marketplace import sentinel
from marketplace.api import Unavailable, error_response

logger = logging.getLogger(__name__)

PREFIX = "logins:"
#: Seconds for which a user is known at an address after signing in there.
KNOWN_SECONDS = 30 * 86_400
#: Seconds that Redis has for an answer.
TIMEOUT = 2

# Milliseconds until the first counter that is full starts anew; 0 when none is.
_WAIT = """
for i, key in ipairs(KEYS) do
    if tonumber(redis.call('GET', key) or 0) >= tonumber(ARGV[i]) then
        return math.max(redis.call('PTTL', key), 1)
    end
end
return 0
"""
# Each counter starts anew so many seconds after its first failure. Counts when memory is full, too.
_COUNT = """#!lua flags=allow-oom
for _, key in ipairs(KEYS) do
    if redis.call('INCRBY', key, 1) == 1 then redis.call('EXPIRE', key, ARGV[1]) end
end
"""


class TooManyFailures(Throttled):
    def __init__(self, wait: float) -> None:
        super().__init__(wait, gettext("Too many failed attempts to sign in."))


@dataclass(frozen=True)
class Attempt:
    """One attempt's counters and their limits, the narrowest first."""

    counters: dict[str, int]
    #: Set when the attempt succeeds: the user is known at the address.
    known: str = ""

    @classmethod
    def by_password(cls, name: str, address: str) -> "Attempt":
        pair, known = _key("pair", name, address), _key("known", name, address)
        counters = {pair: settings.LOGIN_FAILURES}
        if not _redis(lambda client: client.exists(known)):
            totals = _key("address", address), _key("name", name)
            counters |= dict.fromkeys(totals, settings.LOGIN_FAILURES_TOTAL)
        return cls(counters, known)

    @classmethod
    def by_token(cls, address: str) -> "Attempt":
        return cls({_key("token", address): settings.LOGIN_FAILURES_TOTAL})

    def check(self, address: str) -> None:
        """Raise TooManyFailures when one of the counters is full."""
        keys, limits = [*self.counters], [*self.counters.values()]
        wait = _redis(lambda client: client.register_script(_WAIT)(keys=keys, args=limits))
        if wait:
            logger.warning("Too many failed attempts to sign in from %s", address)
            raise TooManyFailures(wait / 1000)

    def failed(self) -> None:
        period = settings.LOGIN_FAILURES_SECONDS
        _redis(lambda client: client.register_script(_COUNT)(keys=[*self.counters], args=[period]))

    def succeeded(self) -> None:
        pair = next(iter(self.counters))

        def remember(client: "redis.Redis") -> None:
            client.delete(pair)
            client.set(self.known, 1, ex=KNOWN_SECONDS)

        _redis(remember)


class PasswordBackend(ModelBackend):
    """Django's own backend, which looks at no password after too many wrong ones."""

    def authenticate(
        self,
        request: HttpRequest | None,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> User | None:
        if request is None or username is None or password is None:  # nobody from outside
            return super().authenticate(request, username, password, **kwargs)
        address = address_of(request)
        attempt = Attempt.by_password(username, address)
        attempt.check(address)
        user = super().authenticate(request, username, password, **kwargs)
        if user is None:
            attempt.failed()
        else:
            attempt.succeeded()
        return user


class RefusedLoginMiddleware:
    """Answers what a login page outside REST framework refused."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if isinstance(exception, TooManyFailures | Unavailable):
            return error_response(request, exception)
        return None


def address_of(request: HttpRequest) -> str:
    """The client's address; of IPv6 the network, all of which one client has to choose from."""
    address = ip_address(request.META["REMOTE_ADDR"])
    return str(ip_network((address, 64), strict=False) if address.version == 6 else address)


def _key(kind: str, *parts: str) -> str:
    """By a digest: a name may be long, and Redis need not know it."""
    value = "\0".join(parts).encode(errors="replace")
    return f"{PREFIX}{kind}:{salted_hmac(PREFIX, value, algorithm='sha256').hexdigest()}"


def _redis(command: Callable[["redis.Redis"], Any]) -> Any:
    try:
        return command(_client(settings.REDIS_URL))
    except (redis.RedisError, OSError) as error:
        logger.error("Nobody can sign in: %s: %s", type(error).__name__, error)
        raise Unavailable from None


@cache
def _client(url: str) -> "redis.Redis":
    return redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 1),  # the connection may have been closed while nobody signed in
        **sentinel.options(),
    )
