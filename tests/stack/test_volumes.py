"""Volumes of earlier versions, where the application was the superuser that the image makes."""

from collections.abc import Callable, Iterator

import pytest

from tests.stack.stack import Stack, copy_project, run, wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    """PostgreSQL on such a volume, whose former server was killed."""
    stack = Stack(copy_project(tmp_path_factory.mktemp("volumes")))
    former = f"{stack.name}-former"
    volume = f"{stack.name}_postgres"
    with stack.running(failed):
        try:
            run(
                *("docker", "run", "--detach", "--name", former),
                *("--label", f"com.docker.compose.project={stack.name}"),
                *("--volume", f"{volume}:/var/lib/postgresql/data"),
                *("--env", "POSTGRES_USER=marketplace", "--env", "POSTGRES_PASSWORD=former"),
                "postgres:17",
            )
            psql = ("docker", "exec", former, "psql", "-h", "127.0.0.1", "-U", "marketplace", "-c")
            make = "CREATE TABLE kept AS SELECT 7 AS id"
            wait_until(lambda: run(*psql, make).returncode == 0, seconds=60, what="a table")
            run("docker", "kill", former)
        finally:
            run("docker", "rm", "--force", former)
        stack.compose("up", "--detach", "--wait", "postgres")
        yield stack


def ask(stack: Stack, statement: str, *login: str) -> str:
    options = ("--tuples-only", "--no-align", "--command", statement)
    return stack.execute("postgres", *login, "psql", *options, "marketplace").strip()


AS_APPLICATION = ("env", "PGPASSWORD=marketplace", "PGUSER=marketplace", "PGHOST=127.0.0.1")


def test_the_application_goes_on_with_its_data_and_the_present_password(stack: Stack) -> None:
    assert ask(stack, "SELECT id FROM kept", *AS_APPLICATION) == "7"
    ask(stack, "ALTER TABLE kept ADD COLUMN more int", *AS_APPLICATION)


def test_it_is_no_superuser_any_more(stack: Stack) -> None:
    assert ask(stack, "SELECT rolname FROM pg_roles WHERE rolsuper") == "postgres"
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
    assert ask(stack, owner) == "marketplace"


def test_another_start_changes_nothing(stack: Stack) -> None:
    stack.compose("kill", "postgres")
    stack.compose("up", "--detach", "--wait", "postgres")
    assert ask(stack, "SELECT id FROM kept", *AS_APPLICATION) == "7"
    assert "WARNING" not in stack.compose("logs", "postgres")


def test_what_cannot_be_set_up_is_said_and_the_server_starts_as_it_was(stack: Stack) -> None:
    stack.compose("up", "--detach", "--wait", "postgres", variables={"POSTGRES_USER": "pg_x"})
    logs = stack.compose("logs", "postgres")
    assert 'ERROR:  role name "pg_x" is reserved' in logs
    assert "WARNING: the role pg_x keeps its former password and rights" in logs
    assert ask(stack, "SELECT id FROM kept", *AS_APPLICATION) == "7"


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"POSTGRES_USER": "postgres"}, "error: POSTGRES_USER=postgres: that is the superuser"),
        ({"POSTGRES_USER": "a b"}, "error: POSTGRES_USER=a b: letters, digits"),
        ({"POSTGRES_DB": 'a"b'}, "error: POSTGRES_DB=a"),
    ],
)
def test_what_names_no_role_of_its_own_is_refused(
    stack: Stack, variables: dict[str, str], reason: str
) -> None:
    done = stack.try_compose("run", "--rm", "-T", "postgres", variables=variables)
    assert done.returncode == 1
    assert reason in done.stdout + done.stderr
