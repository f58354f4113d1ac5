"""The stack tests need a Docker engine and the base images; nothing else of this machine."""

import os
from collections.abc import Callable

import pytest

from tests.stack.stack import run


@pytest.fixture(scope="session", autouse=True)
def docker_engine() -> None:
    if run("docker", "info").returncode == 0:
        return
    message = "no Docker engine answers (docker info): the stack tests cannot run"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="module")
def failed(request: pytest.FixtureRequest) -> Callable[[], bool]:
    """Whether a test has failed so far."""
    return lambda: request.session.testsfailed > 0
