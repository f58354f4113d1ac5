"""Whether the ports are free, and else who holds them."""

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

from deploy.embedded.errors import QuickstartError


def check(ports: dict[str, int]) -> None:
    """Raise, in one line, unless every port can be had."""
    problems = {name: problem for name, port in ports.items() if (problem := _problem(port))}
    if problems:
        others = " ".join(f"{name}={_free_near(ports[name])}" for name in problems)
        raise QuickstartError(
            f"{' and '.join(problems.values())}: choose another with {others} scripts/quickstart"
        )


def _problem(port: int) -> str:
    """Why the port cannot be had; empty when it can."""
    with socket.socket() as probe:
        # Connections that a stopped server left in TIME_WAIT are no reason to refuse.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EACCES:
                return f"port {port} is for root alone"
            if error.errno != errno.EADDRINUSE:
                return f"port {port} cannot be used ({error.strerror})"
            who = holder(port)
            return f"port {port} is taken{f' by {who}' if who else ''}"
    return ""


def _free_near(port: int) -> int:
    above = range(max(port, 1024) + 1, 65536)
    return next((candidate for candidate in above if not _problem(candidate)), port)


def holder(port: int) -> str:
    """The name and id of the process that listens, where Linux lets us see it."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if os.readlink(descriptor) in inodes:
                        name = (process / "comm").read_text().strip()
                        return f"{name}, process {process.name}"
    return ""
