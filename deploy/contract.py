"""What a release promises to the next one: its tasks, their queues, and its tables.

While one takes the other's place, and as long as somebody may go back, messages of either are run
by workers of either, on one database. `deploy/contract.json` holds what the last release promised,
and tests hold the code against it; docs/upgrading.md says what may change.

`python -m deploy.contract`, which scripts/record-release calls, records the present state;
`python -m deploy.contract compare` asks whether this code may follow the release whose contract is
on standard input, on the database as it is.
"""

import inspect
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, TypedDict

import django
from celery import current_app
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.loader import MigrationLoader

PROJECT = Path(__file__).resolve().parent.parent
FILE = PROJECT / "deploy" / "contract.json"


class Task(TypedDict):
    queue: str
    #: Of each parameter, in their order, whether a message must have it.
    parameters: dict[str, bool]
    #: Nobody publishes it any more, and the next release may be without it.
    retired: bool


class Contract(TypedDict):
    version: str
    #: The queues that workers read.
    queues: list[str]
    tasks: dict[str, Task]
    #: Of each app its last migration.
    migrations: dict[str, str]


def recorded() -> Contract:
    contract: Contract = json.loads(FILE.read_text(encoding="utf-8"))
    return contract


def current() -> Contract:
    """As the code has it; Django is set up."""
    ours = {
        config.label
        for config in apps.get_app_configs()
        if Path(config.path).parent == PROJECT  # those of others are in folders of theirs
    }
    graph = MigrationLoader(None).graph
    current_app.loader.import_default_modules()
    return {
        "version": _version(),
        "queues": sorted(settings.CELERY_TASK_QUEUES),
        "tasks": {
            name: _task(task)
            for name, task in sorted(current_app.tasks.items())
            if name.partition(".")[0] in ours
        },
        "migrations": {app: name for app, name in sorted(graph.leaf_nodes()) if app in ours},
    }


def _version() -> str:
    file = PROJECT / "pyproject.toml"
    if not file.exists():  # as in the image
        return recorded()["version"]
    return str(tomllib.loads(file.read_text())["project"]["version"])


def _task(task: Any) -> Task:
    parameters = inspect.signature(task.run).parameters.values()
    return {
        "queue": current_app.amqp.router.route({}, task.name)["queue"].name,
        "parameters": {
            str(parameter.replace(annotation=parameter.empty, default=parameter.empty)): (
                parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            )
            for parameter in parameters
        },
        "retired": bool(getattr(task, "retired", False)),
    }


def broken(old: Contract, new: Contract) -> list[str]:
    """What of the old one's promises the new one does not keep, and what would."""
    told = []
    for name, promised in old["tasks"].items():
        if name in new["tasks"]:
            told += _broken_parameters(
                name, promised["parameters"], new["tasks"][name]["parameters"]
            )
        elif not promised["retired"]:
            told.append(
                f"{name} is gone, and {old['version']} publishes it: keep it for a release, "
                "with retired=True, in which nobody publishes it"
            )
    for queue in old["queues"]:
        used = any(task["queue"] == queue for task in old["tasks"].values())
        if used and queue not in new["queues"]:
            told.append(
                f"the queue {queue} is read by nobody, and {old['version']} publishes into it: "
                "keep it for a release in which no task is routed to it"
            )
    return told


def _broken_parameters(name: str, old: dict[str, bool], new: dict[str, bool]) -> list[str]:
    gone = [
        f"{name}: the parameter {parameter} is gone, and messages have it: keep it, or make "
        "a task of another name"
        for parameter in old
        if parameter not in new
    ]
    if not gone and list(new)[: len(old)] != list(old):
        gone.append(f"{name}: the parameters {list(old)} have another order: add new ones last")
    return gone + [
        f"{name}: messages may come without the parameter {parameter}: give it a default"
        for parameter, needed in new.items()
        if needed and not old.get(parameter)
    ]


def pending() -> list[str]:
    """The migrations that this code would apply."""
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


def unknown() -> list[str]:
    """The migrations that the database has and this code has not: a newer release made them."""
    loader = MigrationLoader(connection)
    known = loader.disk_migrations.keys() | {
        replaced for migration in loader.disk_migrations.values() for replaced in migration.replaces
    }
    apps_here = {app for app, _ in known}
    return sorted(
        f"{app}.{name}"
        for app, name in loader.applied_migrations
        if app in apps_here and (app, name) not in known
    )


def compare(old: Contract) -> int:
    """Say what is to be migrated; 1 when this code may not follow `old`."""
    told = broken(old, current())
    if newer := unknown():
        told.append(
            f"the database has {', '.join(newer)}, which this release does not know: "
            "it is older than what ran here; to go back: scripts/rollback"
        )
    if told:
        print(*(f"error: {text}" for text in told), sep="\n", file=sys.stderr)
        return 1
    names = pending()
    print(f"Migrations: {', '.join(names)}" if names else "No migrations")
    return 0


def record() -> int:
    new = current()
    if FILE.exists() and (told := broken(recorded(), new)):
        print(*(f"error: {text}" for text in told), sep="\n", file=sys.stderr)
        return 1
    FILE.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    print(f"{FILE.relative_to(PROJECT)} holds {len(new['tasks'])} tasks of {new['version']}")
    return 0


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "marketplace.settings")
    django.setup()
    if sys.argv[1:] == ["compare"]:
        return compare(json.load(sys.stdin))
    return record()


if __name__ == "__main__":
    sys.exit(main())
