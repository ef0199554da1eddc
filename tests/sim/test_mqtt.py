"""The simulated broker: it keeps what is not acknowledged, and sends it again."""

from __future__ import annotations

from random import Random

from protocol.effects import TriggerKept, TriggerPutOff, WatchTopics
from protocol.events import TriggerHeard
from protocol.ids import JobId
from protocol.listening import TopicWatch
from protocol.sim.device import Device
from protocol.sim.mqtt import IN_FLIGHT_MAX, Broker, Published
from protocol.sim.run import build
from protocol.sim.trace import Trace
from protocol.trigger import MqttTrigger

LOOK = JobId("look")
WATCH = TopicWatch(LOOK, "default", "look", MqttTrigger(broker="sim", topic="sim/#"))


class NeverTwice(Random):
    """Whatever is to happen now and then does not."""

    def random(self) -> float:
        return 0.999


class Heard(Broker):
    """Tells the test instead of the device."""

    __slots__ = ("events",)

    def _arrive(self, device: Device, life: int, event: TriggerHeard) -> None:
        if device.lives == life and device.node is not None:
            self.events.append(event)


class Lab:
    def __init__(self) -> None:
        self.world = build("lab", 1, Random(1), Trace())
        self.device = self.world.devices[0]
        self.broker = Heard(self.world, NeverTwice(7))
        self.broker.events = []
        self.device.power_on()
        self.watch()

    @property
    def events(self) -> list[TriggerHeard]:
        return self.broker.events

    def watch(self, *watches: TopicWatch) -> None:
        self.broker.told(self.device, WatchTopics(watches or (WATCH,)))
        self.run()

    def publish(self, number: int = 1) -> Published:
        message = Published(number, LOOK, f"sim/{number}", "")
        self.broker.publish(message)
        self.run()
        return message

    def keep(self, event: TriggerHeard) -> None:
        self.broker.told(self.device, TriggerKept(event.handle))
        self.run()

    def run(self, seconds: float = 0.2) -> None:
        self.world.heap.run(self.world.heap.now + seconds)

    def reboot(self) -> None:
        self.device.crash()
        self.device.start_agent()


def test_a_message_comes_once_and_is_gone_when_it_is_kept() -> None:
    lab = Lab()
    message = lab.publish()
    (event,) = lab.events
    assert event.message == message.heard and not event.repeated
    assert message.targets == [0] and not lab.broker.idle
    lab.keep(event)
    lab.run(5.0)
    assert lab.broker.idle and len(lab.events) == 1


def test_what_nobody_subscribed_to_is_for_nobody() -> None:
    lab = Lab()
    message = Published(1, LOOK, "garden", "")
    lab.broker.publish(message)
    lab.run()
    assert message.targets == [] and lab.events == []


def test_what_was_not_kept_comes_again_with_the_next_life_under_its_number() -> None:
    lab = Lab()
    lab.publish()
    lab.reboot()
    lab.run()
    assert len(lab.events) == 1  # it says what it hears first
    lab.watch()
    first, second = lab.events
    assert second.repeated and second.delivery == first.delivery
    assert second.handle != first.handle


def test_what_the_next_life_does_not_hear_is_gone() -> None:
    lab = Lab()
    lab.publish()
    lab.reboot()
    other = TopicWatch(JobId("other"), "default", "other", WATCH.mqtt)
    lab.watch(other)
    assert len(lab.events) == 1 and lab.broker.idle


def test_it_keeps_what_comes_while_a_device_is_away_in_order() -> None:
    lab = Lab()
    lab.broker.cut_off(0, 5.0)
    for number in range(3):
        lab.publish(number)
    assert lab.events == []
    lab.run(6.0)
    assert [event.message.topic for event in lab.events] == ["sim/0", "sim/1", "sim/2"]
    assert not any(event.repeated for event in lab.events)


def test_it_sends_only_so_many_ahead() -> None:
    lab = Lab()
    for number in range(2 * IN_FLIGHT_MAX):
        lab.publish(number)
    assert len(lab.events) == IN_FLIGHT_MAX
    lab.keep(lab.events[0])
    assert len(lab.events) == IN_FLIGHT_MAX + 1
    assert len({event.delivery for event in lab.events[1:]}) == IN_FLIGHT_MAX


def test_what_is_put_off_is_told_again() -> None:
    lab = Lab()
    lab.publish()
    lab.broker.told(lab.device, TriggerPutOff(lab.events[0].handle, 1.0))
    lab.run(0.5)
    assert len(lab.events) == 1
    lab.run(1.0)
    assert len(lab.events) == 2 and lab.events[1].delivery == lab.events[0].delivery
