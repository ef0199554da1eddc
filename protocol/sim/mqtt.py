"""A simulated MQTT broker, and of each agent what stands between it and the node.

The broker keeps a session for each device: what it subscribed to, and each message that it has not
acknowledged, which is sent again with every connection. The subscriptions of a life are made at
once, when its node says what it hears. What is published here are answers to messages that ask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.effects import Publish, TriggerKept, TriggerPutOff, WatchTopics
from protocol.events import BrokerChanged, MessagePublished, TriggerHeard
from protocol.ids import JobId
from protocol.listening import BROKER_LABEL, TopicWatch
from protocol.records import Heard
from protocol.sim.broker import Receipt
from protocol.sim.device import Device
from protocol.sim.world import World
from protocol.trigger import matches

DELAY_S: Final = (0.001, 0.05)
LOOK_S: Final = 0.5  # how often it sees whether a client is there again
IN_FLIGHT_MAX: Final = 20  # as Mosquitto has it
NUMBERS: Final = 30  # of packets; few, so that they come again
NAME: Final = "sim"
LABEL: Final = f"{BROKER_LABEL}{NAME}"
TWICE: Final = 0.05  # of the messages are sent twice, as after a lost acknowledgement


@dataclass(slots=True)
class Published:
    """One message, and which devices had subscribed to its topic."""

    number: int
    template: JobId
    topic: str
    key: str
    at: float = 0.0  # simulated time
    targets: list[int] = field(default_factory=list)

    @property
    def reply(self) -> str:
        """Every other message asks for an answer."""
        return f"replies/{self.number}" if self.number % 2 else ""

    @property
    def heard(self) -> Heard:
        correlation = str(self.number).encode() if self.reply else b""
        return Heard(self.topic, f"message {self.number}".encode(), self.reply, correlation)


@dataclass(slots=True)
class Delivery:
    """A message under way to one session."""

    message: Published
    packet: int = 0  # zero: not sent yet
    handle: int = 0  # in the present life; zero: not told of


@dataclass(slots=True)
class Session:
    """What the broker keeps for one device."""

    topics: tuple[str, ...] = ()
    watches: tuple[TopicWatch, ...] = ()  # of the life that is connected
    life: int = -1
    packet: int = 0
    queue: list[Delivery] = field(default_factory=list)
    offline_until: float = 0.0
    arrives_at: float = 0.0  # the latest that is under way: a connection keeps their order


@dataclass(slots=True)
class Broker:
    """One broker for all devices. `handles` is what was told to which device, for invariants."""

    world: World
    rng: Random
    sessions: dict[int, Session] = field(default_factory=dict)
    handles: dict[tuple[int, int], Published] = field(default_factory=dict)
    received: list[Receipt] = field(default_factory=list)
    _count: int = 0
    _ways: Random = field(init=False)  # of answers: apart, so that they change nothing else

    def __post_init__(self) -> None:
        self._ways = Random(f"{self.world.seed}/answers")

    # ---- answers -----------------------------------------------------------------------------

    def arrived(self, device: Device) -> None:
        """A life of the device's agent begins: it connects."""
        if LABEL in device.described.labels:
            way_s = self._ways.uniform(*DELAY_S)
            self.world.heap.after(way_s, self._tell_connected, device, device.lives)

    def _tell_connected(self, device: Device, life: int) -> None:
        if device.lives == life and self._reaches(device):
            device.hear_broker(BrokerChanged(NAME, True))

    def _reaches(self, device: Device) -> bool:
        session = self.sessions.get(device.index)
        return session is None or self.world.heap.now >= session.offline_until

    def publish_of(self, device: Device, effect: Publish) -> None:
        way_s = self._ways.uniform(*DELAY_S)
        self.world.heap.after(way_s, self._receive, device, device.lives, effect)

    def _receive(self, device: Device, life: int, effect: Publish) -> None:
        """It has left, whether or not who sent it lives on; its PUBACK may be lost."""
        if self._reaches(device):
            receipt = Receipt(device.index, effect.id, effect.topic, effect.payload)
            self.received.append(receipt)
            way_s = self._ways.uniform(*DELAY_S)
            self.world.heap.after(way_s, self._acknowledge, device, life, effect)

    def _acknowledge(self, device: Device, life: int, effect: Publish) -> None:
        if device.lives == life and self._reaches(device):
            device.hear_broker(MessagePublished(effect.key, effect.id))

    # ---- messages ----------------------------------------------------------------------------

    def told(self, device: Device, effect: WatchTopics | TriggerKept | TriggerPutOff) -> None:
        session = self.sessions.setdefault(device.index, Session())
        if isinstance(effect, WatchTopics):
            session.watches = effect.watches
            session.topics = tuple(watch.mqtt.topic for watch in effect.watches)
            if session.life != device.lives:
                self._connect(device, session)
            return
        if isinstance(effect, TriggerPutOff):
            again = (device, session.life, effect.handle)
            self.world.heap.after(effect.again_s, self._offer_again, *again)
            return
        session.queue = [each for each in session.queue if each.handle != effect.handle]
        self._send(device, session)

    def publish(self, message: Published) -> None:
        message.at = self.world.heap.now
        for index, session in self.sessions.items():
            if any(matches(topic, message.topic) for topic in session.topics):
                message.targets.append(index)
                session.queue.append(Delivery(message))
                self._send(self.world.devices[index], session)

    def cut_off(self, index: int, seconds: float) -> None:
        """This device does not reach the broker for a while."""
        session = self.sessions.setdefault(index, Session())
        session.offline_until = self.world.heap.now + seconds
        device = self.world.devices[index]
        if LABEL in device.described.labels:
            device.hear_broker(BrokerChanged(NAME, False))
        self.world.heap.after(seconds, self._reconnect, self.world.devices[index], session)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, but to devices that are gone for good."""
        return all(
            not session.queue or self.world.devices[index].buried
            for index, session in self.sessions.items()
        )

    def _reconnect(self, device: Device, session: Session) -> None:
        self.arrived(device)
        if device.node is not None and session.life == device.lives:
            self._connect(device, session)

    def _connect(self, device: Device, session: Session) -> None:
        """All that is not acknowledged comes again. What nobody asked for in this life is for
        nobody, as a client takes it."""
        session.life = device.lives
        wanted = {watch.template: None for watch in session.watches}
        session.queue = [each for each in session.queue if each.message.template in wanted]
        for each in session.queue:
            each.handle = 0
        self._send(device, session)

    def _send(self, device: Device, session: Session) -> None:
        if session.life != device.lives or self.world.heap.now < session.offline_until:
            return
        for each in session.queue[:IN_FLIGHT_MAX]:
            if each.handle:
                continue
            repeated = each.packet > 0
            if not repeated:
                used = {other.packet: None for other in session.queue}
                session.packet = session.packet % NUMBERS + 1
                while session.packet in used:
                    session.packet = session.packet % NUMBERS + 1
                each.packet = session.packet
            self._tell(device, session, each, repeated)
            if self.rng.random() < TWICE:
                self._tell(device, session, each, True)

    def _tell(self, device: Device, session: Session, each: Delivery, repeated: bool) -> None:
        self._count += 1
        each.handle = self._count
        message = each.message
        self.handles[(device.index, each.handle)] = message
        event = TriggerHeard(
            each.handle,
            message.template,
            message.heard,
            message.key,
            f"sim/{each.packet}",
            repeated,
        )
        at = self.world.heap.now + self.rng.uniform(*DELAY_S)
        session.arrives_at = max(at, session.arrives_at)
        self.world.heap.at(session.arrives_at, self._arrive, device, session.life, event)

    def _arrive(self, device: Device, life: int, event: TriggerHeard) -> None:
        if device.lives == life and device.node is not None:
            device.handle(event)

    def _offer_again(self, device: Device, life: int, handle: int) -> None:
        session = self.sessions[device.index]
        for each in session.queue:
            if each.handle == handle and device.lives == life == session.life:
                self._tell(device, session, each, True)
