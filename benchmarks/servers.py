"""The servers of a benchmark: embedded, durable as in production, in a folder of their own."""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from benchmarks.rounds import progress
from deploy.embedded.servers import Aws, Postgres, Redis, Server, free_port, listens

#: Durable, and otherwise the same for both sides of each comparison: `calm` vacuums and
#: checkpoints before each timing, so neither may fall into one.
POSTGRES_OPTIONS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "512MB",
    "work_mem": "16MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "max_connections": "50",
}
START_SECONDS = 60


@contextmanager
def running(folder: Path, aws_endpoint: str | None = None) -> Iterator[None]:
    """Start the servers below `folder`, tell Django of them, and remove everything afterwards."""
    root = Path(tempfile.mkdtemp(prefix="flash-promos-bench-", dir=folder))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        password = secrets.token_urlsafe(12)
        postgres = Postgres(
            data=root / "postgres",
            port=free_port(),
            user="marketplace",
            password=password,
            database="marketplace",
            options=POSTGRES_OPTIONS,
        )
        redis = Redis(data=root / "redis", port=free_port(), password=password)
        servers: list[Server] = [postgres, redis]
        if aws_endpoint is None:
            aws = Aws(port=free_port())
            servers.append(aws)
            aws_endpoint = f"http://127.0.0.1:{aws.port}"
        _start(servers, root, processes)
        os.environ |= _environment(postgres, redis, aws_endpoint)
        yield
    finally:
        _stop(processes)
        shutil.rmtree(root, ignore_errors=True)


def _start(servers: list[Server], root: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    progress(f"starting {', '.join(type(server).__name__ for server in servers)} in {root}")
    for server in servers:
        server.prepare()
        with _log(server, root).open("wb") as log:
            processes.append(
                subprocess.Popen(server.command(), stdout=log, stderr=log, start_new_session=True)
            )
    deadline = time.monotonic() + START_SECONDS
    for server, process in zip(servers, processes, strict=True):
        while not listens(server.port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{type(server).__name__} did not start:\n{_log(server, root).read_text()}"
                )
            time.sleep(0.05)


def _log(server: Server, root: Path) -> Path:
    return root / f"{type(server).__name__}.log"


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(postgres: Postgres, redis: Redis, aws_endpoint: str) -> dict[str, str]:
    # Names of our own: on a LocalStack that serves others too, they are left alone.
    name = f"bench-{secrets.token_hex(4)}"
    return {
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "DJANGO_DEBUG": "0",
        "DJANGO_SECRET_KEY": secrets.token_urlsafe(40),
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": str(postgres.port),
        "POSTGRES_USER": postgres.user,
        "POSTGRES_PASSWORD": postgres.password,
        "POSTGRES_DB": postgres.database,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "REDIS_PASSWORD": redis.password,
        "AWS_ENDPOINT_URL": aws_endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "SNS_TOPIC_ARN": f"arn:aws:sns:us-east-1:000000000000:{name}",
        "SQS_QUEUE_NAME": name,
        "SQS_DEAD_LETTER_QUEUE_NAME": f"{name}-dead",
        "LOG_LEVEL": "WARNING",
    }


def connect(user: str | None = None) -> Any:
    """A bare psycopg2 connection in autocommit: the baseline's, or `postgres`', the superuser."""
    connection = psycopg2.connect(
        host=os.environ["POSTGRES_HOST"],
        port=os.environ["POSTGRES_PORT"],
        user=user or os.environ["POSTGRES_USER"],
        password=os.environ["POSTGRES_PASSWORD"],
        dbname=os.environ["POSTGRES_DB"],
    )
    connection.autocommit = True
    return connection


def execute(*statements: str, user: str | None = None) -> None:
    """Run each statement in a transaction of its own."""
    connection = connect(user)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()


def calm(*tables: str) -> None:
    """Leave neither dead rows nor dirty pages to the next timing."""
    execute(*(f"VACUUM ANALYZE {table}" for table in tables), "CHECKPOINT", user="postgres")
