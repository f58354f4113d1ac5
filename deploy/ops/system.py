"""What the application says of itself, and which worker's process is which node of Celery's."""

import json
from typing import Any

from deploy.ops.deployment import Deployment, Service
from deploy.ops.errors import OpsError


def system_state(deployment: Deployment) -> dict[str, Any]:
    """What `manage.py system_state` prints; `errors` alone when it cannot even run."""
    try:
        state: dict[str, Any] = json.loads(deployment.manage("system_state", timeout=90))
    except (OpsError, ValueError) as error:
        return {"errors": {"application": " ".join(str(error).split())}}
    return state


def node_of(service: Service, state: dict[str, Any]) -> str | None:
    """The name of a worker's node, `celery@host`; None while it does not answer."""
    for name, worker in state.get("workers", {}).items():
        here = name.rpartition("@")[2] == service.host
        if here and worker["pid"] is not None and service.pid in (None, worker["pid"]):
            return str(name)
    return None
