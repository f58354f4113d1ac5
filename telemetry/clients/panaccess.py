"""PanAccess' API: one form-encoded POST a call, an answer in JSON, a session that may end.

A call that gets no sound answer is tried again, after a growing random wait; when calls go on
failing, a circuit that all processes share lets none through for a while.
"""

import json
import logging
import re
import time
from collections.abc import Iterator
from functools import cache
from hashlib import md5
from typing import Any

import orjson
import pybreaker
import redis
import requests
import tenacity
import urllib3
from django.conf import settings

from marketplace import sentinel
from marketplace.masking import MASK

logger = logging.getLogger(__name__)

#: Seconds for a connection; PANACCESS_TIMEOUT_SECONDS are for all of an answer.
CONNECT_SECONDS = 5.0
#: Bytes of an answer; a thousand records have less than one of them.
MAX_BYTES = 32_000_000
#: How often a call is tried, and the waits between, in seconds: a random part of 1, 2, ...
TRIES = 3
WAIT = tenacity.wait_random_exponential(multiplier=1, max=10)
#: So many tries that failed in a row open the circuit, for so many seconds.
CIRCUIT_FAILURES = 5
CIRCUIT_SECONDS = 60

_MD5 = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)


class PanAccessError(Exception):
    """PanAccess refused a call, and would refuse it again."""


class PanAccessAway(PanAccessError):
    """PanAccess did not answer, or not as PanAccess does."""


class SessionEnded(PanAccessError):
    """PanAccess asks for a login."""


def password_hash(password: str) -> str:
    """What a login takes for the password, unless it is that already."""
    if _MD5.fullmatch(password):
        return password.lower()
    return md5(f"{password}_panaccess".encode(), usedforsecurity=False).hexdigest()


class PanAccess:
    """Signed in at the first call, and for as long as it lasts."""

    def __init__(self, wait: Any = None) -> None:
        self._http = requests.Session()
        self._session_id = ""
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES),
            wait=wait or WAIT,
            retry=tenacity.retry_if_exception_type(PanAccessAway),
            before_sleep=_log_retry,
            reraise=True,
        )

    def __enter__(self) -> "PanAccess":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def telemetry_records(self, *, offset: int, limit: int) -> list[Any]:
        """The records from there on by ascending `recordId`, at most 1000, as they come."""
        answer = self.call(
            "getListOfTelemetryRecords",
            offset=offset,
            limit=limit,
            orderBy="recordId",
            orderDir="ASC",
        )
        entries = answer.get("telemetryRecordEntries") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise PanAccessError(
                "getListOfTelemetryRecords: the answer has no list telemetryRecordEntries"
            )
        return entries

    def call(self, function: str, **parameters: Any) -> Any:
        """What PanAccess answers; raises PanAccessError."""
        for is_last in (False, True):
            if not self._session_id:
                self._session_id = self._login()
            try:
                return self._asked(function, {**parameters, "sessionId": self._session_id})
            except SessionEnded as error:
                self._session_id = ""
                if is_last:
                    raise PanAccessError(f"{error}, and again after a new login") from error
                logger.info("%s; logging in again", error)
        raise AssertionError  # the loop returns or raises

    def _login(self) -> str:
        if not settings.PANACCESS_USERNAME or not settings.PANACCESS_PASSWORD:
            raise PanAccessError("PANACCESS_USERNAME and PANACCESS_PASSWORD must both be set")
        try:
            session_id = self._asked(
                "login",
                {
                    "username": settings.PANACCESS_USERNAME,
                    "password": password_hash(settings.PANACCESS_PASSWORD),
                    "apiToken": settings.PANACCESS_API_TOKEN,
                },
            )
        except SessionEnded as error:
            raise PanAccessError(str(error)) from error
        if not (session_id and isinstance(session_id, str)):
            raise PanAccessError("login: the answer is no session id")
        logger.info("Logged in")
        return session_id

    def _asked(self, function: str, parameters: dict[str, Any]) -> Any:
        try:
            answer = self._retrying(circuit().call, self._post, function, parameters)
        except pybreaker.CircuitBreakerError:
            raise PanAccessAway(
                f"{function}: not tried, since PanAccess failed {CIRCUIT_FAILURES} times in a row "
                f"within the last {CIRCUIT_SECONDS} s"
            ) from None
        if answer.get("success") is True:
            return answer.get("answer")
        message = str(answer.get("errorMessage") or "no reason given")
        ended = re.search("session|logged", message, re.IGNORECASE)
        raise (SessionEnded if ended else PanAccessError)(
            f"{function}: {_harmless(message, parameters)}"
        )

    def _post(self, function: str, parameters: dict[str, Any]) -> dict[str, Any]:
        """One try; raises PanAccessAway where another may help."""
        start = time.monotonic()
        try:
            with self._http.post(
                settings.PANACCESS_URL,
                params={"f": function, "requestMode": "function"},
                data=parameters,
                timeout=(CONNECT_SECONDS, settings.PANACCESS_TIMEOUT_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as response:
                _check_status(function, response)
                body = b"".join(_bounded(response, start + settings.PANACCESS_TIMEOUT_SECONDS))
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            raise PanAccessAway(f"{function}: {_reason(error)}") from None
        answer = _decoded(function, body)
        took = time.monotonic() - start
        logger.info("%s%s: %d bytes in %.2f s", function, _shown(parameters), len(body), took)
        return answer


# --- The answer ----------------------------------------------------------------------------------
def _check_status(function: str, response: requests.Response) -> None:
    status = response.status_code
    if status >= 500 or status == requests.codes.too_many_requests:
        raise PanAccessAway(f"{function}: HTTP {status}")
    if status != requests.codes.ok:
        raise PanAccessError(f"{function}: HTTP {status}; is PANACCESS_URL right?")


def _bounded(response: requests.Response, deadline: float) -> Iterator[bytes]:
    """The body, however slowly it comes, in time and not too long."""
    length = 0
    # `iter_content` would wait for a whole piece.
    while piece := response.raw.read1(65_536, decode_content=True):
        length += len(piece)
        if length > MAX_BYTES:
            raise PanAccessError(f"the answer is longer than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise requests.Timeout
        yield piece


def _decoded(function: str, body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except ValueError:
        # It refuses a whole answer for one text that is no Unicode.
        try:
            answer = json.loads(body.decode(errors="replace"))
        except (ValueError, RecursionError):
            raise PanAccessAway(f"{function}: the answer is no JSON") from None
    if not isinstance(answer, dict):
        raise PanAccessAway(f"{function}: the answer is no JSON object")
    return answer


def _reason(error: Exception) -> str:
    """Without address and object ids, which the error's own text has."""
    if isinstance(error, requests.ConnectTimeout):
        return f"no connection within {CONNECT_SECONDS:g} s"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return f"no whole answer within {settings.PANACCESS_TIMEOUT_SECONDS:g} s"
    return f"no answer ({type(error).__name__})"


# --- What is logged ------------------------------------------------------------------------------
#: Of the parameters.
_SHOWN = ("offset", "limit")
_CREDENTIALS = ("username", "password", "apiToken", "sessionId")


def _shown(parameters: dict[str, Any]) -> str:
    shown = [f"{name}={parameters[name]}" for name in _SHOWN if name in parameters]
    return f" {' '.join(shown)}" if shown else ""


def _harmless(message: str, parameters: dict[str, Any]) -> str:
    """PanAccess' own words on one line, without the credentials that it may repeat."""
    for value in filter(None, map(parameters.get, _CREDENTIALS)):
        message = message.replace(value, MASK)
    return "".join(char if char.isprintable() else " " for char in message)[:500]


def _log_retry(state: tenacity.RetryCallState) -> None:
    error = state.outcome and state.outcome.exception()
    wait = state.next_action.sleep if state.next_action else 0
    logger.warning("%s; trying again in %.1f s", error, wait)


# --- The circuit ---------------------------------------------------------------------------------
class _LogCircuit(pybreaker.CircuitBreakerListener):
    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        logger.warning("The circuit to PanAccess is %s", new_state.name)


@cache
def circuit() -> pybreaker.CircuitBreaker:
    """Kept in Redis, so that all workers know of it."""
    client = redis.Redis.from_url(
        settings.REDIS_URL, **settings.REDIS_OPTIONS, **sentinel.options()
    )
    return pybreaker.CircuitBreaker(
        fail_max=CIRCUIT_FAILURES,
        reset_timeout=CIRCUIT_SECONDS,
        exclude=[lambda error: not isinstance(error, PanAccessAway)],
        listeners=[_LogCircuit()],
        state_storage=pybreaker.CircuitRedisStorage(
            pybreaker.STATE_CLOSED, client, namespace="panaccess"
        ),
        name="panaccess",
        throw_new_error_on_trip=False,
    )
