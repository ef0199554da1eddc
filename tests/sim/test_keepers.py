"""Keepers: what they wish for is asked until it is answered."""

from random import Random

from protocol.job import JobType
from protocol.sim.faults import HEAL_S
from protocol.sim.invariants import Invariants
from protocol.sim.keepers import FIRST_REQUEST, ZONES, Keepers, draw_daemon
from protocol.sim.people import People
from protocol.sim.run import build
from protocol.sim.trace import Trace
from protocol.sim.world import World


def _keepers(daemons: int, seed: int = 3) -> tuple[World, Keepers, Invariants]:
    world = build("lab", 4, Random(1), Trace())
    invariants = Invariants(world, 1, exclusive=True)
    world.watcher = invariants
    people = People(world, invariants, Random(seed))
    people.draw(2)
    keepers = Keepers(world, invariants.standing, Random(seed))
    keepers.draw(daemons)
    return world, keepers, invariants


def test_everybody_is_answered_and_other_people_are_too() -> None:
    world, keepers, invariants = _keepers(16, seed=5)
    assert keepers.busy
    world.heap.run(HEAL_S)
    assert not keepers.busy
    assert {wish.event for wish in keepers.wishes} >= {"update", "stop", "delete", "relabel"}
    assert all(number > FIRST_REQUEST for number in keepers._requests)
    assert len(invariants.acknowledged) == 2
    assert len(invariants.standing._told) == 16
    assert invariants.violations == []


def test_who_finds_nobody_at_home_tries_elsewhere() -> None:
    world, keepers, _ = _keepers(3)
    world.heap.run(0.0)
    for device in world.devices[1:]:
        device.buried = True
    world.heap.run(HEAL_S)
    heard = list(keepers._requests.values())
    assert any(wish.tries > 1 for wish in heard)
    assert {wish.device for wish in heard} == {0}


def test_a_device_that_is_moved_finds_out_when_it_starts() -> None:
    world, keepers, _ = _keepers(0)
    device = world.devices[0]
    device.power_off()
    for _ in range(8):
        keepers._relabel(device)
    device.power_on()
    world.heap.run(5.0)
    assert device.node is not None
    assert device.node.executor.bidder.labels == device.described.labels
    keepers._relabel(device)
    assert device.node.executor.bidder.labels["zone"] in ZONES


def test_daemons_of_all_sorts_are_drawn_and_each_edit_is_another() -> None:
    specs = [draw_daemon("d", number, Random(number)) for number in range(100)]
    assert {spec.type for spec in specs} == {JobType.DAEMON}
    assert {spec.update.max_parallel for spec in specs} == {1, 2, 12}
    assert {bool(spec.constraints) for spec in specs} == {True, False}
    assert len({spec.encode() for spec in specs}) == 100
