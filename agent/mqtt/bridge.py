"""The bridge: what the node, its events and its tasks' output have to do with brokers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import trio

from agent.control.backend import View
from agent.engines.engine import Engines
from agent.mqtt.broker import ANSWERS, MAIN, Brokers
from agent.mqtt.commanding import Commanding
from agent.mqtt.lasts import Lasts
from agent.mqtt.lines import Lines
from agent.mqtt.listening import Listening
from agent.mqtt.message import Outgoing
from agent.mqtt.overruns import Overruns
from agent.mqtt.refusal import HELD, refused, tell
from agent.mqtt.remembered import Remembered
from agent.mqtt.reports import Reports
from agent.mqtt.showing import Showing
from agent.mqtt.triggering import Triggering
from protocol.effects import Publish, StreamLines, TriggerKept, TriggerPutOff, WatchTopics
from protocol.events import (
    BrokerChanged,
    Event,
    MessagePublished,
    SessionStarted,
    TopicWatched,
)
from protocol.ids import PeerId
from protocol.listening import TopicWatch

NO_ROOM: Final = "too much is on its way already"
_ID: Final = re.compile(r"(?<![a-z2-7])[a-z2-7]{32}(?![a-z2-7])")  # protocol.ids.derive


class Bridge:
    """Carries out what has to do with brokers; does nothing where none is configured."""

    def __init__(
        self,
        brokers: Brokers,
        engines: Engines,
        peer: PeerId,
        post: Callable[[Event], None],
        reports: Reports,
        remembered: Remembered,
        showing: Showing,
        commanding: Commanding,
        lasts: Lasts,
        overruns: Overruns,
    ) -> None:
        self._brokers = brokers
        self._post = post
        self.lines = Lines(engines, brokers, post, peer)
        self._reports = reports
        self.showing = showing
        self.commanding = commanding
        self._lasts = lasts
        self.overruns = overruns
        self.triggering = Triggering(post, self._later, self._hear, self._renew, brokers.root)
        self.listening = Listening(
            brokers, self.triggering.heard, self.triggering.granted, remembered
        )
        self._nursery: trio.Nursery | None = None
        brokers.watch(self._on_changed)
        brokers.watch_sessions(self._on_session)

    async def run(self) -> None:
        if not self._brokers.names:
            return
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._brokers.run)
            nursery.start_soon(self.lines.run)
            nursery.start_soon(self._reports.run)
            nursery.start_soon(self.showing.run)
            nursery.start_soon(self._lasts.run)

    def connected(self) -> list[Event]:
        """What a node that was built anew has to hear."""
        known = [BrokerChanged(each.name, each.connected) for each in self._brokers]
        return [*known, *self.triggering.rebuilt()]

    def _on_changed(self, name: str, connected: bool) -> None:
        self._post(BrokerChanged(name, connected))
        if connected:
            self._reports.connected(name)
            self.showing.connected(name)
            self._lasts.connected()

    def _on_session(self, name: str, session: str, connected: bool) -> None:
        broker = self._brokers.named(name)
        if session in (MAIN, ANSWERS) or broker is None:
            return
        if not connected:
            self.triggering.gone(name, session)
        elif broker.begun_anew(session):
            self._post(SessionStarted(f"{name}/{session}"))

    def _hear(self, watches: Sequence[TopicWatch]) -> None:
        self.listening.hear(watches)
        for watch, problem in self.listening.states():  # a node that was built anew has not heard
            self._post(TopicWatched(watch.template, problem))

    def _renew(self, name: str, session: str) -> None:
        broker = self._brokers.named(name)
        if broker is not None:
            broker.renew(session)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        async def wait() -> None:
            await trio.sleep(seconds)
            action()

        if self._nursery is not None:
            self._nursery.start_soon(wait)

    def trigger(self, effect: WatchTopics | TriggerKept | TriggerPutOff) -> None:
        self.triggering.carry_out(effect)

    def publish(self, message: Publish) -> None:
        def done(problem: str) -> None:
            self._post(published(message, problem))

        outgoing = Outgoing(
            topic=message.topic,
            payload=message.payload,
            qos=message.qos,
            retain=message.retain,
            user_properties=message.properties,
            correlation=message.correlation or None,
            content_type=message.content_type,
            expiry_s=message.expiry_s,
            # Who asks chooses where answers go: their topics are nobody's.
            family="" if message.answer else family_of(message.topic, self._brokers.root),
        )
        broker = self._brokers.named(message.broker)
        if broker is None:
            taken = False
        elif message.answer:
            taken = broker.answer(outgoing, done)
        else:
            taken = broker.publish(outgoing, done)
        if not taken:
            # Not at once: the node is in the middle of the event that this comes from.
            trio.lowlevel.current_trio_token().run_sync_soon(tell, done, NO_ROOM)

    def stream(self, lines: StreamLines) -> None:
        self.lines.start(lines)

    def told(self, event: View) -> None:
        self._reports.told(event)
        self.showing.told(event)
        self._lasts.told(event)


def family_of(topic: str, root: str) -> str:
    """Of a result whose topic has its job's id, or its execution's: what is so for all such results
    of a template; empty for others. In the shoal's own topics slots are alike as well."""
    own = topic.removeprefix(f"{root}/job/")
    if own != topic and "/" in own:
        return f"{root}/job/+/{own.split('/')[1]}"
    family = _ID.sub("+", topic)
    return family if family != topic else ""


def published(message: Publish, problem: str) -> MessagePublished:
    """What the node hears of a message that ended so."""
    refuses = problem != NO_ROOM and refused(problem)
    return MessagePublished(message.key, message.id, problem, refuses, waits=problem == HELD)
