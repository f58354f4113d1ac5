"""What the system is at: queues, workers, beat, outbox; for `manage.py system_state`.

An app adds its own by a module `state` whose `SOURCES` says what is read from where. A source that
does not answer takes only its own part with it, within a few seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from marketplace.masking import masked
from marketplace.sources import sources

#: Seconds to connect to PostgreSQL, and that one statement may take.
TIMEOUT = 3


def system_state() -> dict[str, Any]:
    """Ready for JSON; `errors` names each source that did not answer, and why."""
    state: dict[str, Any] = {"at": timezone.now().isoformat(), "errors": {}}
    with _impatient():
        for source, reads in sources("state").items():
            try:
                for read in (*OWN.get(source, ()), *reads):
                    state |= read()
            except Exception as error:  # whatever is wrong with it, the others have theirs to say
                text = " ".join(str(error).split())
                state["errors"][source] = masked(f"{type(error).__name__}: {text}")
    return state


def _migrations() -> dict[str, Any]:
    """Those of this code that are not applied: `promotions.0002_outbox`."""
    executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    pending = [f"{migration.app_label}.{migration.name}" for migration, _backwards in plan]
    return {"pending_migrations": pending}


#: The project's own, before the apps', which fail without their tables.
OWN = {"postgresql": (_migrations,)}


@contextmanager
def _impatient() -> Iterator[None]:
    """Connections to PostgreSQL that are opened meanwhile wait for nothing long."""
    given = connections[DEFAULT_DB_ALIAS].settings_dict
    options = given["OPTIONS"]
    given["OPTIONS"] = options | {
        "connect_timeout": TIMEOUT,
        "options": f"{options.get('options', '')} -c statement_timeout={TIMEOUT * 1000}",
    }
    try:
        yield
    finally:
        given["OPTIONS"] = options
