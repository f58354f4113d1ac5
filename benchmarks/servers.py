"""The servers of a benchmark: embedded, durable as in production, in a folder of their own.

And any other process that a benchmark needs: each is watched, and stopped at the end.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
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
START_SECONDS = 60.0
STOP_SECONDS = 30.0


class Failed(RuntimeError):
    """A process died or kept a benchmark waiting; the message says which, and its last words."""


@dataclass(frozen=True)
class Process:
    name: str
    popen: "subprocess.Popen[str]"
    log: Path
    stop_signal: signal.Signals

    def check(self) -> None:
        if (code := self.popen.poll()) is not None:
            raise self.failed(f"ended with {code}")

    def failed(self, what: str) -> Failed:
        lines = self.log.read_text(errors="replace").splitlines()[-20:]
        return Failed("\n".join([f"{self.name} {what}", *lines]))

    def ask(self, question: str) -> str:
        """The answer, a line, of a process that talks."""
        stdin, stdout = self.popen.stdin, self.popen.stdout
        if stdin is None or stdout is None:
            raise ValueError(f"{self.name} was not started to talk")
        with suppress(BrokenPipeError):
            stdin.write(f"{question}\n")
            stdin.flush()
        if not (answer := stdout.readline()):
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_SECONDS)
            self.check()
        return answer.strip()

    def wait_until(
        self, condition: Callable[[], object], what: str, *, seconds: float, pause: float = 0.05
    ) -> None:
        """Return once the condition holds; it must, within the time and while the process lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise self.failed(f"kept us waiting for {seconds:.0f} s: {what}")
            time.sleep(pause)


class Processes(list[Process]):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def start(
        self,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        talks: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> Process:
        """Start one that logs, or, when it `talks`, answers on its output to its input's lines."""
        path = self.folder / f"{name}.log"
        with path.open("wb") as log:
            popen = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.append(Process(name, popen, path, stop_signal))
        return self[-1]

    def check(self) -> None:
        for process in self:
            process.check()

    def stop(self) -> None:
        for process in self:
            process.popen.send_signal(process.stop_signal)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self:
            try:
                process.popen.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with suppress(ProcessLookupError):
                    os.killpg(process.popen.pid, signal.SIGKILL)
                process.popen.wait()


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Processes that log to `folder`; whatever goes wrong, one that died is named as the cause."""
    started = Processes(folder)
    try:
        yield started
    except Exception:
        started.check()
        raise
    finally:
        started.stop()


@contextmanager
def running(folder: Path, aws_endpoint: str | None = None) -> Iterator[Processes]:
    """Start the servers below `folder`, tell Django of them, and remove everything afterwards.

    Without an `aws_endpoint` moto is started; an empty one means that none is needed.
    """
    root = Path(tempfile.mkdtemp(prefix="flash-promos-bench-", dir=folder))
    try:
        with processes(root) as started:
            password = secrets.token_urlsafe(12)
            postgres = Postgres(
                data=root / "postgres",
                port=free_port(),
                user="marketplace",
                password=password,
                database="marketplace",
                options=POSTGRES_OPTIONS,
                # Databases of their own for each variant, and calm between two timings.
                statements=(
                    "ALTER ROLE marketplace CREATEDB",
                    "GRANT pg_checkpoint TO marketplace",
                ),
            )
            redis = Redis(
                data=root / "redis",
                port=free_port(),
                password=password,
                operator_password=password,
            )
            servers: list[Server] = [postgres, redis]
            if aws_endpoint is None:
                aws = Aws(port=free_port())
                servers.append(aws)
                aws_endpoint = f"http://127.0.0.1:{aws.port}"
            _start(servers, started)
            os.environ |= _environment(postgres, redis, aws_endpoint)
            yield started
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _start(servers: list[Server], started: Processes) -> None:
    names = ", ".join(type(server).__name__ for server in servers)
    progress(f"starting {names} in {started.folder}")
    for server in servers:
        server.prepare()
        # With SIGTERM PostgreSQL would wait for our connections.
        stop_signal = signal.SIGINT if isinstance(server, Postgres) else signal.SIGTERM
        started.start(type(server).__name__, server.command(), stop_signal=stop_signal)
    for server, process in zip(servers, started, strict=True):
        process.wait_until(partial(listens, server.port), "it listens", seconds=START_SECONDS)


def _environment(postgres: Postgres, redis: Redis, aws_endpoint: str) -> dict[str, str]:
    # Names of our own: on a LocalStack that serves others too, they are left alone.
    name = f"bench-{secrets.token_hex(4)}"
    return {
        "DJANGO_SETTINGS_MODULE": "marketplace.settings",
        "DJANGO_DEBUG": "0",
        "DJANGO_HTTPS": "0",
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


def connect(database: str | None = None) -> Any:
    """A bare psycopg2 connection in autocommit: the baseline's."""
    connection = psycopg2.connect(
        host=os.environ["POSTGRES_HOST"],
        port=os.environ["POSTGRES_PORT"],
        user=os.environ["POSTGRES_USER"],
        password=os.environ["POSTGRES_PASSWORD"],
        dbname=database or os.environ["POSTGRES_DB"],
    )
    connection.autocommit = True
    return connection


def execute(*statements: str) -> None:
    """Run each statement in a transaction of its own."""
    connection = connect()
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    finally:
        connection.close()


def calm(*tables: str) -> None:
    """Leave neither dead rows nor dirty pages to the next timing."""
    execute(*(f"VACUUM ANALYZE {table}" for table in tables), "CHECKPOINT")
