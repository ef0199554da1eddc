"""NATs of a run: nobody dials in, what was dialled from within works both ways, relays are left."""

from __future__ import annotations

from random import Random

from protocol.sim.nats import PUBLIC_MIN, put_behind
from protocol.sim.run import build
from protocol.sim.scenarios import SCENARIOS
from protocol.sim.trace import Trace
from protocol.sim.world import World


def natted(peers: int, nats: int) -> World:
    world = build("t", peers, Random(1), Trace(None), SCENARIOS["nats"])
    put_behind(world, nats, Random(2))
    return world


def test_two_in_three_are_behind_a_nat_and_all_start_from_public_ones() -> None:
    world = natted(12, 2)
    behind = world.network.behind
    assert len(behind) == 8 and set(behind.values()) == {1, 2}
    for device in world.devices:
        assert len(device.bootstrap) == 2 and device.index not in device.bootstrap
        assert not any(other in behind for other in device.bootstrap)


def test_a_small_shoal_keeps_enough_public_ones() -> None:
    assert len(natted(4, 1).network.behind) == 4 - PUBLIC_MIN
    assert natted(2, 1).network.behind == {}


def test_a_shoal_behind_nats_comes_together_by_relays() -> None:
    world = natted(9, 3)
    world.heap.run(20.0)
    behind = world.network.behind
    for device in world.devices:
        assert device.node is not None
        assert len(device.node.membership.alive()) == 8
        for other in world.devices:
            apart = device.index in behind and other.index in behind
            apart = apart and behind[device.index] != behind[other.index]
            if device is not other:
                assert world.network.stands(device.index, other.index) is not apart
                through = device.node.membership.routes.through(other.peer)
                assert bool(through) is apart
