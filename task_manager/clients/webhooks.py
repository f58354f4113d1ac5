"""POSTs to addresses that users chose: signed, bounded in time, and not into the own network.

The address that was checked is the one connected to, so a name that resolves anew gains nothing.
No redirect is followed, no proxy of the environment is used, and nothing of the answer is read
but its head.
"""

import hashlib
import hmac
import io
import ipaddress
import socket
import ssl
import time
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django.conf import settings
from django.utils.encoding import iri_to_uri

#: Seconds for a connection, for each read, and for all once the name is resolved.
CONNECT_SECONDS = 3.0
READ_SECONDS = 5.0
TOTAL_SECONDS = 10.0

_CONNECTIONS = {"http": HTTPConnection, "https": HTTPSConnection}


class WebhookError(Exception):
    """The webhook was not taken."""


class WebhookUnreachable(WebhookError):
    """Nobody answers at that address now."""


class WebhookRefused(WebhookError):
    """Nothing is sent there, and no further try will change that."""


class Target(NamedTuple):
    scheme: str
    host: str
    port: int
    path: str


def post(url: str, body: bytes, *, delivery_id: str) -> None:
    """Send a JSON document; raises WebhookError unless the answer is a 2xx."""
    if not settings.TASK_WEBHOOK_SECRET:
        raise WebhookRefused("TASK_WEBHOOK_SECRET is not set, so the webhook cannot be signed.")
    to = target(url)
    timestamp = str(int(time.time()))
    headers = {
        "Connection": "close",
        "Content-Type": "application/json",
        "User-Agent": "Flash-Promos",
        "X-Flash-Promos-Delivery": delivery_id,
        "X-Flash-Promos-Timestamp": timestamp,
        "X-Flash-Promos-Signature": signature(timestamp, body),
    }
    try:
        status, reason = _exchange(to, body, headers)
    except TimeoutError as error:
        raise WebhookUnreachable(f"{to.host} did not answer in time.") from error
    except OSError as error:
        raise WebhookUnreachable(f"{to.host} could not be reached: {error}") from error
    except HTTPException as error:
        raise WebhookError(f"{to.host} did not answer in HTTP: {error!r}") from error
    if not 200 <= status < 300:
        hint = " Redirects are not followed." if 300 <= status < 400 else ""
        raise WebhookError(f"{to.host} answered {status} {reason[:100]}.{hint}")


def signature(timestamp: str, body: bytes) -> str:
    """What a receiver computes too, to know that we sent it, and when."""
    key = settings.TASK_WEBHOOK_SECRET.encode()
    signed = timestamp.encode() + b"." + body
    return f"sha256={hmac.new(key, signed, hashlib.sha256).hexdigest()}"


def target(url: str) -> Target:
    """Where a URL leads; raises WebhookRefused unless it is plain HTTP or HTTPS."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode()
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise WebhookRefused(f"No URL: {error}") from error
    if parts.scheme not in _CONNECTIONS or not host:
        raise WebhookRefused("Only http:// and https:// URLs with a host are called.")
    if "@" in parts.netloc:
        raise WebhookRefused("URLs with a user or a password are not called.")
    path = parts.path or "/"
    return Target(
        parts.scheme, host, port, iri_to_uri(f"{path}?{parts.query}" if parts.query else path)
    )


# --- The network ---------------------------------------------------------------------------------
#: The public IPv6 internet. Forms that carry an IPv4 address lie outside of it, or in _SPECIAL.
_IPV6 = ipaddress.ip_network("2000::/3")
#: What Python takes for global, or did in one of its versions, and is not, or leads elsewhere.
_SPECIAL = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # protocol assignments, Teredo
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, whatever its notation."""
    ip = ipaddress.ip_address(address)
    return (
        ip.is_global
        and not ip.is_multicast
        and (ip.version == 4 or ip in _IPV6)
        and not any(ip in network for network in _SPECIAL)
    )


def _exchange(to: Target, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    connection = _CONNECTIONS[to.scheme](to.host, to.port)
    connection.sock = _connected(to)
    connection.auto_open = 0  # it never connects by itself, unchecked
    try:
        connection.request("POST", to.path, body, headers)
        response = connection.getresponse()
        return response.status, response.reason
    finally:
        connection.close()


def _connected(to: Target) -> Any:
    found = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
    if not settings.TASK_WEBHOOK_ALLOW_PRIVATE:
        for *_, address in found:
            if not is_public(str(address[0])):
                raise WebhookRefused(f"{to.host} has the address {address[0]}, not a public one.")
    deadline = time.monotonic() + TOTAL_SECONDS
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, address in found:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(_left(deadline, CONNECT_SECONDS))
            sock.connect(address)
            if to.scheme == "https":
                sock.settimeout(_left(deadline, READ_SECONDS))
                sock = _tls().wrap_socket(sock, server_hostname=to.host)
            return _Bounded(sock, deadline)
        except OSError as error:
            sock.close()
            failure = error
    raise failure


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(deadline: float, most: float) -> float:
    left = min(most, deadline - time.monotonic())
    if left <= 0:
        raise TimeoutError
    return left


class _Bounded:
    """A socket as http.client uses it, under a deadline however slowly the other end drips."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.close = sock.close

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(_left(self.deadline, READ_SECONDS))
        self.sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self.sock, self.deadline))


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.sock.settimeout(_left(self.deadline, READ_SECONDS))
        return self.sock.recv_into(buffer)
