"""supervisor's listener, which restarts what hangs.

Each program of ours touches RUN_DIR/NAME.alive while it lives. One that has not for
WATCHDOG_SECONDS is told by ABRT to say in its log where it stands, and killed when that does not
end it; supervisor starts it again. systemd, where it runs, is told that supervisor itself goes on.
"""

import logging
import os
import re
import sys
import time
import xmlrpc.client
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from gunicorn.systemd import sd_notify
from supervisor import childutils

logger = logging.getLogger(__name__)

OURS = re.compile(r"(web|worker|beat|flower)(-\d+)?")


class Sign(NamedTuple):
    pid: int
    #: When its file was touched, in ns; 0: not yet.
    touched: int


class Watchdog:
    def __init__(self, supervisor: Any, folder: Path, limit: float) -> None:
        self.supervisor = supervisor
        self.folder = folder
        self.limit = limit
        #: By program, its last sign of life and when it was seen, by a clock that nobody sets.
        self.seen: dict[str, tuple[Sign, float]] = {}
        #: The processes that had their ABRT.
        self.told: set[int] = set()

    def look(self) -> None:
        now = time.monotonic()
        for facts in self.supervisor.getAllProcessInfo():
            name, pid = facts["name"], facts["pid"]
            if not OURS.fullmatch(name) or facts["statename"] != "RUNNING":
                continue
            sign = Sign(pid, self._touched(name))
            last, since = self.seen.get(name, (None, now))
            if sign != last:
                self.seen[name] = sign, now
            elif now - since > self.limit:
                self._end(name, pid)

    def _touched(self, name: str) -> int:
        try:
            return (self.folder / f"{name}.alive").stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _end(self, name: str, pid: int) -> None:
        signals = ("KILL",) if pid in self.told else ("ABRT", "CONT")
        self.told.add(pid)
        print(
            f"{time.ctime()}: {name} ({pid}) has shown no sign of life for {self.limit:g} s: "
            f"{signals[0]}",
            file=sys.stderr,
            flush=True,
        )
        for signal in signals:
            with suppress(xmlrpc.client.Fault):  # it has ended by itself
                self.supervisor.signalProcess(name, signal)


def main() -> None:
    environ = os.environ
    supervisor = childutils.getRPCInterface(environ).supervisor
    watchdog = Watchdog(supervisor, Path(environ["RUN_DIR"]), float(environ["WATCHDOG_SECONDS"]))
    while True:
        childutils.listener.wait()
        watchdog.look()
        sd_notify("WATCHDOG=1", logger)
        childutils.listener.ok()


if __name__ == "__main__":
    main()
