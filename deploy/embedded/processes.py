"""The processes of one embedded system, found without supervisor's help.

A supervisord killed with -9 leaves its children running. Each carries EMBEDDED_DIR in the
environment that it was started with; PostgreSQL and Valkey write over theirs to show a title, so
they are known by their program and the folder they work in.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

#: Set for supervisord and thereby all it starts, so that nobody's shell is taken for a leftover.
MARK = "EMBEDDED_SUPERVISED"
SERVERS = {"postgres": signal.SIGINT, "valkey-server": signal.SIGTERM}


def of_folder(folder: Path) -> list[int]:
    """The ids of every supervisord and program of this folder. Linux alone; elsewhere none."""
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if int(process.name) != os.getpid() and _belongs(process, folder)
    ]


def _belongs(process: Path, folder: Path) -> bool:
    with suppress(OSError):
        if process.stat().st_uid != os.geteuid():
            return False
        variables = (process / "environ").read_bytes().split(b"\0")
        if f"{MARK}=1".encode() in variables:
            return f"EMBEDDED_DIR={folder}".encode() in variables
        return program(process) in SERVERS and Path(os.readlink(process / "cwd")).parent == folder
    return False


def program(process: Path) -> str:
    """The name of the file that runs, also after a new installation replaced it."""
    try:
        return Path(os.readlink(process / "exe").removesuffix(" (deleted)")).name
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return _status(pid)[:1] != ["Z"]


def _status(pid: int) -> list[str]:
    """The state and the parent's id, as Linux tells them."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    return []


def stop(folder: Path, *, grace: float = 10) -> int:
    """End them, politely first; return how many there were."""
    found = of_folder(folder)
    tops = [pid for pid in found if _status(pid)[1:] not in [[str(other)] for other in found]]
    for pid in tops:
        # A pool's children follow their worker; a signal of their own would lose their task.
        with suppress(OSError):
            os.kill(pid, SERVERS.get(program(Path(f"/proc/{pid}")), signal.SIGTERM))
    deadline = time.monotonic() + grace
    while any(map(alive, found)) and time.monotonic() < deadline:
        time.sleep(0.05)
    while remaining := of_folder(folder):
        for pid in remaining:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        if time.monotonic() > deadline + 5:
            break
    return len(found)
