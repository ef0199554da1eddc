"""Metered links of a run: some devices are leaves, and no gossip reaches those."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

from protocol.config import MembershipConfig
from protocol.sim.metered import put_on_metered_links
from protocol.sim.run import Options, build, run
from protocol.sim.scenarios import SCENARIOS
from protocol.sim.trace import Trace

HOUR_S: Final = 3600.0
MONTH_S: Final = 30 * 86_400.0


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


def test_a_leaf_behind_a_nat_of_its_own_stays_below_its_budget_and_its_death_is_known() -> None:
    """As a device on a mobile network among those behind a home router: one public peer relays."""
    world = build("t", 6, Random(1), Trace(None), SCENARIOS["metered"])
    leaf, public, others = world.devices[-1], world.devices[0], world.devices[1:-1]
    leaf.config = replace(leaf.config, membership=MembershipConfig.preset("metered"))
    world.network.behind = {device.index: 1 for device in others} | {leaf.index: 2}
    for device in world.devices:
        device.bootstrap = () if device is public else (public.index,)
    world.heap.run(1200.0)
    assert leaf.node is not None and world.network.neighbours(leaf.index) == [public.index]
    before = world.network.traffic[leaf.index].bytes
    world.heap.run(world.heap.now + HOUR_S)
    month = (world.network.traffic[leaf.index].bytes - before) * MONTH_S / HOUR_S
    assert month < 5e6
    assert all(leaf.peer in device.node.membership.alive() for device in others if device.node)
    leaf.power_off()
    world.heap.run(world.heap.now + 600.0)
    for device in (public, *others):
        assert device.node is not None
        assert device.node.membership.alive() == sorted(
            other.peer for other in world.devices if other not in (device, leaf)
        )
