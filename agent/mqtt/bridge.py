"""The bridge: what the node, its events and its tasks' output have to do with brokers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from agent.control.backend import View
from agent.engines.engine import Engines
from agent.mqtt.broker import Brokers
from agent.mqtt.client import LOST
from agent.mqtt.lines import Lines
from agent.mqtt.message import Outgoing
from agent.mqtt.reports import Reports
from protocol.effects import Publish, StreamLines
from protocol.events import BrokerChanged, Event, MessagePublished
from protocol.ids import PeerId

NO_ROOM: Final = "too much is on its way already"


class Bridge:
    """Carries out Publish and StreamLines; does nothing where no broker is configured."""

    def __init__(
        self,
        brokers: Brokers,
        engines: Engines,
        peer: PeerId,
        post: Callable[[Event], None],
        reports: Reports,
    ) -> None:
        self._brokers = brokers
        self._post = post
        self._lines = Lines(engines, brokers, post, peer)
        self._reports = reports
        brokers.watch(self._on_changed)

    async def run(self) -> None:
        if not self._brokers.names:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._brokers.run)
            nursery.start_soon(self._lines.run)
            nursery.start_soon(self._reports.run)

    def connected(self) -> list[Event]:
        """What a node that was built anew has to hear."""
        return [BrokerChanged(each.name, True) for each in self._brokers if each.connected]

    def _on_changed(self, name: str, connected: bool) -> None:
        self._post(BrokerChanged(name, connected))
        if connected:
            self._reports.connected(name)

    def publish(self, message: Publish) -> None:
        def done(problem: str) -> None:
            lost, refused = problem == LOST, problem not in ("", LOST, NO_ROOM)
            self._post(MessagePublished(message.key, message.id, problem, refused, lost))

        outgoing = Outgoing(
            topic=message.topic,
            payload=message.payload,
            qos=message.qos,
            retain=message.retain,
            user_properties=message.properties,
            content_type=message.content_type,
            expiry_s=message.expiry_s,
        )
        broker = self._brokers.named(message.broker)
        if broker is None or not broker.publish(outgoing, done):
            # Not at once: the node is in the middle of the event that this comes from.
            trio.lowlevel.current_trio_token().run_sync_soon(done, NO_ROOM)

    def stream(self, lines: StreamLines) -> None:
        self._lines.start(lines)

    def told(self, event: View) -> None:
        self._reports.told(event)
