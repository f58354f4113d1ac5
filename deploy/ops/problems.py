"""What of an observation is wrong, in words, and the command that helps."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from deploy.ops.cli import duration, size
from deploy.ops.deployment import Service, State
from deploy.ops.host import RUN
from deploy.ops.observation import Observation
from deploy.ops.system import node_of

#: The part of its limit from which on a queue is too full, as the application's own alert has it.
QUEUE_FULL = 0.8
#: Seconds that a message or a promised task may wait, and that the task history may be behind.
WAITED_SECONDS = 300.0
#: The least free part of a disk, and of the host's memory.
DISK_FREE = 0.1
MEMORY_FREE = 0.05
#: The part of its memory limit that a service may use.
MEMORY_USED = 0.95
BACKUP_AGE = timedelta(hours=26)
#: Time that a worker has to give its first sign of life.
STARTING = timedelta(seconds=60)

DOWN = {State.STOPPED: "is stopped", State.FAILED: "has failed"}
SOURCES = {
    "broker": "the broker (Redis)",
    "redis": "Redis",
    "postgresql": "PostgreSQL",
    "application": "manage.py system_state",
}


@dataclass(frozen=True)
class Problem:
    what: str
    #: A command, or what to do.
    help: str


def problems(seen: Observation) -> list[Problem]:
    """The worst first."""
    found = [
        *_services(seen),
        *_sources(seen.state.get("errors", {})),
        *_migrations(seen.state),
        *_beat(seen.state),
        *_workers(seen),
        *_queues(seen.state.get("queues", {})),
        *_waiting(seen.state),
        *_space(seen),
    ]
    # A host with workers alone has nothing to keep.
    if seen.is_production and {service.name for service in seen.services} != {"worker"}:
        found += _backup(seen.backup_at)
    return found


def notes(seen: Observation) -> list[str]:
    """What is worth knowing and nothing wrong."""
    found = [
        f"{service.instance or service.name} is starting"
        for service in seen.services
        if service.state == State.STARTING
    ]
    if not seen.is_production and seen.backup_at is None:
        found.append("there is no backup: scripts/backup makes one")
    return found


def _services(seen: Observation) -> Iterator[Problem]:
    if seen.services_error:
        yield Problem(f"the services cannot be seen: {seen.services_error}", "see the message")
    for service in seen.services:
        name = service.instance or service.name
        log = f"scripts/logs {name}"
        if service.state in DOWN:
            yield Problem(f"{name} {DOWN[service.state]}", f"{_start(seen, service)}; why: {log}")
        elif service.state == State.UNHEALTHY:
            yield Problem(f"{name} runs and is unhealthy", f"{log}, and scripts/doctor")
        if service.memory and service.memory_limit:
            used = service.memory / service.memory_limit
            if used > MEMORY_USED:
                yield Problem(
                    f"{name} uses {size(service.memory)} of its {size(service.memory_limit)}",
                    f"a higher limit in the settings, or restart it; {log}",
                )


def _start(seen: Observation, service: Service) -> str:
    """The command that starts it."""
    if service.name == "worker":
        count = sum(other.name == "worker" for other in seen.services)
        return f"scripts/scale worker {count}"
    return {
        "compose": f"docker compose up --detach --wait {service.name}",
        "systemd": f"systemctl start {service.instance}",
        "supervisor": f"supervisorctl --serverurl unix://{RUN}/supervisor.sock "
        f"start {service.instance}",
        "embedded": "scripts/quickstart",
    }[seen.way]


def _sources(errors: dict[str, str]) -> Iterator[Problem]:
    if errors.get("broker") and errors.get("redis"):
        errors = {name: error for name, error in errors.items() if name != "broker"}
    for source, error in errors.items():
        yield Problem(f"{SOURCES.get(source, source)} does not answer: {error}", "scripts/doctor")


def _migrations(state: dict[str, Any]) -> Iterator[Problem]:
    if pending := state.get("pending_migrations"):
        yield Problem(
            f"migrations are not applied: {', '.join(pending)}",
            "scripts/upgrade, or manage.py migrate",
        )


def _beat(state: dict[str, Any]) -> Iterator[Problem]:
    periodic = state.get("periodic", {})
    late = [name for name, entry in periodic.items() if entry["overdue"]]
    if late:
        which = "every periodic task" if len(late) == len(periodic) else ", ".join(late)
        yield Problem(f"beat does not tick: overdue is {which}", "scripts/logs beat")


def _workers(seen: Observation) -> Iterator[Problem]:
    """Those whose process runs and that do not answer."""
    if "workers" not in seen.state:
        return
    for service in seen.services:
        settled = service.started_at and datetime.now(UTC) - service.started_at > STARTING
        if service.name != "worker" or service.state != State.RUNNING or not settled:
            continue
        if node_of(service, seen.state) is None:
            yield Problem(
                f"{service.instance} runs and does not answer", f"scripts/logs {service.instance}"
            )


def _queues(queues: dict[str, Any]) -> Iterator[Problem]:
    if unread := [name for name, queue in queues.items() if not queue["workers"]]:
        yield Problem(
            f"no worker takes from the queue{'s' if unread[1:] else ''} {', '.join(unread)}",
            "scripts/scale worker 1",
        )
    more = "scripts/scale worker N for more workers; scripts/queues peek"
    for name, queue in queues.items():
        if queue["limit"] and queue["depth"] > QUEUE_FULL * queue["limit"]:
            what = f"the queue {name} holds {queue['depth']} of at most {queue['limit']} messages"
            yield Problem(what, f"{more} {name}")
        if queue["oldest_seconds"] > WAITED_SECONDS:
            what = f"a message waits in the queue {name} for {duration(queue['oldest_seconds'])}"
            yield Problem(what, f"{more} {name}")


def _waiting(state: dict[str, Any]) -> Iterator[Problem]:
    if count := state.get("dead_letters_waiting"):
        letters = "1 dead letter waits" if count == 1 else f"{count} dead letters wait"
        yield Problem(f"{letters} to be requeued or discarded", "scripts/dead-letters list")
    promised = state.get("promised_tasks", {})
    if promised.get("oldest_seconds", 0.0) > WAITED_SECONDS:
        since = duration(promised["oldest_seconds"])
        what = f"{promised['waiting']} promised tasks are not in the broker, one for {since}"
        yield Problem(what, "scripts/logs worker, and scripts/doctor")
    if error := state.get("telemetry", {}).get("error"):
        yield Problem(f"the sync of telemetry failed: {error}", "scripts/logs worker")
    if (lag := state.get("tracking", {}).get("lag_seconds", 0.0)) > WAITED_SECONDS:
        yield Problem(f"the task history is {duration(lag)} behind", "scripts/logs worker")


def _space(seen: Observation) -> Iterator[Problem]:
    for disk in seen.disks:
        if disk.share < DISK_FREE:
            what = f"the disk of {disk.name} is nearly full: {size(disk.free)} are free"
            yield Problem(what, f"du -xh {disk.name} | sort -h | tail")
    if seen.memory.share < MEMORY_FREE:
        yield Problem(
            f"the host has {size(seen.memory.free)} of memory left",
            "scripts/scale worker with fewer",
        )


def _backup(at: datetime | None) -> list[Problem]:
    if at is None:
        return [Problem("there is no backup", "scripts/backup")]
    age = datetime.now(UTC) - at
    if age > BACKUP_AGE:
        what = f"the last backup is {duration(age.total_seconds())} old"
        return [Problem(what, "scripts/backup, and look why its timer did not run")]
    return []
