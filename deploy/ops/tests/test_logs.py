"""When a line was written, and which lines belong together, of every log that we have."""

import queue
from datetime import UTC, datetime, timedelta

import pytest

from deploy.ops.errors import UsageError
from deploy.ops.logs import moment, ordered, time_of

AT = datetime(2026, 11, 23, 4, 26, 49, tzinfo=UTC)
MILLISECONDS = AT + timedelta(milliseconds=123)


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("[2026-11-23 04:26:49,123: INFO/MainProcess] Task a[b] received", MILLISECONDS),
        ("[2026-11-23 04:26:49 +0000] [7] [INFO] Listening at: http://127.0.0.1:8000", AT),
        ("2026-11-23 04:26:49.123 UTC [7] LOG:  ready to accept connections", MILLISECONDS),
        ("7:M 23 Nov 2026 04:26:49.123 * Ready to accept connections", MILLISECONDS),
        ('127.0.0.1 - - [23/Nov/2026:04:26:49 +0000] "GET / HTTP/1.1" 200', AT),
        ("2026/11/23 04:26:49 [notice] 1#1: start worker processes", AT),
        ('{"time": "2026-11-23T04:26:49.123Z", "level": "INFO"}', MILLISECONDS),
        ("2026-11-23T04:26:49.123  INFO --- [  MainThread] localstack : Ready.", MILLISECONDS),
        ("[2026-11-23 04:61:49,123: INFO/MainProcess] no time at all", None),
        ('  File "tasks.py", line 3, in pack', None),
        ("", None),
    ],
)
def test_the_time_of_a_line(line: str, at: datetime | None) -> None:
    assert time_of(line) == at


def entries(*lines: tuple[str, str]) -> list[tuple[str, str]]:
    """As they are shown: the log and the text of each."""
    read: queue.Queue[tuple[str, str | None]] = queue.Queue()
    logs = list(dict.fromkeys(name for name, _ in lines))
    for line in lines:
        read.put(line)
    for name in logs:
        read.put((name, None))
    return [(entry.log, entry.text) for entry in ordered(read, len(logs), seconds=None)]


def test_entries_of_several_logs_come_in_the_order_of_their_times() -> None:
    first, second, third = (f"[2026-11-23 04:26:4{n},000: INFO/x]" for n in (1, 2, 3))
    assert entries(("web", second), ("worker", first), ("worker", third)) == [
        ("worker", first),
        ("web", second),
        ("worker", third),
    ]


def test_a_traceback_stays_with_its_entry() -> None:
    error, later = "[2026-11-23 04:26:41,000: ERROR/x] Task failed", "[2026-11-23 04:26:42,000]"
    lines = (("worker", error), ("web", later), ("worker", "Traceback:"), ("worker", "  File 1"))
    assert entries(*lines) == [("worker", f"{error}\nTraceback:\n  File 1"), ("web", later)]


def test_a_moment_is_so_long_ago_or_a_time() -> None:
    assert abs(moment("15m") - (datetime.now(UTC) - timedelta(minutes=15))) < timedelta(minutes=1)
    assert moment("2026-11-23T04:26:49") == moment("2026-11-23T05:26:49+01:00") == AT
    with pytest.raises(UsageError, match="--since 5x: give"):
        moment("5x")
