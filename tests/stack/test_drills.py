"""The quick drills of `scripts/drill`, with a tenth of its load."""

from collections.abc import Iterator

import pytest

from tests.drills.__main__ import arena, run_drill
from tests.drills.arena import Arena
from tests.drills.faults import DRILLS


@pytest.fixture(scope="module")
def place() -> Iterator[Arena]:
    with arena(shoppers=2000, tasks=200) as place:
        yield place


@pytest.mark.parametrize("name", [name for name, drill in DRILLS.items() if drill.is_quick])
def test_nothing_is_lost_or_doubled(place: Arena, name: str) -> None:
    outcome = run_drill(place, DRILLS[name])
    assert outcome.wrong() == {}
    assert outcome.counts["published"] == place.tasks
    assert outcome.counts["delivered"] == place.shoppers
