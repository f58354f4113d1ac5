"""Whose word counts for who the client is."""

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from marketplace.proxies import ClientAddressMiddleware


@pytest.fixture(autouse=True)
def _proxies(settings):
    settings.TRUSTED_PROXIES = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("10.1.2.3", "203.0.113.7", "203.0.113.7"),
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("::ffff:127.0.0.1", "203.0.113.7", "203.0.113.7"),
        # Through two proxies of ours.
        ("127.0.0.1", "203.0.113.7, 10.9.9.9", "203.0.113.7"),
        # What the client itself wrote stands before what the proxy saw.
        ("127.0.0.1", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "127.0.0.1, 203.0.113.7", "203.0.113.7"),
        # Nobody but our own.
        ("127.0.0.1", "10.0.0.5", "10.0.0.5"),
        # A stranger's header is worth nothing.
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),
        ("192.168.0.1", "198.51.100.1", "192.168.0.1"),
        # Through a UNIX socket.
        ("", "203.0.113.7", "203.0.113.7"),
        ("", "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        ("", "198.51.100.1, 203.0.113.7, 10.0.0.5", "203.0.113.7"),
        ("", "", "127.0.0.1"),
        ("", "nonsense", "127.0.0.1"),
        # What is no address ends it.
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", "203.0.113.7, unknown, 10.0.0.5", "10.0.0.5"),
        ("127.0.0.1", "203.0.113.7:443", "127.0.0.1"),
        ("127.0.0.1", ",,,", "127.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_that_is_no_proxy(peer, forwarded, client):
    seen = []

    def view(request):
        seen.append((request.META["REMOTE_ADDR"], "HTTP_X_FORWARDED_FOR" in request.META))
        return HttpResponse()

    request = RequestFactory().get("/", REMOTE_ADDR=peer, headers={"x-forwarded-for": forwarded})
    ClientAddressMiddleware(view)(request)
    assert seen == [(client, False)]


def test_without_the_header_the_peer_is_the_client():
    request = RequestFactory().get("/", REMOTE_ADDR="127.0.0.1")
    ClientAddressMiddleware(lambda request: HttpResponse())(request)
    assert request.META["REMOTE_ADDR"] == "127.0.0.1"
