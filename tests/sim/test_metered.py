"""Metered links of a run: some devices are leaves, and no gossip reaches those."""

from __future__ import annotations

from random import Random

from protocol.sim.metered import put_on_metered_links
from protocol.sim.run import Options, build, run
from protocol.sim.scenarios import SCENARIOS
from protocol.sim.trace import Trace


def test_so_many_devices_are_leaves_and_all_at_most() -> None:
    for leaves, found in ((2, 2), (99, 5)):
        world = build("t", 5, Random(1), Trace(None), SCENARIOS["metered"])
        put_on_metered_links(world, leaves, Random(2))
        assert sum(not device.meshed for device in world.devices) == found


def test_leaves_of_a_run_know_all_and_are_known_to_all() -> None:
    world = build("t", 6, Random(1), Trace(None), SCENARIOS["metered"])
    put_on_metered_links(world, 2, Random(2))
    world.heap.run(300.0)
    for device in world.devices:
        assert device.node is not None and len(device.node.membership.alive()) == 5
        kept = len(world.network.neighbours(device.index))
        assert kept == 2 if not device.meshed else kept >= 3


def test_gossip_goes_past_a_leaf() -> None:
    world = build("t", 6, Random(1), Trace(None), SCENARIOS["metered"])
    put_on_metered_links(world, 2, Random(2))
    world.heap.run(300.0)
    for device in world.devices:
        assert (world.network.traffic[device.index].gossips > 0) is device.meshed


def test_a_run_with_leaves_keeps_its_promises() -> None:
    outcome = run(7, Options(peers=6, jobs=3, scenario="metered"))
    assert [str(violation) for violation in outcome.violations] == []
    assert "metered links" in outcome.faults
