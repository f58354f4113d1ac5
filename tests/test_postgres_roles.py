"""The roles of PostgreSQL: who enters, and what the application's may do; of new and old data."""

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from deploy.embedded.servers import Postgres, ServerError, free_port
from tests.processes import wait_until

PASSWORD = """it's "odd" \\ $1 %s"""


@contextmanager
def serving(server: Postgres) -> Iterator[Postgres]:
    log = server.data.parent / "log"
    with log.open("wb") as output:  # of this start alone
        process = subprocess.Popen(server.command(), stdout=output, stderr=output)
    try:
        wait_until(lambda: b"ready to accept connections" in log.read_bytes(), what="it is ready")
        yield server
    finally:
        process.terminate()
        process.wait(30)


def connect(server: Postgres, **login: Any) -> Any:
    arguments = {"user": server.user, "password": server.password, "dbname": server.database}
    connection = psycopg2.connect(host="127.0.0.1", port=server.port, **(arguments | login))
    connection.autocommit = True
    return connection


def ask(server: Postgres, *statements: str, **login: Any) -> list[tuple[Any, ...]]:
    """What the last one answers."""
    with closing(connect(server, **login)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []


def make(folder: Path, **fields: Any) -> Postgres:
    server = Postgres(
        folder / "data",
        port=free_port(),
        user="marketplace",
        password=PASSWORD,
        database="marketplace",
        options={"fsync": "off", "max_connections": "20"},
    )
    return replace(server, **fields)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """As the embedded way has it, and another role beside the application's."""
    server = make(
        tmp_path_factory.mktemp("postgres"),
        statements=("CREATE ROLE other LOGIN PASSWORD 'other'", "CREATE DATABASE theirs"),
    )
    server.prepare()
    with serving(server):
        yield server


# --- Who enters ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("login", "reason"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"password": ""}, "no password supplied"),
        ({"user": "somebody"}, "password authentication failed"),
        ({"user": "postgres"}, "pg_hba.conf rejects connection"),
        ({"user": "postgres", "password": ""}, "pg_hba.conf rejects connection"),
        ({"user": "other", "password": "other"}, 'permission denied for database "marketplace"'),
        ({"dbname": "postgres"}, 'permission denied for database "postgres"'),
        ({"dbname": "template1"}, 'permission denied for database "template1"'),
    ],
)
def test_nobody_enters_but_the_application(
    server: Postgres, login: dict[str, Any], reason: str
) -> None:
    with pytest.raises(psycopg2.OperationalError, match=reason):
        connect(server, **login)


def test_the_superuser_has_no_password_and_the_application_a_scram_secret(tmp_path: Path) -> None:
    # To read it, one needs this.
    server = make(tmp_path, statements=("GRANT pg_read_all_data TO marketplace",))
    server.prepare()
    with serving(server):
        found = dict(ask(server, "SELECT rolname, rolpassword FROM pg_authid WHERE rolcanlogin"))
    assert found["postgres"] is None
    assert found["marketplace"].startswith("SCRAM-SHA-256$")


# --- What it may do ------------------------------------------------------------------------------
def test_the_application_is_no_more_than_its_databases_owner(server: Postgres) -> None:
    rights = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls"
    assert ask(server, f"SELECT {rights} FROM pg_roles WHERE rolname = current_user") == [
        (False, False, False, False, False)
    ]
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert ask(server, owner) == [("marketplace",)]
    ask(server, "CREATE TABLE own (id int)", "CREATE SCHEMA own", "DROP SCHEMA own")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE DATABASE more",
        "CREATE ROLE more",
        "ALTER ROLE marketplace SUPERUSER",
        "SET SESSION AUTHORIZATION postgres",
        "SET ROLE postgres",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY (SELECT 1) TO '/tmp/out'",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT rolpassword FROM pg_authid",
        "ALTER SYSTEM SET fsync = off",
    ],
)
def test_what_only_a_superuser_may_is_refused(server: Postgres, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        ask(server, statement)


def test_another_role_sees_and_makes_nothing_here(server: Postgres) -> None:
    ask(server, "GRANT CONNECT ON DATABASE marketplace TO other")
    try:
        other = {"user": "other", "password": "other"}
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            ask(server, "CREATE TABLE theirs (id int)", **other)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            ask(server, "CREATE TEMPORARY TABLE theirs (id int)", **other)
    finally:
        ask(server, "REVOKE CONNECT ON DATABASE marketplace FROM other")


# --- Each start ----------------------------------------------------------------------------------
def test_a_changed_password_holds_from_the_next_start_on(tmp_path: Path) -> None:
    server = make(tmp_path)
    server.prepare()
    server = replace(server, password="changed")
    server.prepare()
    with serving(server):
        assert ask(server, "SELECT 1") == [(1,)]
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            connect(server, password=PASSWORD)


def test_another_user_is_given_all_that_the_former_had(tmp_path: Path) -> None:
    server = make(tmp_path)
    server.prepare()
    with serving(server):
        ask(server, "CREATE TABLE kept AS SELECT 7 AS id")
    server = replace(server, user="shop")
    server.prepare()
    with serving(server):
        assert ask(server, "ALTER TABLE kept ADD COLUMN more int", "SELECT id FROM kept") == [(7,)]
        with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
            connect(server, user="marketplace")


def test_what_fails_is_said_without_the_password(tmp_path: Path) -> None:
    server = make(tmp_path, user="pg_reserved")
    with pytest.raises(ServerError, match='role name "pg_reserved" is reserved') as raised:
        server.prepare()
    assert PASSWORD not in str(raised.value)
    assert not server.data.exists()


# --- Data of earlier versions --------------------------------------------------------------------
OLD = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TYPE pair AS (a int, b int);
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE TYPE prices AS RANGE (subtype = numeric);
CREATE TABLE promo (id bigserial PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY, mood mood);
CREATE INDEX promo_mood ON promo (mood);
CREATE TABLE day (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE day_1 PARTITION OF day FOR VALUES FROM ('2026-01-01') TO ('2026-01-02');
CREATE SEQUENCE "Free standing";
CREATE VIEW glad AS SELECT * FROM promo WHERE mood = 'glad';
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM promo;
CREATE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
CREATE PROCEDURE nothing() LANGUAGE sql AS '';
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int);
CREATE SCHEMA "Reports";
CREATE TABLE "Reports".one (id int);
CREATE ROLE analyst LOGIN PASSWORD 'analyst';
GRANT CREATE ON SCHEMA public TO analyst;
CREATE TABLE theirs (id int);
ALTER TABLE theirs OWNER TO analyst;
INSERT INTO promo (mood) VALUES ('glad'), ('sad');
"""
#: Owners of what is no part of the server, by kind.
OWNERS = """
SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE oid >= 16384
    AND relnamespace::regnamespace::text NOT LIKE 'pg_%' AND relname <> 'theirs'
UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE oid >= 16384
    AND proname NOT LIKE 'prices%'
UNION SELECT pg_get_userbyid(typowner) FROM pg_type WHERE oid >= 16384
    AND typnamespace::regnamespace::text NOT LIKE 'pg_%' AND typname NOT LIKE '%theirs'
UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE oid >= 16384
"""


@pytest.fixture(scope="module", params=["marketplace", "postgres", "admin"])
def old(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Postgres]:
    """A cluster whose first role, a superuser, was the application's: now in our hands."""
    server = make(tmp_path_factory.mktemp("old"))
    first = request.param
    initdb = [f"--pgdata={server.data}", f"--username={first}", "--auth=trust", "--no-sync"]
    server._run([server.binary("initdb"), *initdb])
    of_old = replace(
        server,
        user=first,
        database="postgres",
        options=server.options | {"hba_file": f"{server.data}/pg_hba.conf"},
    )
    with serving(of_old):
        ask(of_old, "CREATE DATABASE marketplace")
        ask(replace(of_old, database="marketplace"), OLD)
    server.prepare()
    with serving(server):
        yield server


def test_old_data_is_the_applications_and_it_no_superuser(old: Postgres) -> None:
    assert ask(old, "SELECT rolsuper FROM pg_roles WHERE rolname = 'marketplace'") == [(False,)]
    assert ask(old, "SELECT rolname FROM pg_roles WHERE rolsuper") == [("postgres",)]
    assert ask(old, "SELECT mood FROM promo ORDER BY id") == [("glad",), ("sad",)]
    assert ask(old, OWNERS) == [("marketplace",)]


def test_old_data_can_be_altered_and_dropped(old: Postgres) -> None:
    ask(
        old,
        "BEGIN",
        "ALTER TABLE promo ADD COLUMN more int",
        "INSERT INTO promo (mood) VALUES ('sad')",
        "ALTER TYPE mood ADD VALUE 'tired'",
        "ALTER TYPE pair ADD ATTRIBUTE c int",
        "REFRESH MATERIALIZED VIEW counted",
        "DROP TABLE day",
        "DROP FUNCTION twice",
        'DROP SCHEMA "Reports" CASCADE',
        "ROLLBACK",
    )


def test_what_others_have_in_old_data_stays_theirs(old: Postgres) -> None:
    owner = "SELECT tableowner FROM pg_tables WHERE tablename = 'theirs'"
    assert ask(old, owner) == [("analyst",)]
