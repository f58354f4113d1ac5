"""`scripts/doctor` and `scripts/queues` where they are Compose's own: ports, images, the host.

Of the stack only what they need runs: PostgreSQL, Redis, a worker.
"""

import json
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.stack.stack import PRODUCTION, Stack, copy_project, run, wait_until

TASK = "promotions.tasks.release_expired_reservations"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    stack = Stack(copy_project(tmp_path_factory.mktemp("doctor")), PRODUCTION)
    stack.variables = {"FLASH_PROMOS_ON": "compose", "VENV": sys.prefix}
    written = run("scripts/init-env", cwd=stack.folder)
    assert written.returncode == 0, written.stderr
    with stack.running(failed):
        yield stack


def doctor(stack: Stack, **variables: str) -> dict[str, list[dict[str, str]]]:
    done = stack.try_run("scripts/doctor", "--json", variables=variables)
    assert done.stdout, done.stderr
    found: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
    return found


def said(found: dict[str, list[dict[str, str]]], check: str) -> str:
    return "\n".join(
        f"{finding['severity']}: {finding['seen']} -> {finding['helps']}"
        for finding in found[check]
    )


def test_before_anything_is_built(stack: Stack):
    with socket.create_server(("127.0.0.1", int(stack.ports["HOST_PORT_REDIS"]))):
        found = doctor(
            stack,
            COMPOSE_FILE="docker-compose.yml",
            LOCALSTACK_IMAGE="localstack/localstack:latest",
        )
    assert "error: nothing runs -> docker compose" in said(found, "services")
    assert "error: its Python does not run: " in said(found, "application")
    assert f"port {stack.ports['HOST_PORT_REDIS']}, which redis needs, is taken" in said(
        found, "ports"
    )
    assert "HOST_PORT_REDIS" in said(found, "ports")
    assert "error: localstack/localstack:latest does not start" in said(found, "localstack")
    token = {"LOCALSTACK_IMAGE": "localstack/localstack:latest", "LOCALSTACK_AUTH_TOKEN": "ls-1"}
    found = doctor(stack, COMPOSE_FILE="docker-compose.yml", **token)
    assert said(found, "localstack").startswith("ok: ")
    assert "ports" not in found


def test_a_purge_s_copy_comes_to_the_host_and_back(stack: Stack):
    stack.compose("build", "--quiet", "migrate")
    stack.compose("up", "--detach", "--wait", "--no-deps", "postgres", "redis")
    stack.compose("run", "--rm", "--no-deps", "-T", "migrate")

    def script(*words: str) -> str:
        done = stack.try_run(f"scripts/{words[0]}", *words[1:])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def waiting() -> list[Any]:
        shown = json.loads(script("queues", "peek", "high_priority", "--json"))
        return [message["id"] for message in shown]

    ids = [script("run-task", TASK).split()[-1]]
    assert waiting() == ids
    script("queues", "purge", "high_priority", "--yes")
    (copy,) = (stack.folder / "var" / "compose" / "purged").glob("*.jsonl")
    assert json.loads(copy.read_text())["id"] == ids[0]
    assert waiting() == []
    script("queues", "restore", copy.name)
    assert waiting() == ids


def test_images_settings_and_redis(stack: Stack):
    stack.compose("up", "--detach", "--wait", "--no-deps", "worker")
    wait_until(
        lambda: said(doctor(stack), "queues").count("ok: ") == 3,
        seconds=60,
        what="the worker takes the queues",
    )
    found = doctor(stack)
    for check in ("image", "restart", "postgres", "redis", "eviction", "clock", "secrets"):
        assert {finding["severity"] for finding in found[check]} == {"ok"}, said(found, check)
    assert "error: web is stopped -> docker compose" in said(found, "services")
    with (stack.folder / ".env").open("a") as file:
        file.write("LOG_LEVEL=WARNING\n")
    (stack.folder / "marketplace" / "newer.py").write_text('"""Not in the image."""\n')
    pins = stack.folder / "requirements" / "base.txt"
    pins.write_text(f"{pins.read_text()}\nnewer-package==1.0\n")
    stack.execute("redis", "redis-cli", "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    found = doctor(stack)
    assert f"warning: {stack.name}-worker-1 started before" in said(found, "restart")
    assert "is of other code than this folder: marketplace/newer.py ->" in said(found, "image")
    assert "the image lacks newer-package 1.0 of requirements" in said(found, "image")
    assert "error: Redis' maxmemory-policy is allkeys-lru" in said(found, "eviction")
    helps = next(finding["helps"] for finding in found["eviction"])
    assert stack.try_run("sh", "-c", helps.replace(" exec ", " exec -T ")).returncode == 0
    assert said(doctor(stack), "eviction").startswith("ok: ")
