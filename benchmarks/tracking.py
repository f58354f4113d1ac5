"""What the task history costs a worker, and how fast it answers with a million rows in it.

Starts servers and workers of its own, lets the variants take turns, prints Markdown tables and
removes everything. Nothing passes or fails by a time.
"""

import argparse
from collections.abc import Iterator

from benchmarks import command, servers

CASES = {
    "a": "no tracking (always there: the others' baseline)",
    "p": "Celery as installed, with nothing of the bundle's",
    "b": "task_manager",
    "c": "django-celery-results as installed",
    "k": "the same, its connection kept",
    "d": "one ORM write a transition",
    "e": "Flower's events",
    "f": "the API over 1,000,000 executions",
}


def main() -> None:
    options = command.parser("tracking", __doc__ or "", CASES).parse_args()
    command.run(options, lambda running: _report(options, running), aws_endpoint="")


def _report(options: argparse.Namespace, running: servers.Processes) -> Iterator[str]:
    # These need Django's settings, and those the servers.
    from benchmarks import tracking_executions, tracking_variants

    yield f"{command.about(options)}."
    if set(options.only) - {"f"}:
        yield from tracking_variants.run(options, running)
    if "f" in options.only:
        yield from tracking_executions.run(options)


if __name__ == "__main__":
    main()
