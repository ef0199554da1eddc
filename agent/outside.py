"""The outside: what the node's effects are carried out upon (driver.Outside)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from agent.checks import Checks
from agent.clock import Clock
from agent.control.backend import View
from agent.control.feed import Feed
from agent.device import Device
from agent.eventlog import Event as LoggedEvent
from agent.mqtt.bridge import Bridge
from agent.store import Store
from agent.tasks import Tasks
from protocol.effects import (
    CheckTask,
    Publish,
    RemoveTask,
    StartTask,
    StopTask,
    StreamLines,
    Tell,
    TriggerKept,
    TriggerPutOff,
    WatchTopics,
)
from protocol.events import Booted, Event, PeerConnected, PeerDisconnected
from protocol.ids import PeerId

if TYPE_CHECKING:
    from agent.transport import Transport, TransportEvent

_log = logging.getLogger("shoal.events")
# Of a job's many events a log keeps those that somebody looks for later; `shoal events` has all.
QUIET: Final = (
    "job.asking",
    "job.bids",
    "execution.started",
    "execution.publishing",
    "execution.ended-here",
)


class Outside:
    """Carries effects out. Everything returns at once: what takes time has tasks of its own."""

    def __init__(
        self,
        transport: Transport,
        tasks: Tasks,
        checks: Checks,
        device: Device,
        store: Store,
        feed: Feed,
        clock: Clock,
        addresses_of: Callable[[PeerId], tuple[str, ...]],
        bridge: Bridge,
    ) -> None:
        self._transport = transport
        self._tasks = tasks
        self._checks = checks
        self._device = device
        self._store = store
        self._feed = feed
        self._clock = clock
        self._addresses_of = addresses_of
        self._bridge = bridge
        self._members: dict[PeerId, PeerConnected] = {}  # connected now
        self.described = device.describe()

    def note(self, event: TransportEvent) -> None:
        """Remember who is connected, for a node that is built anew."""
        if isinstance(event, PeerConnected):
            self._members[event.peer] = event
        elif isinstance(event, PeerDisconnected):
            self._members.pop(event.peer, None)

    async def first_events(self) -> Sequence[Event]:
        """What a node has to hear first: what it is, what still runs, who is connected."""
        self.described = self._device.describe()
        found = await self._tasks.found()
        connected = self._members.values()
        facts = self._device.sample(len(found))
        brokers = self._bridge.connected()
        return [Booted(found), self.described, facts, *connected, *brokers]

    def send(self, peer: PeerId, frame: bytes) -> None:
        """A peer that no connection is kept to is dialled where its advert says."""
        if not self._transport.send(peer, frame):
            addresses = self._addresses_of(peer)
            if addresses:
                self._transport.learn(peer, addresses)
                self._transport.send(peer, frame)

    def gossip(self, frame: bytes) -> None:
        self._transport.gossip(frame)

    def dial(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        if addresses:
            self._transport.keep(peer, addresses)
        else:
            self._transport.forget(peer)

    def hangup(self, peer: PeerId) -> None:
        self._transport.hangup(peer)

    def start(self, task: StartTask) -> None:
        self._tasks.start(task)

    def check(self, task: CheckTask) -> None:
        self._checks.watch(task)

    def stop(self, task: StopTask) -> None:
        self._tasks.stop(task)

    def remove(self, task: RemoveTask) -> None:
        self._tasks.remove(task)

    def drop_volumes(self) -> None:
        self._tasks.drop_volumes()

    def publish(self, message: Publish) -> None:
        self._bridge.publish(message)

    def stream(self, lines: StreamLines) -> None:
        self._bridge.stream(lines)

    def trigger(self, effect: WatchTopics | TriggerKept | TriggerPutOff) -> None:
        self._bridge.trigger(effect)

    def tell(self, tell: Tell) -> None:
        """Log it, keep it, and push it to whoever follows."""
        if tell.fleeting:
            fields = dict(tell.fields)
            self._feed.pass_on(tell.kind, tell.text, job=tell.job, peer=tell.peer, fields=fields)
            return
        event = self._store.tell(tell, self._clock.now().wall_ms)
        view = event_view(event)
        self._feed.put(view)
        self._bridge.told(view)
        level = logging.DEBUG if tell.kind in QUIET else logging.INFO
        extra = {"kind": tell.kind, "job": tell.job, "peer": tell.peer, "fields": tell.fields}
        _log.log(level, "%s", tell.text, extra={"shoal": extra})


def event_view(event: LoggedEvent) -> View:
    """A logged event as the API gives it."""
    return {
        "seq": event.seq,
        "at_ms": event.at_ms,
        "kind": event.kind,
        "text": event.text,
        "job": event.job,
        "peer": event.peer,
        "fields": msgspec.json.decode(event.fields),
    }
