"""The stack tests need a Docker engine and the base images; nothing else of this machine."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.stack.stack import Stack, production, run
from tests.visitors import Visitors

#: A task takes some seconds, so that one runs at any moment; beat leaves the workers to visitors.
BUSY = "SQS_WAIT_SECONDS=6\nPROCESS_NOTIFICATION_QUEUE_SECONDS=60\n"


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


# --- For the modules in which releases come and go; others have a `stack` of their own ---


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, failed: Callable[[], bool]) -> Iterator[Stack]:
    with production(tmp_path_factory.mktemp("stack"), failed, BUSY) as stack:
        stack.make_staff()
        yield stack


@pytest.fixture(scope="module")
def template(stack: Stack) -> str:
    """Of a task that takes some seconds."""
    return stack.make_template("promotions.tasks.process_notification_queue")


@pytest.fixture
def visitors(stack: Stack, template: str) -> Visitors:
    return stack.visitors(template)
