"""Whether a deployment does its work: its processes stay up, the web is ready, workers consume."""

import json
import os
import time
import urllib.error
import urllib.request

from deploy.ops import shell
from deploy.ops.compose import Compose
from deploy.ops.deployment import PROGRAMS, Deployment, Service, State
from deploy.ops.embedded import Embedded
from deploy.ops.errors import NotRunning, OpsError, UsageError

#: Seconds that everything has to stay up, once it is.
SETTLE = 15
_CONTRACT = "print(open('deploy/contract.json').read())"
# 127.0.0.1 is behind nobody's proxy.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def require(deployment: Deployment) -> None:
    """An OpsError that says what is wrong; what starts right now may do so first."""
    deadline = time.monotonic() + patience()
    found = _programs(deployment)
    while any(each.state == State.STARTING for each in found) and time.monotonic() < deadline:
        time.sleep(1)
        found = _programs(deployment)
    if not any(service.state == State.RUNNING for service in found):
        raise NotRunning(f"nothing runs: {deployment.describe()}")
    if problem := _problem(deployment, found):
        raise OpsError(problem)


def patience() -> float:
    """Seconds that everything has to become healthy in, as scripts/rolling-restart has it."""
    text = os.environ.get("HEALTHY_WITHIN") or "300"
    if not text.isdecimal():
        raise UsageError(f"HEALTHY_WITHIN={text}: expected seconds")
    return float(text)


def settle(deployment: Deployment, *, seconds: float = SETTLE) -> None:
    """Wait until all is well and has been for so many seconds; an OpsError says what is not."""
    deadline = time.monotonic() + patience()
    while problem := _problem(deployment, _programs(deployment)):
        if time.monotonic() > deadline:
            raise OpsError(problem)
        time.sleep(1)
    starts, end = _starts(_programs(deployment)), time.monotonic() + seconds
    while time.monotonic() < end:
        found = _programs(deployment)
        if down := _down(found):
            raise OpsError(f"it did not stay up: {down}")
        if again := [name for name, at in _starts(found).items() if starts.get(name) != at]:
            raise OpsError(f"it did not stay up: {', '.join(again)} started again by itself")
        time.sleep(1)
    if problem := _readiness(deployment):
        raise OpsError(f"it did not stay ready: {problem}")


def _programs(deployment: Deployment) -> list[Service]:
    return [service for service in deployment.services() if service.name in PROGRAMS]


def _starts(services: list[Service]) -> dict[str, object]:
    return {service.instance: service.started_at for service in services}


def _down(services: list[Service]) -> str:
    return ", ".join(
        f"{service.instance} is {service.state}"
        for service in services
        if service.state != State.RUNNING
    )


def _problem(deployment: Deployment, services: list[Service]) -> str:
    """The first thing that is wrong; empty: nothing."""
    if down := _down(services):
        return down
    if answer := _readiness(deployment):
        return answer
    if not any(service.name == "worker" for service in services):
        return ""
    # It waits for so many seconds, whoever has answered.
    return _unread(deployment, 2) and _unread(deployment, 10)


def _readiness(deployment: Deployment) -> str:
    if not deployment.running("web"):  # as on a host with workers alone
        return ""
    address = f"{_address(deployment)}/readyz"
    try:
        with _opener.open(address, timeout=30):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{address} answers {error.code}: {error.read(300).decode(errors='replace')}"
    except OSError as error:
        return f"{address} does not answer: {getattr(error, 'reason', error)}"


def _address(deployment: Deployment) -> str:
    """Where visitors' requests come in on this host."""
    if isinstance(deployment, Compose):
        services = deployment.config["services"]
        (port, *_) = services.get("proxy", services["web"])["ports"]
        return f"http://{port.get('host_ip') or '127.0.0.1'}:{port['published']}"
    values = deployment.settings_file.read()
    if isinstance(deployment, Embedded):
        return f"http://127.0.0.1:{values['HOST_PORT_WEB']}"
    host, _, port = (values.get("WEB_BIND") or "127.0.0.1:8000").rpartition(":")
    return f"http://{'127.0.0.1' if host in ('', '0.0.0.0', '[::]') else host}:{port}"  # noqa: S104


def _unread(deployment: Deployment, seconds: int) -> str:
    """The queues that no worker says it reads, asked for so many seconds."""
    listed = deployment.application("python", "-c", _CONTRACT)
    wanted = set(json.loads(shell.run(listed, env=deployment.environment()))["queues"])
    asked = ("inspect", "active_queues", "--json", "--timeout", str(seconds))
    command = deployment.application("celery", "-A", "marketplace", *asked)
    answer = shell.try_run(command, env=deployment.environment(), timeout=60 + seconds).stdout
    try:
        workers: dict[str, list[dict[str, str]]] = json.loads(answer[answer.index("{") :])
    except ValueError:
        return "no worker answers"
    read = {queue["name"] for queues in workers.values() for queue in queues}
    unread = sorted(wanted - read)
    return f"no worker reads the queue {', '.join(unread)}" if unread else ""
