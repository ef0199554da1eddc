"""Publishers: templates are kept, messages come, and each becomes a job."""

from random import Random

from protocol.sim.invariants import Invariants
from protocol.sim.mqtt import Broker
from protocol.sim.people import People
from protocol.sim.publishers import FIRST_REQUEST, LAST_S, Publishers, draw_template
from protocol.sim.run import build
from protocol.sim.trace import Trace
from protocol.sim.world import World

HEAL_S = 30.0


def _publishers(triggers: int) -> tuple[World, Publishers, Invariants]:
    world = build("lab", 4, Random(1), Trace())
    invariants = Invariants(world, 1, exclusive=True)
    world.watcher = invariants
    people = People(world, invariants, Random(3), HEAL_S)
    people.draw(2)
    publishers = Publishers(world, invariants.triggers, Random(5), HEAL_S, cuts=False)
    publishers.draw(triggers)
    return world, publishers, invariants


def test_all_messages_come_and_become_jobs_and_other_people_are_answered() -> None:
    world, publishers, invariants = _publishers(3)
    assert publishers.busy
    world.heap.run(HEAL_S + LAST_S + 30.0)
    assert not publishers.busy
    assert all(sensor.accepted for sensor in publishers.sensors)
    assert all(number > FIRST_REQUEST for number in publishers._requests)
    assert len(invariants.acknowledged) == 2
    assert isinstance(world.topics, Broker) and world.topics.idle
    heard = [message for message in invariants.triggers.messages if message.targets]
    assert len(heard) > 10
    assert invariants.triggers.unrest() == [] and invariants.violations == []


def test_where_there_are_none_nobody_has_a_broker() -> None:
    world, publishers, _ = _publishers(0)
    assert world.topics is None and not publishers.busy
    assert all("broker.sim" not in device.described.labels for device in world.devices)


def test_templates_are_drawn_with_keys_and_without() -> None:
    for keyed in (True, False):
        spec = draw_template("trigger-1", keyed, Random(1))
        assert spec.trigger is not None and spec.trigger.mqtt.keyed is keyed
