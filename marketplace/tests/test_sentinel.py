"""Clients of a Redis whose master changes, found by real sentinels."""

import ast
import asyncio
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from deploy.embedded.servers import Redis, free_port
from marketplace import broker, results, sentinel
from marketplace.celery import app
from tests.processes import wait_until

PROJECT = Path(__file__).resolve().parents[2]
PASSWORD = "a password of Redis"
NAME = "marketplace"


@dataclass
class Group:
    """A master, its replica and a sentinel."""

    servers: list[Redis]
    processes: "list[subprocess.Popen[bytes]]"
    sentinel_port: int

    def operator(self, number: int) -> redis.Redis:
        return redis.Redis(
            port=self.servers[number].port, username="operator", password=PASSWORD, db=0
        )


def server(folder: Path, **options: str) -> Redis:
    return Redis(
        data=folder,
        port=free_port(),
        password=PASSWORD,
        options={"appendonly": "no"} | options,
        operator_password=PASSWORD,
    )


def sentinel_configuration(master: Redis, port: int, folder: Path) -> str:
    return f"""
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {NAME} 127.0.0.1 {master.port} 1
sentinel auth-user {NAME} operator
sentinel auth-pass {NAME} "{PASSWORD}"
sentinel down-after-milliseconds {NAME} 3000
user default off
user {master.user} on ">{PASSWORD}" -@all +ping +client|setinfo +client|setname +sentinel|masters
"""


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Group]:
    master = server(tmp_path / "master")
    login = {"masteruser": "operator", "masterauth": f'"{PASSWORD}"'}
    replica = server(tmp_path / "replica", replicaof=f"127.0.0.1 {master.port}", **login)
    for each in (master, replica):
        each.prepare()
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(sentinel_configuration(master, port, tmp_path))
    binary = master.command()[0]
    commands = [master.command(), replica.command(), [binary, str(config), "--sentinel"]]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    group = Group([master, replica], processes, port)
    try:
        yield group
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def group(servers: Group, settings: Any) -> Group:
    settings.REDIS_SENTINELS = [("127.0.0.1", free_port()), ("127.0.0.1", servers.sentinel_port)]
    settings.REDIS_PASSWORD = PASSWORD
    # By this address nobody answers.
    settings.REDIS_URL = servers.servers[0].url().replace(str(servers.servers[0].port), "1")

    def knows_the_replica() -> bool:
        with redis.Redis(
            port=servers.sentinel_port, username=servers.servers[0].user, password=PASSWORD
        ) as client:
            masters: Any = client.sentinel_masters()
            return bool(masters[NAME]["num-slaves"] == 1)

    def answers() -> bool:
        try:
            return knows_the_replica()
        except redis.RedisError:
            return False

    wait_until(answers, what="the sentinel knows the replica")
    return servers


def patient() -> Retry:
    return Retry(ConstantBackoff(0.1), 100)


def test_every_kind_of_client_goes_over_to_the_new_master(group: Group, settings: Any) -> None:
    client = redis.Redis.from_url(settings.REDIS_URL, retry=patient(), **sentinel.options())
    backend = results.Backend(app=app, url=settings.REDIS_URL)
    with client, Connection(settings.REDIS_URL, transport=broker.Transport) as connection:
        queue = connection.SimpleQueue("queue")
        queue.put("before")
        client.set("key", "before")
        backend.client.set("result", "before")
        wait_until(lambda: group.operator(1).get("result"), what="the replica has it all")

        group.processes[0].send_signal(signal.SIGKILL)
        assert client.set("key", "after")
        wait_until(lambda: _is_stored(backend), what="a result is stored")
        connection.ensure_connection(max_retries=20, interval_start=0, interval_max=1)
        connection.ensure(queue.producer, queue.producer.publish)("after")
        assert group.operator(1).mget("key", "result") == [b"after", b"after"]
        assert group.operator(1).llen("queue") == 2


def _is_stored(backend: Any) -> bool:
    try:
        return bool(backend.client.set("result", "after"))
    except redis.RedisError:
        return False


def test_what_is_no_longer_the_master_counts_as_a_lost_connection(
    group: Group, settings: Any
) -> None:
    never = Retry(NoBackoff(), 0)
    with redis.Redis.from_url(settings.REDIS_URL, retry=never, **sentinel.options()) as client:
        client.ping()
        with group.operator(0) as operator:
            operator.config_set("min-replicas-to-write", 2)
            with pytest.raises(redis.ConnectionError, match="not the master: NOREPLICAS"):
                client.set("key", "value")
            operator.replicaof("127.0.0.1", str(group.servers[1].port))
            with pytest.raises(redis.ConnectionError, match="not the master: You can't write"):
                client.set("key", "value")


def test_live_updates_find_the_master_too(group: Group, settings: Any) -> None:
    async def answer() -> Any:
        client = redis.asyncio.Redis.from_url(settings.REDIS_URL, **sentinel.async_options())
        async with client:
            return await client.ping()

    assert asyncio.run(answer())


def test_without_sentinels_a_client_connects_by_its_address() -> None:
    assert sentinel.options() == {}
    assert sentinel.async_options() == {}


def test_no_client_of_redis_is_made_without_them() -> None:
    """A connection pool's from_url, or a client's, in whatever module."""
    sources = [
        path
        for app in ("marketplace", "promotions", "task_manager")
        for path in (PROJECT / app).rglob("*.py")
        if "tests" not in path.parts
    ]
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".from_url"):
                assert "**sentinel." in ast.unparse(node), f"{path}:{node.lineno}"
