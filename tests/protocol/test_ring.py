"""The ring: exactly k targets each, agreed by both ends, and little moves when somebody does."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import PeerId
from protocol.ring import Ring


def ring_of(count: int) -> tuple[Ring, list[PeerId]]:
    ring, peers = Ring(), [PeerId(f"peer-{index}") for index in range(count)]
    for peer in peers:
        ring.add(peer)
    return ring, peers


@given(st.integers(1, 40), st.integers(1, 7))
def test_whoever_has_me_as_monitor_is_my_target(count: int, k: int) -> None:
    ring, peers = ring_of(count)
    for peer in peers:
        monitors = ring.monitors(peer, k)
        assert len(monitors) == len(set(monitors)) == min(k, count - 1)
        assert peer not in monitors
        assert all(peer in ring.targets(monitor, k) for monitor in monitors)
        assert len(ring.targets(peer, k)) == min(k, count - 1)


def test_the_order_of_arrival_does_not_matter() -> None:
    ring, peers = ring_of(30)
    other = Ring()
    Random(4).shuffle(peers)
    for peer in peers:
        other.add(peer)
        other.add(peer)
    assert len(other) == 30
    assert all(ring.monitors(peer, 5) == other.monitors(peer, 5) for peer in peers)


def test_one_that_leaves_moves_only_its_neighbours() -> None:
    ring, peers = ring_of(100)
    before = {peer: ring.monitors(peer, 5) for peer in peers}
    ring.discard(peers[7])
    ring.discard(peers[7])
    assert peers[7] not in ring and peers[8] in ring and len(ring) == 99
    moved = [p for p in peers if p != peers[7] and ring.monitors(p, 5) != before[p]]
    assert moved == [peer for peer in peers if peers[7] in before[peer]]
    assert len(moved) == 5


def test_a_stranger_has_monitors_and_targets_too() -> None:
    ring, peers = ring_of(3)
    stranger = PeerId("stranger")
    assert sorted(ring.monitors(stranger, 5)) == peers == sorted(ring.targets(stranger, 5))
    assert stranger not in ring
    assert Ring().monitors(stranger, 5) == []
