"""Webhooks against real servers: signed, bounded, and never into the own network."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.embedded.servers import free_port
from task_manager.clients import webhooks
from task_manager.clients.webhooks import WebhookError, WebhookRefused, WebhookUnreachable
from task_manager.tests.receivers import Receiver


@pytest.fixture
def resolve(monkeypatch):
    """Let every name have this address, once."""

    def once(address: str) -> None:
        answers = [address]
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *args, **kwargs: real(answers.pop(), *args, **kwargs),
        )

    return once


def send(url: str, document: Any = None) -> None:
    webhooks.post(url, json.dumps(document).encode(), delivery_id="7")


def test_a_webhook_carries_a_signature_that_the_receiver_can_verify(receiver):
    before = int(time.time())
    send(f"{receiver.url}/ok?a=ñ b", {"event": "start"})
    ((path, headers, body),) = receiver.received
    assert path == "/ok?a=%C3%B1%20b"
    assert json.loads(body) == {"event": "start"}
    timestamp = headers["X-Flash-Promos-Timestamp"]
    assert before <= int(timestamp) <= time.time()
    assert headers["X-Flash-Promos-Signature"] == webhooks.signature(timestamp, body)
    assert headers["X-Flash-Promos-Delivery"] == "7"
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"127.0.0.1:{receiver.server_port}"


def test_the_signature_is_the_documented_one(settings):
    settings.TASK_WEBHOOK_SECRET = "key"
    # printf '1700000000.{}' | openssl dgst -sha256 -hmac key
    assert webhooks.signature("1700000000", b"{}") == (
        "sha256=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    )


def test_another_secret_gives_another_signature(settings):
    settings.TASK_WEBHOOK_SECRET = "one"
    one = webhooks.signature("1", b"{}")
    settings.TASK_WEBHOOK_SECRET = "two"
    assert webhooks.signature("1", b"{}") != one


def test_without_a_secret_nothing_is_sent(receiver, settings):
    settings.TASK_WEBHOOK_SECRET = ""
    with pytest.raises(WebhookRefused, match="TASK_WEBHOOK_SECRET is not set"):
        send(f"{receiver.url}/ok")
    assert receiver.received == []


def test_an_error_of_the_receiver_is_told(receiver):
    with pytest.raises(WebhookError, match="answered 500 Internal Server Error"):
        send(f"{receiver.url}/fail")


def test_a_redirect_is_not_followed(receiver):
    with pytest.raises(WebhookError, match=r"302 Found\. Redirects are not followed"):
        send(f"{receiver.url}/redirect")
    assert receiver.paths == ["/redirect"]


@pytest.mark.parametrize("path", ["/hang", "/drip"])
def test_an_answer_that_does_not_end_is_given_up(receiver, monkeypatch, path):
    monkeypatch.setattr(webhooks, "READ_SECONDS", 0.2)
    monkeypatch.setattr(webhooks, "TOTAL_SECONDS", 0.5)
    with pytest.raises(WebhookUnreachable, match="did not answer in time"):
        send(f"{receiver.url}{path}")


def test_a_long_answer_is_not_read(receiver):
    send(f"{receiver.url}/long")
    assert receiver.paths == ["/long"]


def test_an_answer_that_is_no_http_is_an_error(receiver):
    with pytest.raises(WebhookError, match="did not answer in HTTP: BadStatusLine"):
        send(f"{receiver.url}/nonsense")


def test_a_connection_that_breaks_is_told(receiver):
    with pytest.raises(WebhookUnreachable, match="reset by peer"):
        send(f"{receiver.url}/reset")


def test_nobody_listening_is_unreachable(receiver):
    with pytest.raises(WebhookUnreachable, match="refused"):
        send(f"http://127.0.0.1:{free_port()}/")


def test_an_unknown_host_is_unreachable(receiver):
    with pytest.raises(WebhookUnreachable, match="could not be reached"):
        send("http://nowhere.invalid/")


def test_a_proxy_of_the_environment_is_not_used(receiver, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    send(f"{receiver.url}/ok")
    assert receiver.paths == ["/ok"]


# --- The own network ------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1"])
def test_the_own_machine_is_not_called_however_it_is_written(receiver, settings, host):
    settings.TASK_WEBHOOK_ALLOW_PRIVATE = False
    with pytest.raises(WebhookRefused, match="not a public one"):
        send(f"http://{host}:{receiver.server_port}/ok")
    assert receiver.received == []


def test_a_name_with_a_private_address_is_not_called(receiver, settings, resolve):
    settings.TASK_WEBHOOK_ALLOW_PRIVATE = False
    resolve("10.0.0.8")
    with pytest.raises(WebhookRefused, match=r"rebind\.example has the address 10\.0\.0\.8"):
        send("http://rebind.example/")


def test_a_name_is_resolved_once_so_that_what_was_checked_is_called(receiver, resolve):
    resolve("127.0.0.1")
    send(f"http://rebind.example:{receiver.server_port}/ok")
    ((_, headers, _),) = receiver.received
    assert headers["Host"] == f"rebind.example:{receiver.server_port}"


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::8.8.8.8",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::1",
        "100::1",
        "2001::7f00:1",
        "2001:20::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%1",
        "fec0::1",
        "ff0e::1",
    ],
)
def test_this_is_no_public_address(address):
    assert not webhooks.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "2a00:1450::5"])
def test_this_is_a_public_address(address):
    assert webhooks.is_public(address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/", "Only http"),
        ("file:///etc/passwd", "Only http"),
        ("//example.com/", "Only http"),
        ("example.com", "Only http"),
        ("http:///path", "Only http"),
        ("", "Only http"),
        ("http://user:password@example.com/", "a user or a password"),
        ("http://example.com:70000/", "Port out of range"),
        ("http://[::1/", "Invalid IPv6"),
        (f"http://{'a' * 64}.example/", "too long"),
    ],
)
def test_what_is_no_plain_url_is_not_called(url, reason):
    with pytest.raises(WebhookRefused, match=reason):
        webhooks.target(url)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", ("http", "example.com", 80, "/")),
        ("HTTPS://Example.com/Tasks", ("https", "example.com", 443, "/Tasks")),
        ("https://ñandú.example:8443/?q=1#part", ("https", "xn--and-6ma2c.example", 8443, "/?q=1")),
        ("http://[2606:4700::1111]/a b", ("http", "2606:4700::1111", 80, "/a%20b")),
    ],
)
def test_a_url_leads_there(url, target):
    assert webhooks.target(url) == target


# --- TLS -----------------------------------------------------------------------------------------
@pytest.fixture
def secure(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The receiver with a trusted certificate for hooks.example; what names clients ask for."""
    certificate = _certificate("hooks.example", tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asked: list[str] = []
    context.sni_callback = lambda sock, name, context: asked.append(name)
    receiver.socket = context.wrap_socket(
        receiver.socket, server_side=True, do_handshake_on_connect=False
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    webhooks._tls.cache_clear()
    yield asked
    webhooks._tls.cache_clear()


def _certificate(host: str, folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_https_asks_for_the_host_by_name_at_the_checked_address(receiver, secure, resolve):
    resolve("127.0.0.1")
    send(f"https://hooks.example:{receiver.server_port}/ok")
    assert secure == ["hooks.example"]
    assert receiver.paths == ["/ok"]


def test_a_certificate_of_another_host_is_refused(receiver, secure, resolve):
    resolve("127.0.0.1")
    with pytest.raises(WebhookUnreachable, match="Hostname mismatch"):
        send(f"https://other.example:{receiver.server_port}/ok")
    assert receiver.received == []
