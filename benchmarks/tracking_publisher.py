"""The publisher of one variant, a process that does what each line of its input says.

`workers` counts those that answer; `publish N` calls `delay()` so often and says how many seconds
that took; `consume` lets the worker have what was published, `pause` keeps it from more. The
argument is the module of the Celery application, the worker's own.
"""

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import django
from celery import current_app


def workers() -> int:
    return len(_answers(current_app.control.ping, timeout=1))


def publish(count: str) -> float:
    from benchmarks.tracking_tasks import noop

    start = time.perf_counter()
    for _ in range(int(count)):
        noop.delay()
    return time.perf_counter() - start


def consume() -> int:
    return len(_answers(current_app.control.add_consumer, queue="bench", reply=True, timeout=10))


def pause() -> int:
    return len(_answers(current_app.control.cancel_consumer, queue="bench", reply=True, timeout=10))


def _answers(command: Callable[..., Any], **options: Any) -> list[Any]:
    return command(**options, limit=1) or []


COMMANDS: dict[str, Callable[..., float]] = {
    "workers": workers,
    "publish": publish,
    "consume": consume,
    "pause": pause,
}


def main() -> None:
    import_module(sys.argv[1])
    django.setup()
    for line in sys.stdin:
        name, *arguments = line.split()
        print(COMMANDS[name](*arguments), flush=True)


if __name__ == "__main__":
    main()
