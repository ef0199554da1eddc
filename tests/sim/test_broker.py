"""The simulated broker: what is on its way when a connection breaks is lost, or only its PUBACK."""

from __future__ import annotations

from random import Random

from protocol.effects import Publish
from protocol.sim.broker import LABEL, NAME, SimBroker, publishing_spec
from protocol.sim.device import Device
from protocol.sim.run import Options, build, run
from protocol.sim.tasks import Behaviour
from protocol.sim.trace import Trace
from protocol.sim.world import World
from tests.sim.test_tasks import spec_of

MESSAGE = Publish(NAME, "1".zfill(16), "id", "t", b"x", 1, False)


def world_of(peers: int = 2) -> tuple[World, SimBroker, Device]:
    world = build("broker", peers, Random(1), Trace(None))
    broker = world.broker = SimBroker(world.heap, Random(2))
    world.devices[0].described.labels[LABEL] = "true"
    world.heap.run(10.0)
    return world, broker, world.devices[0]


def connected(device: Device) -> bool:
    assert device.node is not None
    return NAME in device.node.publishing.outbox._connected


def test_those_that_have_it_connect_and_hear_of_its_end() -> None:
    world, broker, device = world_of()
    assert connected(device) and not connected(world.devices[1])
    broker.go_down(world.devices)
    assert not connected(device)
    broker.come_up(world.devices)
    world.heap.run(20.0)
    assert connected(device)


def test_a_message_arrives_and_is_acknowledged_while_the_connection_stands() -> None:
    world, broker, device = world_of()
    broker.publish(device, MESSAGE)
    broker.publish(world.devices[1], MESSAGE)  # which is not connected
    world.heap.run(11.0)
    assert [(receipt.device, receipt.id) for receipt in broker.received] == [(0, "id")]
    broker.publish(device, MESSAGE)
    broker.go_down(world.devices)
    world.heap.run(12.0)
    assert len(broker.received) == 1


def test_a_new_life_of_the_agent_is_a_new_connection() -> None:
    world, broker, device = world_of()
    device.crash()
    assert broker._connections == {}
    device.start_agent()
    world.heap.run(20.0)
    assert connected(device)


def test_a_job_is_the_same_but_for_its_publisher() -> None:
    spec = spec_of(Behaviour(10, 10, 0))
    publishing = publishing_spec(spec)
    publisher = publishing.task.publisher.mqtt
    assert publisher is not None and publisher.broker == NAME
    assert publishing.task.engine == spec.task.engine and publishing.name == spec.name


def test_runs_with_a_broker_keep_every_promise() -> None:
    # What was cleared from the broker waited for the next sweep; keys began anew in a new life; a
    # service was stopped of which a holder spoke of more slots than it has.
    for seed in (223, 41, 291):
        outcome = run(seed, Options(peers=8, scenario="broker"))
        assert [str(violation) for violation in outcome.violations] == []
        assert "a broker" in outcome.faults
