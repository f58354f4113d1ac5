"""`scripts/drain`."""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deploy.ops import cli
from deploy.ops.deployment import Deployment, Service, find
from deploy.ops.errors import NotRunning, OpsError, UsageError
from deploy.ops.system import node_of, system_state

DESCRIPTION = """
Lets a worker finish: it takes no more tasks, its tasks end, and its process stops and is not
started again. Other workers go on. WORKER is the node's name, such as celery@host, or the process'
name as scripts/status shows it. Ctrl-C while its tasks still run takes it back: the worker takes
tasks again. So it is, with exit code 1, when they have not ended within --stop-timeout.

It comes back by `scripts/scale worker N`, with all workers that shall run as N; on bare hosts also
with the next reboot.
"""
EPILOG = """
examples:
  scripts/drain worker-2
  scripts/drain --all --yes        before work on the host
"""
#: Seconds between two looks at what runs, and between two lines where no terminal is.
LOOK, LINE = 1.0, 10.0


@dataclass(frozen=True)
class Target:
    service: Service
    node: str
    #: Those it took tasks from.
    queues: list[str]


def parser() -> argparse.ArgumentParser:
    made = cli.parser("drain", DESCRIPTION, EPILOG)
    made.add_argument("worker", metavar="WORKER", nargs="?", help="its node or its process")
    made.add_argument("--all", action="store_true", help="every worker of this host")
    made.add_argument(
        "--stop-timeout",
        metavar="SECONDS",
        type=float,
        default=600.0,
        help="how long its tasks have to end (600)",
    )
    made.add_argument(
        "--yes", action="store_true", help="do not ask when no other worker takes from a queue"
    )
    return made


def main() -> None:
    options = parser().parse_args()
    if (options.worker is None) != options.all:
        raise UsageError("name a worker as scripts/status shows it, or give --all")
    deployment = find(options.on)
    state = system_state(deployment)
    targets = chosen(deployment.running("worker"), state, options.worker)
    if left := unread(state, targets):
        question = f"No other worker takes from {', '.join(left)}: what comes there waits. Go on?"
        cli.confirm(question, yes=options.yes)
    with taking_nothing(deployment, targets):
        wait(deployment, targets, options.stop_timeout)
    for target in targets:
        with cli.step(f"Stopping {target.service.instance}"):
            deployment.stop_instance(target.service)
    names = ", ".join(target.service.instance for target in targets)
    cli.say(f"drained: {names}. Back with: scripts/scale worker N")


def chosen(services: list[Service], state: dict[str, Any], name: str | None) -> list[Target]:
    """Those meant by the name, or all; each answers."""
    if why := state["errors"].get("broker") or state["errors"].get("application"):
        raise OpsError(f"no worker can be asked: {why}")
    if not services:
        raise NotRunning("no worker runs on this host")
    nodes = {one.instance: node_of(one, state) for one in services}
    meant = [one for one in services if name in (None, one.instance, nodes[one.instance])]
    if not meant and name == "worker" and len(services) == 1:
        meant = services
    if not meant:
        if name in state["workers"]:
            raise UsageError(f"{name} is not on this host: drain it where it runs")
        raise UsageError(f"no worker is called {name}; there are {', '.join(nodes)}")
    targets = []
    for one in meant:
        node = nodes[one.instance]
        if node is None:
            raise OpsError(f"{one.instance} does not answer: scripts/logs {one.instance} says why")
        targets.append(Target(one, node, state["workers"][node]["queues"]))
    return targets


def unread(state: dict[str, Any], targets: list[Target]) -> list[str]:
    """The queues that nobody else takes from."""
    going = {target.node for target in targets}
    return [
        name
        for name, queue in state["queues"].items()
        if going & set(queue["workers"]) and not set(queue["workers"]) - going
    ]


@contextmanager
def taking_nothing(deployment: Deployment, targets: list[Target]) -> Iterator[None]:
    """They take no more tasks; again, when anything goes wrong or is interrupted."""
    try:
        for target in targets:
            consumers(deployment, "cancel", target.node)
            cli.say(f"{target.service.instance} ({target.node}) takes no more tasks")
        yield
    except BaseException:
        for target in targets:
            if target.queues:
                consumers(deployment, "add", target.node, *target.queues)
                print(f"{target.service.instance} takes tasks again", file=sys.stderr)
        raise


def consumers(deployment: Deployment, action: str, node: str, *queues: str) -> str:
    return deployment.manage("worker_consumers", action, node, *queues)


def wait(deployment: Deployment, targets: list[Target], seconds: float) -> None:
    """Until none of them runs a task or has one to run."""
    live = sys.stdout.isatty()
    began = shown = time.monotonic()
    before = None
    while True:
        running = {
            target.service.instance: json.loads(consumers(deployment, "tasks", target.node))
            for target in targets
        }
        now, count = time.monotonic(), sum(map(len, running.values()))
        if live:
            print(f"\r\033[K{described(running)}", end="" if count else "\n", flush=True)
        elif count != before or now - shown > LINE:
            cli.say(described(running))
            shown, before = now, count
        if not count:
            return
        if now - began > seconds:
            if live:
                print()
            raise OpsError(f"after {seconds:g} s {described(running)}: nothing was stopped")
        time.sleep(LOOK)


def described(running: dict[str, list[dict[str, Any]]]) -> str:
    """`2 tasks run: shop.tasks.pack 12 s, …; 1 waits in the worker`."""
    tasks = [task for told in running.values() for task in told]
    runs = [task for task in tasks if task["seconds"] is not None]
    if not tasks:
        return "no task runs"
    names = ", ".join(f"{task['name']} {cli.duration(task['seconds'])}" for task in runs[:5])
    more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
    waits = f"; {len(tasks) - len(runs)} to follow" if len(tasks) > len(runs) else ""
    return f"{len(runs)} task{'s run' if len(runs) != 1 else ' runs'}: {names}{more}{waits}"


if __name__ == "__main__":
    cli.run(main)
