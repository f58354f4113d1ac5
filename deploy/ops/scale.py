"""`scripts/scale`."""

import argparse
import os
import time
from typing import Any

from deploy.ops import cli
from deploy.ops.deployment import Deployment, Service, State, find
from deploy.ops.errors import OpsError, UsageError
from deploy.ops.observation import memory
from deploy.ops.system import node_of, system_state

DESCRIPTION = """
Runs N workers on this host from now on, also after a restart or a reboot, and waits until each
takes tasks. Workers that are too many finish the tasks they have, then stop; one that scripts/drain
stopped starts again.

How it lasts: under systemd by enabled units, under supervisor and embedded by a file for each
worker but the first, under Compose by WORKER_REPLICAS in .env. Without a .env, as in development,
the next `docker compose up` starts one worker again.
"""
EPILOG = """
examples:
  scripts/scale worker 3
  scripts/scale worker 0 --yes     none; what is published waits
"""
MOST = 64
#: Tasks at once for each processor, from which on a warning is due.
TASKS_PER_PROCESSOR = 4


def parser() -> argparse.ArgumentParser:
    made = cli.parser("scale", DESCRIPTION, EPILOG)
    made.add_argument("service", metavar="worker", choices=["worker"], help="what to scale")
    made.add_argument("count", metavar="N", type=int, help=f"how many shall run: 0 to {MOST}")
    made.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=120.0,
        help="how long new workers have until they take tasks (120)",
    )
    made.add_argument("--yes", action="store_true", help="do not ask")
    return made


def main() -> None:
    options = parser().parse_args()
    count = options.count
    if not 0 <= count <= MOST:
        raise UsageError(f"{count} workers: give a number from 0 to {MOST}")
    deployment = find(options.on)
    state, before = system_state(deployment), workers(deployment)
    check(state, before, count)
    if count == 0:
        cli.confirm("Stop every worker of this host, so that tasks wait?", yes=options.yes)
    with cli.step(f"From {len(before)} to {count}; a worker that goes finishes its tasks"):
        deployment.scale_workers(count)
    if count:
        with cli.step("Waiting until each worker takes tasks"):
            wait(deployment, count, options.timeout)
    after = workers(deployment)
    cli.say(f"before: {listed(before)}\nafter:  {listed(after)}")


def workers(deployment: Deployment) -> list[Service]:
    return deployment.running("worker")


def listed(services: list[Service]) -> str:
    return f"{len(services)} ({', '.join(one.instance for one in services) or 'none'})"


def check(state: dict[str, Any], before: list[Service], count: int) -> None:
    """Refuse what cannot work; warn of what the host has too little of."""
    errors = state["errors"]
    if why := errors.get("broker") or errors.get("application"):
        raise OpsError(f"workers could not take tasks, nothing was changed: {why}")
    more = count - len(before)
    if more <= 0:
        return
    needed = more * max((one.memory or 0 for one in before), default=0)
    if needed > (free := memory().free):
        cli.warn(
            f"{more} more workers need about {cli.size(needed)} of memory; "
            f"the host has {cli.size(free)} left"
        )
    nodes = [node_of(one, state) for one in before]
    tasks = max((state["workers"][node]["concurrency"] or 0 for node in nodes if node), default=0)
    processors = os.cpu_count() or 1
    if count * tasks > processors * TASKS_PER_PROCESSOR:
        cli.warn(
            f"{count} workers run {count * tasks} tasks at once on {processors} processors: "
            "tasks that compute will slow each other down (CELERY_WORKER_CONCURRENCY)"
        )


def wait(deployment: Deployment, count: int, seconds: float) -> None:
    """Until so many workers take tasks from some queue."""
    deadline = time.monotonic() + seconds
    while True:
        running = [one for one in workers(deployment) if one.state == State.RUNNING]
        state = system_state(deployment)
        taking = [
            one
            for one in running
            if (node := node_of(one, state)) and state["workers"][node]["queues"]
        ]
        if len(taking) == count:
            return
        if time.monotonic() > deadline:
            raise OpsError(
                f"after {seconds:g} s {len(taking)} of {count} workers take tasks: "
                "scripts/logs worker says why"
            )
        time.sleep(1)


if __name__ == "__main__":
    cli.run(main)
