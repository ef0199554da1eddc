"""What must hold once all is quiet."""

from dataclasses import replace
from random import Random

from protocol.events import SubmitRequested
from protocol.resources import Resources
from protocol.sim.invariants import Invariants
from protocol.sim.quiet import unrest
from protocol.sim.run import build
from protocol.sim.tasks import Behaviour
from protocol.sim.trace import Trace
from protocol.sim.world import World
from tests.sim.test_tasks import spec_of


def _world(lasts_ms: int) -> tuple[World, Invariants]:
    world = build("lab", 3, Random(1), Trace())
    world.heap.run(5.0)
    invariants = Invariants(world, 1, exclusive=True)
    world.watcher = invariants
    for device in world.devices:
        invariants.booted(device)
    world.on_reply = lambda device, reply: invariants.acknowledge(
        device, reply.value["job"], reply.value["durable_on"]
    )
    event = SubmitRequested(1, spec_of(Behaviour(lasts_ms, lasts_ms, 0)), "key")
    world.devices[0].handle(event)
    world.heap.run(6.0)
    return world, invariants


def _texts(world: World, invariants: Invariants) -> str:
    return "\n".join(text for _, text in unrest(world, invariants))


def test_a_job_under_way_is_no_rest() -> None:
    world, invariants = _world(3000)
    texts = _texts(world, invariants)
    for part in ("still reserved", "still runs", "is running", "has not ended"):
        assert part in texts
    world.heap.run(20.0)
    assert _texts(world, invariants) == ""


def test_a_lost_job_and_a_dead_device_are_noticed() -> None:
    world, invariants = _world(10)
    world.heap.run(20.0)
    world.devices[1].crash()
    assert "it is down" in _texts(world, invariants)
    world.devices[1].buried = True
    assert _texts(world, invariants) == ""
    for device in world.devices:
        if device.node is not None:
            device.node.jobs.clear()
    assert "is lost" in _texts(world, invariants)


def test_holders_that_differ_and_ends_without_a_reason_are_noticed() -> None:
    world, invariants = _world(10)
    world.heap.run(20.0)
    node = world.devices[0].node
    assert node is not None
    (held,) = node.jobs.values()
    (slot,) = held.slots
    assert slot.acceptance is not None
    slot.acceptance = replace_verdict(slot.acceptance)
    slot.acceptance_data = b"other"
    texts = _texts(world, invariants)
    assert "differs from node" in texts
    assert "without a reason" in texts


def replace_verdict(acceptance: object) -> object:
    import msgspec

    return msgspec.structs.replace(acceptance, verdict=1, result=b"", reason="")  # type: ignore


def test_capacity_that_is_held_is_noticed() -> None:
    world, invariants = _world(10)
    world.heap.run(20.0)
    node = world.devices[2].node
    assert node is not None
    node.executor.bidder.adopt("ghost", Resources(100))
    assert "still reserved" in _texts(world, invariants)
    assert replace(invariants, seed=2).seed == 2
