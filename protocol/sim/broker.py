"""A simulated MQTT broker: it goes away and comes back, and loses PUBACKs as connections break."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Final

from protocol.asks import BROKER_LABEL
from protocol.effects import Publish
from protocol.events import BrokerChanged, MessagePublished
from protocol.job import JobSpec, Plain
from protocol.sim.heap import Heap

if TYPE_CHECKING:
    from protocol.sim.device import Device
    from protocol.sim.people import People
    from protocol.sim.world import World

NAME: Final = "home"
LABEL: Final = BROKER_LABEL + NAME
WAY_S: Final = (0.001, 0.2)  # a LAN's, and a phone's
CONNECT_S: Final = (0.1, 3.0)  # with the pauses between tries
OUTAGE_S: Final = (0.5, 15.0)
REFUSED: Final = 0.01  # of the messages: it is short of something just then
SHARE: Final = 0.8  # of the devices have it configured
PUBLISHING: Final = 0.5  # of the jobs


@dataclass(frozen=True, slots=True)
class Receipt:
    """One message as it arrived; its PUBACK may have been lost."""

    device: int
    id: str
    topic: str
    payload: bytes


@dataclass(slots=True)
class SimBroker:
    """Connections are numbered; what belongs to one that is gone arrives nowhere."""

    heap: Heap
    rng: Random
    up: bool = True
    received: list[Receipt] = field(default_factory=list)
    _connections: dict[int, int] = field(default_factory=dict)  # of devices that are connected
    _count: int = 0

    def arrived(self, device: Device) -> None:
        """A life of the device's agent begins: it connects, after a while or tries."""
        self.left(device)
        if LABEL in device.described.labels:
            self.heap.after(self.rng.uniform(*CONNECT_S), self._connect, device, device.lives)

    def left(self, device: Device) -> None:
        self._connections.pop(device.index, None)

    def _connect(self, device: Device, life: int) -> None:
        if not self.up or not device.listening or device.lives != life:
            return
        if device.index not in self._connections:
            self._count += 1
            self._connections[device.index] = self._count
            device.hear_broker(BrokerChanged(NAME, True))

    def publish(self, device: Device, effect: Publish) -> None:
        connection = self._connections.get(device.index, 0)
        if connection:
            way_s = self.rng.uniform(*WAY_S)
            self.heap.after(way_s, self._receive, device, effect, connection)

    def _receive(self, device: Device, effect: Publish, connection: int) -> None:
        """It arrives while the connection stands, whether or not who sent it lives on."""
        if self._connections.get(device.index) != connection:
            return
        refused = self.rng.random() < REFUSED
        if not refused:
            receipt = Receipt(device.index, effect.id, effect.topic, effect.payload)
            self.received.append(receipt)
        problem = "quota exceeded" if refused else ""
        event = MessagePublished(effect.key, effect.id, problem, refused)
        way_s = self.rng.uniform(*WAY_S)
        self.heap.after(way_s, self._answer, device, event, connection)

    def _answer(self, device: Device, event: MessagePublished, connection: int) -> None:
        if self._connections.get(device.index) == connection:
            device.hear_broker(event)

    def go_down(self, devices: list[Device]) -> None:
        self.up = False
        gone, self._connections = self._connections, {}
        for index in gone:
            devices[index].hear_broker(BrokerChanged(NAME, False))

    def come_up(self, devices: list[Device]) -> None:
        self.up = True
        for device in devices:
            self.arrived(device)


def set_up(world: World, people: People, outages: int, rng: Random, heal_s: float) -> None:
    """Give most devices the broker and some jobs its publisher; have it go away so often."""
    broker = world.broker = SimBroker(world.heap, rng)
    for device in world.devices:
        if rng.random() < SHARE:
            device.described.labels[LABEL] = "true"
    numbers = dict.fromkeys(call.number for call in people.calls)
    publishing = {number: rng.random() < PUBLISHING for number in numbers}
    for call in people.calls:
        if publishing[call.number]:
            call.spec = publishing_spec(call.spec)
    for _ in range(outages):
        begins = rng.uniform(0.0, heal_s)
        ends = min(begins + rng.uniform(*OUTAGE_S), heal_s)
        world.heap.at(begins, broker.go_down, world.devices)
        world.heap.at(ends, broker.come_up, world.devices)


def publishing_spec(spec: JobSpec) -> JobSpec:
    """The same job, whose results go to the broker."""
    params: dict[str, Plain] = {"Broker": NAME}
    tree = spec.task.to_plain() | {"Publisher": {"Type": "mqtt", "Params": params}}
    plain = spec.to_plain() | {"Tasks": [tree]}
    return JobSpec.from_plain(plain)
