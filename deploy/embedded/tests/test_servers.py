import os
import subprocess
import time
from pathlib import Path

import pytest
import redis

from deploy.embedded.servers import Postgres, Redis, ServerError, free_port, listens


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Postgres:
    """A cluster that nobody runs."""
    data = tmp_path_factory.mktemp("postgres") / "data"
    server = Postgres(data, port=1, user="u", password="p", database="d")
    server.prepare()
    return server


@pytest.mark.parametrize("whose", ["another program's", "nobody's"])
def test_lock_file_of_no_server_is_dropped(postgres: Postgres, whose: str):
    lock = postgres.data / "postmaster.pid"
    pid = 999_999_999 if whose == "nobody's" else os.getpid()
    lock.write_text(f"{pid}\n{postgres.data}\n")
    postgres.prepare()
    assert not lock.exists()


@pytest.mark.parametrize("text", ["", "nonsense"])
def test_lock_file_that_says_nothing_is_named(postgres: Postgres, text: str):
    lock = postgres.data / "postmaster.pid"
    lock.write_text(text)
    try:
        with pytest.raises(ServerError, match=r"postmaster\.pid"):
            postgres.prepare()
    finally:
        lock.unlink()


def test_data_of_another_major_version_stays_as_it_is(postgres: Postgres):
    version = postgres.data / "PG_VERSION"
    present = version.read_text()
    version.write_text("12\n")
    try:
        with pytest.raises(ServerError, match=r"is of PostgreSQL 12.*scripts/upgrade-postgres"):
            postgres.prepare()
    finally:
        version.write_text(present)


def test_redis_obeys_its_configuration_wherever_it_lies(tmp_path: Path):
    folder = tmp_path / 'a [1] "b" \\ *%'
    server = Redis(folder, port=free_port(), password="p:@/", operator_password="secret")
    server.prepare()
    with subprocess.Popen(server.command(), stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not listens(server.port):
                assert process.poll() is None
                assert time.monotonic() < deadline
            with redis.Redis.from_url(server.url()) as client:
                assert client.ping()
            with redis.Redis(port=server.port, username="operator", password="secret") as client:
                assert client.config_get("dir")["dir"] == str(server.data)
        finally:
            process.terminate()
