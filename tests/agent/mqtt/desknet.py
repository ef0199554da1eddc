"""A whole node that hears through Triggering what a broker sends, in simulated time; for tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from agent.mqtt.listening import session_of
from agent.mqtt.triggering import Triggering
from protocol.derived import heard_by
from protocol.effects import Effect, TriggerKept, TriggerPutOff, WatchTopics
from protocol.events import Event, TriggerHeard
from protocol.ids import JobId
from protocol.job import JobSpec
from protocol.listening import TopicWatch
from protocol.tree import Plain
from tests.agent.mqtt.test_triggering import Message
from tests.protocol.standingbook import StandingBook
from tests.protocol.triggernet import TriggerNet, allowing, look

CONNECT_S = 0.05


class DeskNet(TriggerNet):
    """One device, `a`, that is let run all templates."""

    def __init__(self, **triggers: int) -> None:
        self.sessions: dict[tuple[str, str], Session] = {}
        self.told_of = 0  # messages that the node was told of
        self.triggering = Triggering(
            self._post,
            self.after,
            lambda watches: None,
            lambda broker, session: self.sessions[broker, session].renew(),
            root="shoal/lab",
        )
        super().__init__("a", configs={"a": allowing("template/*", **triggers)})

    def _post(self, event: Event) -> None:
        self.told_of += isinstance(event, TriggerHeard)
        self.handle("a", event)

    def _carry_out(self, name: str, effect: Effect) -> None:
        super()._carry_out(name, effect)
        if isinstance(effect, WatchTopics | TriggerKept | TriggerPutOff):
            self.triggering.carry_out(effect)

    def template(self, name: str, **fields: Plain) -> Session:
        """Submit it, and what its broker has for it."""
        spec = JobSpec.from_plain({**look(Topic=f"in/{name}", **fields).to_plain(), "Name": name})
        request = self.submit("a", spec)
        self.until(lambda: self.answered("a", request))
        self.run(1.0)
        template = StandingBook(f"template/{name}", shoal=self.shoal).id
        (watch,) = [each for each in self.triggering.watches if each.template == template]
        session = self.sessions["home", session_of(template)] = Session(self, watch)
        return session

    def ran(self, session: Session) -> list[bytes]:
        """The payloads of a template's runs, one for each."""
        found = [heard_by(held.spec_data) for held in self.runs() if held.source == session.id]
        return sorted(each[1].payload for each in found if each is not None)


@dataclass
class Under(Message):
    """A message under way; `sent` says whether it went out before."""

    session: Any = None
    connection: int = 0
    sent: bool = False

    def ack(self) -> None:
        self.session.acknowledged(self.packet_id, self.connection)


@dataclass
class Session:
    """What a broker keeps for one template here. It sends all it has at once, as Debian 12's
    Mosquitto does, and with each connection what it has not seen acknowledged, in its order."""

    net: DeskNet
    watch: TopicWatch
    unheard: bool = False  # acknowledgements do not arrive
    queue: dict[int, Under] = field(default_factory=dict)
    connection: int = 1
    connected: bool = True
    number: int = 0

    @property
    def id(self) -> JobId:
        return self.watch.template

    def publish(self, *payloads: bytes) -> None:
        for payload in payloads:
            self.number += 1
            topic = self.watch.mqtt.topic
            self.queue[self.number] = Under(
                payload, topic, packet_id=self.number, session=self, sent=False
            )
            if self.connected:
                self._send(self.number)

    def _send(self, number: int) -> None:
        under = self.queue[number]
        message = replace(under, dup=under.sent, connection=self.connection)
        under.sent = True
        self.net.triggering.heard(self.watch, message)

    def acknowledged(self, number: int, connection: int) -> None:
        if self.connected and connection == self.connection and not self.unheard:
            self.queue.pop(number, None)

    def renew(self) -> None:
        """The connection ends, and the next one is there soon."""
        self.connected = False
        self.net.triggering.gone("home", session_of(self.id))
        self.net.after(CONNECT_S, self._connect)

    def _connect(self) -> None:
        self.connection += 1
        self.connected, self.unheard = True, False
        for number in list(self.queue):
            self._send(number)
