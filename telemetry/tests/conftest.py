"""The simulator of PanAccess, and what a client needs to speak to it."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity

from telemetry.clients import panaccess
from tests.sandbox import Sandbox


@pytest.fixture
def circuit(broker: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closed, and no wait between two tries."""
    monkeypatch.setattr(panaccess, "WAIT", tenacity.wait_none())
    panaccess.circuit.cache_clear()
    yield
    panaccess.circuit.cache_clear()


@pytest.fixture
def sandbox(simulator: Sandbox, circuit: None, settings: Any) -> Sandbox:
    """PanAccess; without faults, with records 0 to 99."""
    simulator.clear()
    simulator.freeze(0, 100)
    settings.PANACCESS_URL = simulator.url
    settings.PANACCESS_USERNAME = simulator.username
    settings.PANACCESS_PASSWORD = simulator.password
    settings.PANACCESS_API_TOKEN = simulator.token
    return simulator


@pytest.fixture
def called(sandbox: Sandbox) -> Callable[[], dict[str, int]]:
    """How often each function was called since the test began, or since this was last asked."""
    known = Counter(sandbox.calls()["functions"])

    def since() -> dict[str, int]:
        nonlocal known
        now = Counter(sandbox.calls()["functions"])
        new, known = now - known, now
        return dict(new)

    return since
