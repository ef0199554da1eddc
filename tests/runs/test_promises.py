"""Whole runs: no promise is broken, whatever happens to the devices and the network."""

from __future__ import annotations

import pytest

from protocol.sim.faults import Faults
from protocol.sim.network import Conditions
from protocol.sim.run import Options, run
from protocol.sim.scenarios import MIXED, SCENARIOS

LARGE = [scenario.name for scenario in SCENARIOS.values() if scenario.peers > 50]


@pytest.mark.parametrize("seed", range(24))
def test_twelve_peers_keep_every_promise(seed: int) -> None:
    outcome = run(seed, Options())
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize(("seed", "peers"), [(1, 2), (2, 3), (3, 3), (4, 5), (5, 30), (6, 50)])
def test_small_and_large_shoals_keep_them_too(seed: int, peers: int) -> None:
    outcome = run(seed, Options(peers=peers))
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize(
    ("seed", "peers", "jobs"),
    [
        (1, 12, 8),  # a holder unknown to the other copies: the node woke itself for ever
        (52, 12, 8),  # a key called again at another peer: its standbys never answered with theirs
        (58, 12, 8),  # a slot stopped before its first award: nobody could read its acceptance
        (59, 12, 8),  # two disjoint sets of holders of one job never met
        (1111, 12, 8),  # a stop by somebody who may not, at the coordinator: the node raised
        (5068, 4, 10),  # a result for an ended job whose coordinator died found nobody
        (134, 12, 8),  # the same, and the copies of another job differed
        (190, 12, 8),  # the same, after a one-way cut
        (722, 12, 8),  # the coordinator died before it had told all holders, and nobody else did
    ],
)
def test_what_was_found_once_stays_found(seed: int, peers: int, jobs: int) -> None:
    outcome = run(seed, Options(peers=peers, jobs=jobs))
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_run_starts_each_slot_once(seed: int) -> None:
    outcome = run(seed, Options(faults=Faults()))
    assert outcome.faults == "clean"
    assert outcome.jobs > 0
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize("seed", range(4))
def test_everything_at_once(seed: int) -> None:
    faults = Faults(
        conditions=Conditions(loss=0.05, duplicate=0.05, reorder=0.1, garble=0.02),
        crashes=4,
        power_cuts=2,
        freezes=2,
        partitions=2,
        deaf=1,
        slow=1,
        skew_s=30.0,
        drift=0.01,
        save_failures=0.01,
        start_failures=0.1,
        rogues=2,
    )
    outcome = run(seed, Options(faults=faults))
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize("seed", range(8))
def test_devices_that_drain_and_change_their_labels_break_no_promise(seed: int) -> None:
    """Where nobody is lost, each slot still starts once: what runs there ends there."""
    outcome = run(seed, Options(faults=Faults(moods=12)))
    assert [str(violation) for violation in outcome.violations] == []
    outcome = run(seed, Options(faults=Faults(moods=12, crashes=4, power_cuts=2, partitions=1)))
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in (MIXED, *LARGE)])
def test_every_promise_is_kept(name: str, seed: int) -> None:
    outcome = run(seed, Options(peers=9, jobs=6, scenario=name))
    assert [str(violation) for violation in outcome.violations] == []
    assert outcome.jobs > 0


@pytest.mark.parametrize("name", LARGE)
def test_every_promise_is_kept_in_a_crowd(name: str) -> None:
    outcome = run(1, Options(jobs=2, scenario=name))
    assert [str(violation) for violation in outcome.violations] == []
