"""Who asks, when a proxy stands between.

gunicorn believes a trusted proxy's X-Forwarded-Proto; here its X-Forwarded-For becomes the
client's address. Anybody else's is worth nothing: it is a header like any other. Whoever speaks
through a UNIX socket has no address and is trusted, as by gunicorn: the socket's rights decide.
"""

from collections.abc import Callable
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from django.conf import settings
from django.http import HttpRequest, HttpResponse

Address = IPv4Address | IPv6Address
THIS_HOST = IPv4Address("127.0.0.1")


class ClientAddressMiddleware:
    """Makes REMOTE_ADDR the client's, and takes X-Forwarded-For away from whoever reads on."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        forwarded = request.META.pop("HTTP_X_FORWARDED_FOR", "")
        peer = _parsed(request.META.get("REMOTE_ADDR", ""))
        request.META["REMOTE_ADDR"] = str(client_address(peer, forwarded))
        return self.get_response(request)


def client_address(peer: Address | None, forwarded: str) -> Address:
    """The nearest address that is no trusted proxy's; each proxy adds, at the end, whom it saw."""
    address, hops = peer, forwarded.split(",")
    while hops and (address is None or is_trusted(address)):
        seen = _parsed(hops.pop())
        if seen is None:
            break
        address = seen
    return address or THIS_HOST


def is_from_proxy(request: HttpRequest) -> bool:
    """Whether a trusted proxy asks; before `ClientAddressMiddleware` has its say."""
    peer = _parsed(request.META.get("REMOTE_ADDR", ""))
    return peer is None or is_trusted(peer)


def is_trusted(address: Address) -> bool:
    return any(address in network for network in _networks(tuple(settings.TRUSTED_PROXIES)))


@cache
def _networks(texts: tuple[str, ...]) -> list[IPv4Network | IPv6Network]:
    return [ip_network(text) for text in texts]


def _parsed(text: str) -> Address | None:
    try:
        address = ip_address(text.strip())
    except ValueError:
        return None
    # An IPv4 client on a socket of both families.
    return getattr(address, "ipv4_mapped", None) or address
