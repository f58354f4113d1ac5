"""Sessions whose page is trusted by where it comes from, so that it needs no CSRF token."""

from drf_spectacular.authentication import SessionScheme
from rest_framework.authentication import SessionAuthentication
from rest_framework.request import Request


class SameOriginSessionAuthentication(SessionAuthentication):
    """Takes what a browser says comes from a page of ours; anything else needs the CSRF token."""

    def enforce_csrf(self, request: Request) -> None:
        if not is_same_origin(request):
            super().enforce_csrf(request)


def is_same_origin(request: Request) -> bool:
    """By the headers of the browser, which no page can set or change."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    # A browser without fetch metadata, or one that does not send it over plain HTTP.
    return request.headers.get("Origin") == f"{request.scheme}://{request.get_host()}"


class SameOriginScheme(SessionScheme):  # type: ignore[no-untyped-call]
    """The session's cookie, as OpenAPI puts it."""

    target_class = "task_manager.api.authentication.SameOriginSessionAuthentication"
    name = "pageAuth"
