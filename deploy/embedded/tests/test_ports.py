import os
import socket

import pytest

from deploy.embedded import ports
from deploy.embedded.errors import QuickstartError
from deploy.embedded.servers import free_port


def test_free_ports_pass():
    ports.check({"HOST_PORT_WEB": free_port()})


def test_taken_ports_are_named_in_one_line_with_their_holder():
    with socket.socket() as one, socket.socket() as two:
        for other in (one, two):
            other.bind(("127.0.0.1", 0))
            other.listen()
        first, second = one.getsockname()[1], two.getsockname()[1]
        with pytest.raises(QuickstartError) as caught:
            ports.check({"HOST_PORT_WEB": first, "HOST_PORT_FLOWER": second})
    message = str(caught.value)
    assert f"port {first} is taken by" in message
    assert f"port {second} is taken by" in message
    assert f"process {os.getpid()}" in message
    assert "HOST_PORT_WEB=" in message
    assert "HOST_PORT_FLOWER=" in message
    assert "\n" not in message


def test_listener_on_every_address_counts():
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))  # noqa: S104
        other.listen()
        with pytest.raises(QuickstartError, match="is taken"):
            ports.check({"HOST_PORT_WEB": other.getsockname()[1]})


def test_port_in_time_wait_is_free():
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()
    ports.check({"HOST_PORT_WEB": port})
