"""`.env.example` against the variables that the code and the compose files read."""

import re
import runpy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery.app.defaults import NAMESPACES, flatten

from marketplace import celery_options, settings
from marketplace.env import Env

PROJECT = Path(__file__).resolve().parent.parent
SECRETS = {"DJANGO_SECRET_KEY", "POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH"}

# Read by Compose itself, or passed on by it as it is.
BY_COMPOSE = {
    "COMPOSE_FILE": "docker-compose.yml",
    "COMPOSE_PROFILES": "",
    "LOCALSTACK_AUTH_TOKEN": "",
}


def example() -> dict[str, tuple[str, str]]:
    """Each variable's default and the line that explains it."""
    lines = (PROJECT / ".env.example").read_text(encoding="utf-8").splitlines()
    found = {}
    for before, line in pairwise(lines):
        if match := re.fullmatch(r"#?([A-Z][A-Z0-9_]*)=(.*)", line):
            found[match[1]] = (match[2], before)
    return found


EXAMPLE = example()


def read_by_code() -> dict[str, str]:
    """Each variable that the settings or gunicorn's configuration reads, and its default."""
    gunicorn: Env = runpy.run_path(str(PROJECT / "deploy/gunicorn.conf.py"))["env"]
    declared = settings.env.declared | gunicorn.declared
    return {name: as_text(default) for name, default in declared.items()}


def as_text(default: Any) -> str:
    if isinstance(default, bool):
        return str(int(default))
    if isinstance(default, list):
        return ",".join(default)
    if isinstance(default, float):
        return f"{default:g}"
    return str(default).removeprefix(f"{PROJECT}/")


def read_by_compose(file: str) -> dict[str, str]:
    """Each variable that a compose file reads and the default it gives."""
    text = (PROJECT / file).read_text(encoding="utf-8")
    found = re.findall(r"\$\{([A-Z0-9_]+)(?::-([^}]*)|:?\?[^}]*)\}", text)
    assert len(found) == len(re.findall(r"(?<!\$)\$[{\w]", text)), (
        "an interpolation of another form"
    )
    return dict(found)


CODE = read_by_code()
DEVELOPMENT = read_by_compose("docker-compose.yml")
PRODUCTION = read_by_compose("docker-compose.prod.yml")
OVERLAYS = read_by_compose("deploy/monitoring/docker-compose.yml") | read_by_compose(
    "compose/sentinel.yml"
)


def is_celery(name: str) -> bool:
    return name.startswith("CELERY_")


def default_of(name: str) -> str:
    """The default that holds where no compose file gives another."""
    for known in (CODE, BY_COMPOSE):
        if name in known:
            return known[name]
    if is_celery(name):
        option = dict(flatten(NAMESPACES))[name.removeprefix("CELERY_").lower()]
        value = getattr(settings, name, option.default)
        unset = "0" if option.type in (bool, "bool") else ""
        return unset if value is None else as_text(value)
    if name in SECRETS or name.startswith("AWS_"):
        return ""
    return (OVERLAYS | PRODUCTION | DEVELOPMENT)[name]


def test_every_variable_is_listed() -> None:
    known = CODE.keys() | DEVELOPMENT.keys() | PRODUCTION.keys() | OVERLAYS.keys()
    assert known - EXAMPLE.keys() == set()


def test_nothing_is_listed_that_nobody_reads() -> None:
    by_files = DEVELOPMENT.keys() | PRODUCTION.keys() | OVERLAYS.keys()
    known = CODE.keys() | by_files | BY_COMPOSE.keys()
    options = {f"CELERY_{name}".upper() for name in celery_options.option_types()}
    assert EXAMPLE.keys() - known - options == set()


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_default_is_the_real_one(name: str) -> None:
    assert EXAMPLE[name][0] == default_of(name)


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_line_before_explains_it(name: str) -> None:
    assert re.fullmatch(r"# \S.{6,}", EXAMPLE[name][1])


@pytest.mark.parametrize(
    "file", [DEVELOPMENT, PRODUCTION, OVERLAYS], ids=["development", "production", "overlays"]
)
def test_a_default_of_compose_that_differs_is_named(file: dict[str, str]) -> None:
    for name, default in file.items():
        listed, explanation = EXAMPLE[name]
        if default not in (listed, ""):
            assert f": {default}" in explanation, name


def test_production_asks_for_the_secrets_and_they_are_empty() -> None:
    text = (PROJECT / "docker-compose.prod.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{([A-Z_]+)\?", text)) == SECRETS
    assert {EXAMPLE[name][0] for name in SECRETS} == {""}
    assert {name for name in EXAMPLE if name.endswith(("_PASSWORD", "_SECRET_KEY"))} >= {
        name for name in SECRETS if name != "FLOWER_BASIC_AUTH"
    }


def test_the_file_as_it_stands_sets_nothing() -> None:
    lines = (PROJECT / ".env.example").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_every_secret_may_come_from_a_file_under_compose() -> None:
    text = (PROJECT / "compose/secrets.yml").read_text(encoding="utf-8")
    secret = re.compile(r"_PASSWORD|_SECRET$|_SECRET_(ACCESS_)?KEY|_TOKEN|_AUTH$")
    # boto3 has a file of its own; the demonstration and LocalStack are not for production, an
    # overlay not for all.
    of_overlays = {"GRAFANA_PASSWORD", "REDIS_SENTINEL_PASSWORD"}
    left_out = {"AWS_SECRET_ACCESS_KEY", "DEMO_PASSWORD", "LOCALSTACK_AUTH_TOKEN"} | of_overlays
    of_the_application = {name for name in EXAMPLE if secret.search(name)} - left_out
    variables = set(re.findall(r"^    ([A-Z_]+)_FILE: /run/secrets/\1$", text, re.M))
    assert variables == of_the_application
    files = of_the_application | {"AWS_CREDENTIALS"}
    assert set(re.findall(r"^    file: \./secrets/([A-Z_]+)$", text, re.M)) == files
