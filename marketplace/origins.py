"""Which pages a browser may open a WebSocket from: the site's own, and no other site's.

Browsers send cookies along with a WebSocket's handshake whatever page asks for it, and say in
`Origin` which page that is. A handshake without one comes from no browser, so no page is behind
it; it passes, and what it may see is decided by its session like everybody's.
"""

from urllib.parse import urlsplit

from asgiref.typing import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, WebSocketScope
from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain


def is_own(origin: str, host: str) -> bool:
    """Whether a page of this origin is ours: on the host and port asked, or a trusted one."""
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    if not parts.netloc or origin.lower() != f"{parts.scheme}://{parts.netloc}":
        return False
    return parts.netloc == host.lower() or any(
        _matches(parts.scheme, parts.netloc, trusted) for trusted in settings.CSRF_TRUSTED_ORIGINS
    )


def _matches(scheme: str, netloc: str, trusted: str) -> bool:
    """As for Django's own check: `https://*.example.com` stands for every subdomain."""
    trusted_scheme, _, trusted_netloc = trusted.lower().partition("://")
    return scheme == trusted_scheme and is_same_domain(netloc, trusted_netloc.lstrip("*"))


class OwnOrigins:
    """Lets a WebSocket's handshake through if host and origin are ours; answers 403 if not."""

    def __init__(self, application: ASGI3Application) -> None:
        self.application = application

    async def __call__(
        self, scope: WebSocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        own = (
            len(hosts) == 1
            and validate_host(split_domain_port(hosts[0])[0], settings.ALLOWED_HOSTS)
            and all(is_own(origin, hosts[0]) for origin in origins)
        )
        await (self.application if own else WebsocketDenier())(scope, receive, send)
