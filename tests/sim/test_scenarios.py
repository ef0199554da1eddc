"""Scenarios: each is about something, and a plain sweep goes through all of them."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from protocol.sim.scenarios import MIXED, SCENARIOS, scenario_of

LARGE = [scenario.name for scenario in SCENARIOS.values() if scenario.peers > 50]


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in (MIXED, "clean")])
def test_each_is_about_something(name: str) -> None:
    scenario = SCENARIOS[name]
    drawn = scenario.faults(Random(1))
    assert not drawn.clean or drawn.slow or scenario.peers
    assert scenario.text


def test_a_sweep_is_half_mixed_and_goes_through_all_others() -> None:
    drawn = Counter(scenario_of(seed) for seed in range(1000))
    assert set(drawn) == set(SCENARIOS)
    assert 500 <= drawn[MIXED] <= 560
    assert all(drawn[name] < 10 for name in LARGE)
    assert all(drawn[name] >= 35 for name in SCENARIOS if name not in LARGE)
