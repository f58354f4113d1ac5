"""The model of `scripts/bench simulation` against what is known of queues."""

import random

import pytest

from benchmarks.simulation import BUSY, Costs, Waits, simulate, slots_for, station


def test_each_waits_for_the_first_free_place() -> None:
    served = station([0, 0, 0, 10], [1, 3, 1, 1], places=2)
    assert served == [(0, 1), (0, 3), (1, 2), (10, 11)]


def test_one_place_agrees_with_the_formula_of_m_m_1() -> None:
    chance = random.Random(1)  # noqa: S311
    moment, count = 0.0, 200_000
    arrivals = [moment := moment + chance.expovariate(0.7) for _ in range(count)]
    served = station(arrivals, [chance.expovariate(1) for _ in range(count)], places=1)
    waits = [begin - arrival for (begin, _), arrival in zip(served, arrivals, strict=True)]
    assert Waits.of(waits).mean == pytest.approx(0.7 / (1 - 0.7), rel=0.1)


def test_more_load_needs_more_slots_and_none_is_planned_too_busy() -> None:
    costs = Costs(slot=0.05, worker=0.005, redis=0.0001, postgres=0.001, hop=0.01)
    needed = [slots_for(costs, rate) for rate in (10, 100, 1000)]
    assert needed == sorted(needed)
    for rate, slots in zip((10, 100, 1000), needed, strict=True):
        assert rate * costs.slot <= BUSY * slots
    assert simulate(costs, 100, needed[1]).most <= 1
