"""A simulated MQTT broker, and of each agent what stands between it and the node.

The broker keeps a session for each device: what it subscribed to, and each message that it has not
acknowledged, which is sent again with every connection. The subscriptions of a life are made at
once, when its node says what it hears.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.effects import TriggerKept, TriggerPutOff, WatchTopics
from protocol.events import TriggerHeard
from protocol.ids import JobId
from protocol.listening import TopicWatch
from protocol.records import Heard
from protocol.sim.device import Device
from protocol.sim.world import World
from protocol.trigger import matches

DELAY_S: Final = (0.001, 0.05)
LOOK_S: Final = 0.5  # how often it sees whether a client is there again
IN_FLIGHT_MAX: Final = 20  # as Mosquitto has it
NUMBERS: Final = 30  # of packets; few, so that they come again
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
    def heard(self) -> Heard:
        return Heard(self.topic, f"message {self.number}".encode())


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
    _count: int = 0

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
        self.world.heap.after(seconds, self._reconnect, self.world.devices[index], session)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, but to devices that are gone for good."""
        return all(
            not session.queue or self.world.devices[index].buried
            for index, session in self.sessions.items()
        )

    def _reconnect(self, device: Device, session: Session) -> None:
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
