"""`scripts/init-env`: fresh secrets, for their owner alone, never over a file that is there."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SECRETS = {"DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "compose").mkdir(mode=0o700)
    (tmp_path / "compose/any").touch(mode=0o700)
    for name in (".env.example", "scripts/init-env"):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def init_env(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # From elsewhere and under a lax umask.
    return subprocess.run(
        [clone / "scripts/init-env", *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        umask=0o000,
    )


def values(clone: Path) -> dict[str, str]:
    lines = (clone / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_it_writes_every_secret_and_nothing_else(clone: Path) -> None:
    done = init_env(clone)
    assert (done.returncode, done.stderr) == (0, "")
    assert values(clone).keys() == SECRETS
    for name, value in values(clone).items():
        assert re.fullmatch(r"(admin:)?[A-Za-z0-9_-]{64}", value), name
        assert value not in done.stdout


def test_the_file_is_for_its_owner_alone_and_nothing_else_is_left(clone: Path) -> None:
    init_env(clone)
    assert (clone / ".env").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in clone.iterdir()} == {".env", ".env.example", "compose", "scripts"}


def test_the_rest_of_the_example_comes_along(clone: Path) -> None:
    init_env(clone)
    example = (clone / ".env.example").read_text().splitlines()
    written = (clone / ".env").read_text().splitlines()
    changed = [line for line, other in zip(example, written, strict=True) if line != other]
    assert {line.strip("#=") for line in changed} == SECRETS


def test_what_is_mounted_can_be_read_by_the_containers_users(clone: Path) -> None:
    init_env(clone)
    assert (clone / "compose").stat().st_mode & 0o777 == 0o755
    assert (clone / "compose/any").stat().st_mode & 0o777 == 0o755


# --- In files ------------------------------------------------------------------------------------
def test_the_secrets_may_go_to_files(clone: Path) -> None:
    done = init_env(clone, "--files")
    assert (done.returncode, done.stderr) == (0, "")
    files = {path.name: path.read_text() for path in (clone / "secrets").iterdir()}
    assert {name for name, text in files.items() if text} == SECRETS
    for name in SECRETS:
        assert re.fullmatch(r"(admin:)?[A-Za-z0-9_-]{64}\n", files[name]), name
    compose = "docker-compose.yml:docker-compose.prod.yml:compose/secrets.yml"
    assert values(clone) == dict.fromkeys(SECRETS, "") | {"COMPOSE_FILE": compose}


def test_the_files_are_those_that_compose_takes(clone: Path) -> None:
    init_env(clone, "--files")
    text = (PROJECT / "compose/secrets.yml").read_text()
    wanted = set(re.findall(r"file: \./secrets/(\w+)", text))
    assert {path.name for path in (clone / "secrets").iterdir()} == wanted


def test_nobody_else_on_this_host_reads_the_files_but_the_containers_do(clone: Path) -> None:
    init_env(clone, "--files")
    assert (clone / "secrets").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (clone / "secrets").iterdir()} == {0o644}


@pytest.mark.parametrize("taken", [".env", "secrets"])
def test_files_that_are_there_stay(clone: Path, taken: str) -> None:
    init_env(clone, "--files")
    before = (clone / "secrets/REDIS_PASSWORD").read_text()
    if taken == "secrets":
        (clone / ".env").unlink()
    done = init_env(clone, "--files")
    assert done.returncode == 1
    assert f"{clone / taken} exists and stays as it is" in done.stderr
    assert (clone / "secrets/REDIS_PASSWORD").read_text() == before


# --- Again ---------------------------------------------------------------------------------------
def test_each_run_makes_other_secrets(clone: Path) -> None:
    init_env(clone)
    first = values(clone)
    (clone / ".env").unlink()
    init_env(clone)
    assert not set(first.values()) & set(values(clone).values())


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_file_that_is_there_stays(clone: Path, kind: str) -> None:
    target = clone / ".env"
    if kind == "file":
        target.write_text("MINE=1\n")
    else:
        target.symlink_to(clone / "elsewhere")
    done = init_env(clone)
    assert done.returncode == 1
    assert f"{target} exists and stays as it is" in done.stderr
    assert not (clone / "elsewhere").exists()
    assert kind == "dangling link" or target.read_text() == "MINE=1\n"


def test_of_runs_at_once_one_wins(clone: Path) -> None:
    command = [clone / "scripts/init-env"]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(8)
    ]
    for run in runs:
        run.communicate()
    assert sorted(run.returncode for run in runs) == [0] + [1] * 7
    assert len(values(clone)) == len(SECRETS)


def test_help(clone: Path) -> None:
    done = init_env(clone, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: scripts/init-env")
    assert not (clone / ".env").exists()


def test_an_unknown_argument_is_refused(clone: Path) -> None:
    assert init_env(clone, "--force").returncode == 2
    assert not (clone / ".env").exists()
