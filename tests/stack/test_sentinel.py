"""Three Redis with Sentinel: the drill of its master, with a tenth of the load."""

from tests.drills.__main__ import arena, run_drill
from tests.drills.arena import REDISES, SENTINEL
from tests.drills.faults import DRILLS


def test_a_master_that_is_killed_loses_nothing_and_comes_back_as_a_replica() -> None:
    with arena(shoppers=2000, tasks=200, overlay=SENTINEL) as place:
        assert place.stack.unconfined().keys() <= {"disk", "aws"}
        outcome = run_drill(place, DRILLS["master"])
        assert outcome.wrong() == {}
        assert outcome.counts["published"] == place.tasks
        assert outcome.counts["delivered"] == place.shoppers
        assert place.master() in REDISES[1:]
