"""A backup of the production stack under load, in an empty other stack; new secrets under load."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack.stack import PRODUCTION, Stack, copy_project, production, run, wait_until
from tests.visitors import Visitors

PUBLISH = (
    "from promotions.tasks import check_active_promos as task\n"
    "print(*(task.delay().id for _ in range(12)))"
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    with production(tmp_path_factory.mktemp("backup"), failed) as stack:
        stack.make_staff()
        yield stack


@pytest.fixture(scope="module")
def empty(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]
) -> Iterator[Stack]:
    """Another host's: secrets of its own, nothing in its database, no AWS."""
    folder = copy_project(tmp_path_factory.mktemp("empty"))
    other = Stack(folder, PRODUCTION, image=stack.name)
    assert run("scripts/init-env", cwd=folder).returncode == 0
    with other.running(failed):
        other.compose("up", "--detach", "--wait", "--no-build")
        yield other


@pytest.fixture
def visitors(stack: Stack) -> Visitors:
    return stack.visitors()


def ops(stack: Stack, command: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    done = stack.try_run(f"scripts/{command}", *arguments)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


def psql(stack: Stack, sql: str, database: str = "marketplace") -> str:
    options = ("--no-psqlrc", "-At", "-d", database, "-c", sql)
    return stack.execute("postgres", "psql", *options).strip()


def templates(stack: Stack) -> set[str]:
    return set(psql(stack, "SELECT name FROM task_manager_tasktemplate").split())


def test_one_taken_under_load_restores_into_an_empty_stack_to_the_row(
    stack: Stack, empty: Stack, visitors: Visitors
) -> None:
    stack.execute("web", "sh", "-c", "mkdir /srv/media/shops && echo photo >/srv/media/shops/1")
    stack.execute("redis", "redis-cli", "SET", "of-this-stack", "kept")
    with visitors:
        visitors.wait_for_more(20)
        before = set(visitors.made)
        stack.shell_code(PUBLISH)
        ops(stack, "backup")
        visitors.wait_for_more(20)
    assert visitors.failures == []
    (backup,) = (stack.folder / "var" / "compose" / "backups").glob("2*")
    manifest: dict[str, Any] = json.loads((backup / "manifest.json").read_text())
    wanted = manifest["postgres"]["counts"]
    assert manifest["redis"]["version"].startswith("redis 8.")

    ops(empty, "restore", str(backup), "--into", "rehearsal")
    for table, rows in wanted.items():
        assert int(psql(empty, f'SELECT count(*) FROM "{table}"', "rehearsal")) == rows, table
    done = ops(empty, "restore", str(backup), "--yes")
    assert "The state before is the backup" in done.stdout
    assert before <= templates(empty) <= set(visitors.made)
    owners = psql(empty, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
    assert owners == "marketplace"
    assert psql(empty, "SELECT count(*) FROM pg_database WHERE NOT datistemplate") == "3"
    assert empty.execute("redis", "redis-cli", "GET", "of-this-stack").strip() == "kept"
    assert empty.execute("worker", "cat", "/srv/media/shops/1").strip() == "photo"
    assert set(empty.states().values()) == {"healthy", "exit 0"}
    assert empty.http("/readyz")[0] == 200


def test_new_secrets_lose_no_request_and_no_task_and_outlast_the_servers_next_start(
    stack: Stack, visitors: Visitors
) -> None:
    file = Path(stack.folder, ".env")
    before = file.read_text()
    with visitors:
        visitors.wait_for_more(20)
        tasks = stack.shell_code(PUBLISH).split()
        ops(stack, "rotate-secrets", "--yes")
        tasks += stack.shell_code(PUBLISH).split()
        visitors.wait_for_more(20)
    assert visitors.failures == []
    assert templates(stack) >= set(visitors.made)
    stack.wait_for_ends(tasks, seconds=120)
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH", "DJANGO_SECRET_KEY"):
        (line,) = (line for line in before.splitlines() if line.startswith(f"{name}="))
        assert f"{line}\n" not in file.read_text()

    # In the containers of both stand the variables of before.
    stack.compose("restart", "postgres", "redis")
    wait_until(lambda: stack.http("/readyz")[0] == 200, seconds=60, what="ready")
    old = dict(line.split("=", 1) for line in before.splitlines() if line[:1].isupper())
    login = stack.try_compose(
        *("exec", "-T", "-e", f"PGPASSWORD={old['POSTGRES_PASSWORD']}", "postgres"),
        *("psql", "-h", "127.0.0.1", "-U", "marketplace", "-c", "SELECT 1"),
    )
    assert "password authentication failed" in login.stderr
    auth = ("AUTH", "marketplace", old["REDIS_PASSWORD"])
    assert "WRONGPASS" in stack.execute("redis", "redis-cli", *auth)
