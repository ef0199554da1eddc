"""A rogue's orders reach a node, and nothing comes of them."""

from random import Random

from protocol.sim.faults import HEAL_S
from protocol.sim.keyring import EVERY_ROLE, Root
from protocol.sim.rogue import schedule_rogue
from protocol.sim.run import WORKING, build
from protocol.sim.trace import Trace
from protocol.sim.world import World


def _shoal(lines: list[str], weak: int) -> World:
    world = build("lab", 3, Random(1), Trace(lines.append))
    for device in world.devices:
        roles = WORKING if device.index == weak else EVERY_ROLE
        device.keyring = Root("lab").member(device.index, roles)
    return world


def test_orders_are_heard_and_refused() -> None:
    lines: list[str] = []
    world = _shoal(lines, weak=1)
    rng = Random(5)
    for _ in range(10):
        schedule_rogue(world, rng)
    world.heap.run(HEAL_S)
    text = "\n".join(lines)
    assert "<- 1 Award(" in text
    assert "may not submit" in text
    for device in world.devices:
        assert device.node is not None
        assert device.node.jobs == {}
        assert not device.host.tasks


def test_where_everybody_may_submit_there_is_no_rogue() -> None:
    world = _shoal([], weak=9)
    before = world.heap.next_at
    schedule_rogue(world, Random(5))
    assert world.heap.next_at == before
