import os
import subprocess
import time
from pathlib import Path

import pytest
import redis

from deploy.embedded.servers import Postgres, Redis, free_port, listens


@pytest.fixture
def postgres(tmp_path: Path) -> Postgres:
    (tmp_path / "PG_VERSION").touch()
    return Postgres(tmp_path, port=1, user="u", password="p", database="d")


def test_lock_file_of_another_program_is_dropped(postgres: Postgres):
    lock = postgres.data / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{postgres.data}\n")
    postgres.prepare()
    assert not lock.exists()


@pytest.mark.parametrize("text", ["", "nonsense", "999999999\n"])
def test_lock_file_of_no_process_is_left_to_postgres(postgres: Postgres, text: str):
    lock = postgres.data / "postmaster.pid"
    lock.write_text(text)
    postgres.prepare()
    assert lock.exists()


def test_redis_obeys_its_configuration_wherever_it_lies(tmp_path: Path):
    server = Redis(tmp_path / 'a [1] "b" \\ *%', port=free_port(), password="secret")
    server.prepare()
    with subprocess.Popen(server.command(), stdout=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 10
            while not listens(server.port):
                assert process.poll() is None
                assert time.monotonic() < deadline
            with redis.Redis(port=server.port) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
            with redis.Redis(port=server.port, password="secret") as client:
                assert client.config_get("dir")["dir"] == str(server.data)
        finally:
            process.terminate()
