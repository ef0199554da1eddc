"""Showing: how daemons are, and what Home Assistant is to know, kept at brokers as it is now.

What a device has of a daemon it tells itself. Whether a daemon is on, and what is the shoal's for
Home Assistant, one of those tells that can: all know which (protocol.reporting), and another does
when that one is gone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import is_
from typing import Final, Protocol

import trio

from agent.control.backend import View
from agent.mqtt.broker import Broker, Brokers
from agent.mqtt.commanding import topic_of
from agent.mqtt.homeassistant import (
    JSON,
    ONLINE,
    About,
    Button,
    Component,
    Switch,
    figures_in,
    message_of,
    peer_device,
    peer_topic,
    shoal_device,
    shoal_topic,
)
from agent.mqtt.message import Incoming
from agent.mqtt.retained import Kept, Retained
from protocol.clock import Now
from protocol.daemonviews import DAEMONS_MAX, DaemonView, daemon_views, is_daemon
from protocol.events import Commanded
from protocol.ids import JobId, PeerId
from protocol.listening import word_of
from protocol.node import Node
from protocol.records import Advert, Desired
from protocol.reporting import INTRODUCES_LABEL, REPORTS_LABEL, teller, tellers, tells

GRACE_S: Final = 6.0  # after a start; who else is there, and what changed meanwhile, is known then
LOOK_S: Final = 5.0  # a peer that comes or goes is no event here
TOGETHER_S: Final = 0.2  # what happens together is told together
TEMPLATES_MAX: Final = 256  # looked at for buttons
FORGOTTEN: Final = "peer.forgotten"  # the event of a person's act
DELETED: Final = "job.deleted"  # that of a standing job's record, on each device


class Source(Protocol):
    """What is shown, as the agent has it just now."""

    @property
    def node(self) -> Node: ...
    def now(self) -> Now: ...
    def state(self) -> tuple[View, View]: ...


@dataclass(slots=True)
class Around:
    """Who is there and what there is, with what follows from that: ranks among many devices are
    not worked out anew where nothing of it is another."""

    adverts: list[Advert] = field(default_factory=list)
    expected: list[Advert] = field(default_factory=list)  # with those that are away
    records: bytes = b""
    minute: int = -1
    tellers: dict[tuple[str, str, str], PeerId | None] = field(default_factory=dict)
    commands: dict[str, tuple[list[Button], list[Switch]]] = field(default_factory=dict)

    def same(self, other: Around) -> bool:
        """Adverts are values that are replaced, so that it is enough whether they are the same."""
        pairs = ((self.adverts, other.adverts), (self.expected, other.expected))
        return (self.records, self.minute) == (other.records, other.minute) and all(
            len(ours) == len(theirs) and all(map(is_, ours, theirs)) for ours, theirs in pairs
        )


class Showing:
    """Says to `retained` what is to stand at each broker with `report`."""

    def __init__(self, brokers: Brokers, retained: Retained, source: Source, about: About) -> None:
        self._brokers = brokers
        self._retained = retained
        self._source = source
        self._about = about
        self._changed = trio.Event()
        self._seen: dict[str, None] = {}  # figures that this device can tell
        self.left_out: dict[str, int] = {}  # components, by broker with Home Assistant
        self._of = Around()
        for broker in brokers:
            if broker.settings.home_assistant:
                topic = f"{broker.settings.home_assistant_prefix}/status"
                broker.subscribe(topic, 0, partial(self._on_birth, broker))

    # ---- what happens ------------------------------------------------------------------------

    def connected(self, broker: str) -> None:
        self._retained.connected(broker)

    def told(self, event: View) -> None:
        """Something happened on this device."""
        if event["kind"] == FORGOTTEN and event["peer"]:
            self._forget(PeerId(event["peer"]))
        if event["kind"] == DELETED and event["job"]:
            self._clear_last(JobId(event["job"]))
        self._changed.set()

    def _on_birth(self, broker: Broker, message: Incoming) -> None:
        """Home Assistant has started, and knows no more than what the broker has kept; where that
        keeps nothing, nothing. What it has kept of its own greeting is from earlier."""
        message.ack()
        if message.payload == ONLINE and not message.retain:
            self._retained.again(broker.name, f"{broker.settings.home_assistant_prefix}/")

    def _clear_last(self, job: JobId) -> None:
        """Of a template the last run stands at brokers, told by whoever coordinated that."""
        node = self._source.node
        held = node.steward.standing.jobs.get(job)
        if held is None or held.kind != "template" or held.desired is not Desired.DELETED:
            return
        topic = f"{self._about.root}/template/{word_of(held.namespace, held.name)}/last"
        for broker in self._brokers:
            told_by = teller(node.fleet, REPORTS_LABEL, broker.name, job)
            if broker.settings.report and told_by == self._about.peer:
                self._retained.clear(broker.name, [topic])

    def _forget(self, peer: PeerId) -> None:
        """A person says that it does not come back: what it has left at brokers goes, too."""
        root, node = self._about.root, self._source.node
        daemons = [held for held in node.steward.standing.jobs.values() if is_daemon(held)]
        words = [word_of(held.namespace, held.name) for held in daemons]
        topics = [f"{root}/peer/{peer}/{what}" for what in ("status", "state")]
        topics += [self._part_topic(word, peer) for word in sorted(words)[: 2 * DAEMONS_MAX]]
        for broker in self._brokers:
            if broker.settings.report and peer != self._about.peer:
                prefix, name = broker.settings.home_assistant_prefix, broker.name
                theirs = [*topics, peer_topic(prefix, peer)]
                known = [advert.labels for advert in node.fleet.expected() if advert.peer != peer]
                if not any(tells(labels, INTRODUCES_LABEL, name) for labels in known):
                    theirs.append(shoal_topic(prefix, self._about.shoal))
                self._retained.clear(name, theirs)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._retained.run)
            await trio.sleep(GRACE_S)
            while True:
                self._show()
                await trio.sleep(TOGETHER_S)
                with trio.move_on_after(LOOK_S):
                    await self._changed.wait()
                self._changed = trio.Event()

    # ---- what there is -----------------------------------------------------------------------

    def _show(self) -> None:
        node = self._source.node
        if node.fleet.advert is None:  # it was built anew a moment ago
            return
        steward = node.steward
        fleet = node.fleet
        around = Around(
            fleet.adverts(), fleet.expected(), steward.standing.reconciler.root, self._minute()
        )
        if not around.same(self._of):
            self._of = around
        views = daemon_views(steward.standing, steward.daemons, node.name_of, self._source.now())
        for broker in self._brokers:
            wanted: dict[str, Kept] = {}
            others: list[str] = []
            if broker.settings.report:
                self._show_daemons(broker, views, wanted, others)
            if broker.settings.home_assistant:
                self._show_peer(broker, wanted)
            self._show_shoal(broker, views, wanted, others)
            self._retained.want(broker.name, wanted, others)

    def _minute(self) -> int:
        """What depends on the time alone, as NotAfter does, is looked at so often."""
        return int(self._source.now().mono // 60)

    def _teller(self, label: str, broker: str, key: str) -> PeerId | None:
        """The first rank of those who tell, of whom a shoal may have a thousand."""
        fleet, known = self._source.node.fleet, self._of.tellers
        if (label, broker, key) not in known:
            known[label, broker, key] = teller(fleet, label, broker, key)
        return known[label, broker, key]

    def _state_topic(self, word: str) -> str:
        return f"{self._about.root}/daemon/{word}/state"

    def _part_topic(self, word: str, peer: str) -> str:
        return f"{self._about.root}/daemon/{word}/{peer}/state"

    def _show_daemons(
        self, broker: Broker, views: list[DaemonView], wanted: dict[str, Kept], others: list[str]
    ) -> None:
        me = self._about.peer
        for view in views:
            if view.part is not None:
                payload = json.dumps(view.part, ensure_ascii=False).encode()
                wanted[self._part_topic(view.word, me)] = Kept(payload, JSON)
            topic = self._state_topic(view.word)
            if self._teller(REPORTS_LABEL, broker.name, view.id) == me:
                wanted[topic] = Kept(b"ON" if view.on else b"OFF", guarded=True)
            else:
                others.append(topic)

    def _show_peer(self, broker: Broker, wanted: dict[str, Kept]) -> None:
        state, measured = self._source.state()
        topic = peer_topic(broker.settings.home_assistant_prefix, self._about.peer)
        told = figures_in(self._retained.note(broker.name, topic))  # in earlier lives, too
        self._seen |= {key: None for key, value in measured.items() if value != -1 or key in told}
        device = peer_device(self._about, state, measured, self._seen)
        wanted[topic], _ = self._message(broker, topic, device)

    def _show_shoal(
        self, broker: Broker, views: list[DaemonView], wanted: dict[str, Kept], others: list[str]
    ) -> None:
        fleet, me = self._source.node.fleet, self._about.peer
        topic = shoal_topic(broker.settings.home_assistant_prefix, self._about.shoal)
        told_by = self._teller(INTRODUCES_LABEL, broker.name, self._about.shoal)
        if told_by != me or not broker.settings.home_assistant:
            self.left_out.pop(broker.name, None)
            if told_by not in (None, me):
                others.append(topic)
            return
        peers = tellers(fleet, INTRODUCES_LABEL, broker.name)
        if broker.name not in self._of.commands:
            self._of.commands[broker.name] = (self._buttons(broker), self._switches(broker, views))
        device = shoal_device(self._about, peers, *self._of.commands[broker.name])
        wanted[topic], self.left_out[broker.name] = self._message(broker, topic, device)

    def _message(self, broker: Broker, topic: str, device: Component) -> tuple[Kept, int]:
        note = self._retained.note(broker.name, topic)
        return message_of(device, note, self._retained.stood(broker.name, topic))

    def _buttons(self, broker: Broker) -> list[Button]:
        steward, now = self._source.node.steward, self._source.now()
        held = [each for each in steward.standing.jobs.values() if each.kind == "template"]
        held = sorted(held, key=lambda each: (each.namespace, each.name))[:TEMPLATES_MAX]
        topics = [(each, steward.commands.button(each, broker.name, now)) for each in held]
        return [
            Button(each.id, word_of(each.namespace, each.name), topic)
            for each, topic in topics
            if topic
        ]

    def _switches(self, broker: Broker, views: list[DaemonView]) -> list[Switch]:
        commands = self._source.node.steward.commands
        found = []
        for view in views:
            may = commands.commanded(view.held, broker.name)
            topic = topic_of(self._about.root, Commanded.DAEMON, view.word) if may else ""
            found.append(Switch(view.id, view.word, self._state_topic(view.word), topic))
        return found

    # ---- for the doctor ----------------------------------------------------------------------

    def introduced(self, broker: Broker) -> Mapping[str, bytes]:
        """What Home Assistant can hear there of this device."""
        beginning = f"{broker.settings.home_assistant_prefix}/"
        stands = self._retained.standing(broker.name)
        return {topic: each for topic, each in stands.items() if topic.startswith(beginning)}
