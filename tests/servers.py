"""The embedded servers for a test run: started once, shared by every pytest-xdist worker."""

import atexit
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis

from deploy.embedded.servers import Aws, Postgres, Redis, Server, free_port, listens

# Speed over durability: a test run's data dies with it.
_POSTGRES_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",
}


def start() -> None:
    """Start the servers and tell the settings of them through the environment."""
    folder = Path(tempfile.mkdtemp(prefix="test-servers-"))
    password = secrets.token_urlsafe(12)
    postgres = Postgres(
        data=folder / "postgres",
        port=free_port(),
        user="marketplace",
        password=password,
        database="marketplace",
        options=_POSTGRES_OPTIONS,
        # The tests make databases of their own.
        statements=(
            "ALTER ROLE marketplace CREATEDB",
            "GRANT CONNECT ON DATABASE postgres TO marketplace",
            "GRANT SET ON PARAMETER deadlock_timeout TO marketplace",
        ),
    )
    redis = Redis(
        data=folder / "redis",
        port=free_port(),
        password=password,
        options={"appendonly": "no", "databases": "64"},
        operator_password=password,
    )
    aws = Aws(port=free_port())
    processes: list[tuple[Server, subprocess.Popen[bytes]]] = []

    def stop() -> None:
        for _, process in processes:
            process.send_signal(signal.SIGINT)
        for _, process in processes:
            process.wait(30)
        shutil.rmtree(folder)

    atexit.register(stop)
    # pytest ends at TERM without atexit, which would leave the servers behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for server in (aws, redis, postgres):
        server.prepare()
        with (folder / f"{type(server).__name__}.log").open("wb") as log:
            process = subprocess.Popen(
                server.command(), stdout=log, stderr=log, start_new_session=True
            )
        processes.append((server, process))
    deadline = time.monotonic() + 60
    for server, process in processes:
        while not listens(server.port):
            if process.poll() is not None or time.monotonic() > deadline:
                log_text = (folder / f"{type(server).__name__}.log").read_text()
                raise RuntimeError(f"{type(server).__name__} did not start:\n{log_text}")
            time.sleep(0.05)
    os.environ |= {
        "DJANGO_DEBUG": "0",
        "DJANGO_HTTPS": "0",
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(40),
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": str(postgres.port),
        "POSTGRES_USER": postgres.user,
        "POSTGRES_PASSWORD": password,
        "POSTGRES_DB": postgres.database,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "REDIS_PASSWORD": password,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws.port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "SQS_WAIT_SECONDS": "1",
        "FLASH_PROMOS_TEST_SERVERS": str(folder),
    }


def operator(url: str) -> redis.Redis:
    """Of a Redis where the operator has the application's password; may do everything."""
    client = redis.Redis.from_url(url)
    client.connection_pool.connection_kwargs["username"] = "operator"
    return client


def others(client: redis.Redis) -> list[dict[str, str]]:
    """The connections to this test process's database other than the client's own.

    The server has a database for each test process: what the neighbours do is not counted.
    """
    here = str(client.connection_pool.connection_kwargs["db"])
    mine = client.client_id()
    connections = client.client_list()
    return [c for c in connections if c["db"] == here and int(c["id"]) != mine]


def cut_off(client: redis.Redis) -> None:
    for other in others(client):
        client.client_kill_filter(_id=other["id"])


def use() -> None:
    """Start the servers, or take a place of our own on those that the controller started."""
    if "FLASH_PROMOS_TEST_SERVERS" not in os.environ:
        start()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    os.environ |= {
        "REDIS_DATABASE": str(1 + int(worker.removeprefix("gw"))),
        "SNS_TOPIC_ARN": f"arn:aws:sns:us-east-1:123456789012:promos-{worker}",
        "SQS_QUEUE_NAME": f"promos-{worker}",
        "SQS_DEAD_LETTER_QUEUE_NAME": f"promos-{worker}-dead",
    }
