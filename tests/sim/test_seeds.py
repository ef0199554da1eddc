"""Seeds that found a bug once: each stays, with what it found."""

from __future__ import annotations

import pytest

from protocol.sim.run import Options, run


@pytest.mark.parametrize(
    ("seed", "found"),
    [
        (59, "two islands accepted one call, and neither heard of the other"),
        (134, "a result of an ended job found nobody, its coordinator being gone"),
        (190, "the same, after a one-way cut"),
        (271, "the same, after a loss of messages"),
        (722, "the coordinator died before it had told all holders, and nobody else did"),
        (1111, "stopping somebody else's job raised out of the node"),
    ],
)
def test_a_seed_that_found_a_bug_finds_none_now(seed: int, found: str) -> None:
    outcome = run(seed, Options(peers=12, jobs=8))
    assert outcome.violations == (), found
