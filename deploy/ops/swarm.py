"""`scripts/swarm`."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from deploy.ops import cli, shell
from deploy.ops.compose import PRODUCTION
from deploy.ops.deployment import PROJECT

DESCRIPTION = """
Prints the compose files as a stack file of Docker Swarm, secrets and all, and changes nothing. What
Swarm does not know is left out or said in its own words; what that costs is told on standard error.
"""
EPILOG = """
Data and sockets are volumes of one node: say which by
  docker node update --label-add flash-promos=data NODE
Every node needs the image (APP_IMAGE, built beforehand), that one this folder, too.

examples:
  scripts/swarm | docker stack deploy --resolve-image never --compose-file - flash-promos
  scripts/swarm docker-compose.yml docker-compose.prod.yml more.yml > stack.json
"""
#: The node of everything that keeps something on it.
DATA_NODE = "node.labels.flash-promos == data"
RESOURCES = ("networks", "volumes", "secrets", "configs")
#: Of Compose alone: a stack starts everything at once, and builds and pulls nothing.
UNKNOWN = ("build", "container_name", "depends_on", "profiles", "pull_policy", "security_opt")


def main() -> None:
    options = parser().parse_args()
    files = options.files or (os.environ.get("COMPOSE_FILE") or PRODUCTION).split(":")
    named = [piece for file in files for piece in ("--file", file)]
    text = shell.run(
        ["docker", "compose", *named, "config", "--format", "json"],
        cwd=PROJECT,
        env={name: value for name, value in os.environ.items() if name != "COMPOSE_FILE"},
    )
    config = json.loads(text)
    for cost in costs(config):
        cli.warn(cost)
    json.dump(stack(config), sys.stdout, indent=2)
    print()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/swarm",
        description=DESCRIPTION.strip(),
        epilog=f"{EPILOG.strip()}\n{cli.EXIT_CODES.strip()}",
        formatter_class=cli.Formatter,
    )
    made.add_argument(
        "files", nargs="*", metavar="FILE", help="compose files (COMPOSE_FILE, or production's two)"
    )
    return made


def costs(config: dict[str, Any]) -> list[str]:
    """What the stack does not keep of what the compose files promise."""
    services = config["services"]
    found = []
    if any("security_opt" in service for service in services.values()):
        found.append(
            'no-new-privileges is not for Swarm: set "no-new-privileges": true in each node\'s '
            "/etc/docker/daemon.json"
        )
    for name, service in services.items():
        for port in service.get("ports", ()):
            if port.get("host_ip"):
                found.append(
                    f"{name}: port {port['published']} is open on every address of its node, and "
                    f"not on {port['host_ip']} alone: close it by a firewall"
                )
    return found


def stack(config: dict[str, Any]) -> dict[str, Any]:
    """The stack file of what `docker compose config` says."""
    made: dict[str, Any] = {key: config[key] for key in RESOURCES if key in config}
    # Compose names them by its project, Swarm by its stack.
    for resources in made.values():
        for resource in resources.values():
            resource.pop("name", None)
    made["services"] = {name: service_of(given) for name, given in config["services"].items()}
    return made


def service_of(given: dict[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in given.items() if key not in UNKNOWN and value is not None}
    made["deploy"] = _deploy(made)
    if ports := made.get("ports"):
        made["ports"] = [_port(port) for port in ports]
    if mounts := list(_memory_mounts(made)):
        made["volumes"] = [*made.get("volumes", ()), *mounts]
    return made


def _memory_mounts(made: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Folders in memory, which Swarm gives to everybody, and of what size the shared one is."""
    for folder in made.pop("tmpfs", ()):
        yield {"type": "tmpfs", "target": folder.partition(":")[0]}
    if size := made.pop("shm_size", None):
        yield {"type": "tmpfs", "target": "/dev/shm", "tmpfs": {"size": int(size)}}  # noqa: S108


def _deploy(made: dict[str, Any]) -> dict[str, Any]:
    """The part that is Swarm's own; what it says is taken from the service."""
    once = made.pop("restart", "no") == "no"
    limits = {
        "memory": made.pop("mem_limit", None),
        "pids": made.pop("pids_limit", None),
    }
    deploy: dict[str, Any] = {
        "mode": "replicated-job" if once else "replicated",
        "replicas": made.pop("scale", 1),
        "restart_policy": {"condition": "on-failure" if once else "any", "delay": "2s"},
        "resources": {"limits": {key: value for key, value in limits.items() if value}},
    }
    if not once:
        # A name is its tasks' own addresses: the virtual one forgets connections that say nothing
        # for 15 minutes, such as those to PostgreSQL, and needs IPVS in the kernel.
        deploy["endpoint_mode"] = "dnsrr"
    if made.get("volumes"):
        deploy["placement"] = {"constraints": [DATA_NODE]}
    return deploy


def _port(port: dict[str, Any]) -> dict[str, Any]:
    """Of the node itself: behind Swarm's own balancing every client would have one address."""
    return {
        "target": port["target"],
        "published": int(port["published"]),
        "protocol": port["protocol"],
        "mode": "host",
    }


if __name__ == "__main__":
    cli.run(main)
