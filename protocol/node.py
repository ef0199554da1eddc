"""The node: one peer's whole protocol state; events in, effects out (DESIGN 2).

It composes membership, catalogue, coordination, executor and steward, brings each event to those
whom it concerns, and is the only thing a driver or the simulator talks to.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import assert_never

import msgspec

from protocol.bidding import Bidder
from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import NodeConfig
from protocol.coordination import Coordination
from protocol.description import Description
from protocol.effects import Bucket, Effect, RemoveTask, Reply, Save, Tell, one_save
from protocol.events import (
    Booted,
    BrokerChanged,
    CommandHeard,
    ControlRequested,
    DeadlinePassed,
    Event,
    FactsSampled,
    ForgetRequested,
    FrameReceived,
    GossipReceived,
    HealthChanged,
    LinesPublished,
    LoopLagged,
    MessagePublished,
    PeerConnected,
    PeerDisconnected,
    PublishingStarted,
    QueryRequested,
    ResultRequested,
    RunRequested,
    SelfDescribed,
    SessionStarted,
    ShutdownRequested,
    SubmitRequested,
    TaskEnded,
    TaskProgressed,
    TaskStarted,
    TopicWatched,
    TriggerFiltered,
    TriggerHeard,
    TriggerRefused,
)
from protocol.executor import Executor
from protocol.fleet import Fleet
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId
from protocol.inquiry import Inquiries, View
from protocol.led import Led
from protocol.loss import Loss
from protocol.membership import Membership
from protocol.messaging import Messaging
from protocol.nodeviews import NodeViews
from protocol.opsjournal import OpsJournal
from protocol.placement import Placement
from protocol.proofs import Proofs
from protocol.propagation import Propagation
from protocol.publishing import Publishing
from protocol.records import Advert, Certificate, Keyring, Role, Verdict
from protocol.relay import ANSWERING_S, Relay
from protocol.requests import Requests
from protocol.restarts import Restarts
from protocol.rollout import Rollout
from protocol.roster import State
from protocol.slots import Cron
from protocol.steward import Steward
from protocol.story import Stories
from protocol.unread import told
from protocol.wire import loads, open_sealed

SWEEP_S = 600.0  # how often old jobs and executions are looked for


class Node:
    """One peer. Not thread-safe; its driver owns it. Built from what the disk held at the start.

    `handle` never raises for anything that came from outside: what a peer did wrong is counted in
    `messaging.malformed`, and the message is dropped.
    """

    def __init__(
        self,
        keyring: Keyring,
        config: NodeConfig,
        rng: Random,
        disk: Mapping[Bucket, Mapping[str, bytes]],
        cron: Cron,
    ) -> None:
        self.keyring = keyring
        self.config = config
        self.rng = rng
        self.cron = cron
        certificate = open_sealed(keyring.certificate, keyring).record
        assert isinstance(certificate, Certificate), certificate
        self.certificate = certificate
        coordination = config.coordination
        computes = certificate.holds(Role.COMPUTE)
        # Drawn with the database: see opsjournal.
        self._drawn = "memory" not in disk.get("meta", {})
        memory = rng.randbytes(8) if self._drawn else disk["meta"]["memory"]
        self._loss = Loss.restore(disk.get("meta", {}), coordination.retain_s)
        self.membership = Membership(
            config.membership,
            keyring,
            rng,
            incarnation=_saved_incarnation(disk),
            known=disk.get("peer", {}),
            name=config.name or certificate.name,
            version=config.version,
            computes=computes,
            memory=memory,
        )
        # A leaf's letters are minutes apart, and the certificate is more than half of one.
        self.relay = Relay(keyring, max(ANSWERING_S, 3.0 * config.membership.keepalive_s))
        name = config.name or certificate.name
        self.fleet = fleet = Fleet(self.membership, keyring.peer, certificate, name)
        stories = Stories(coordination.stories_max)
        self.catalogue = Catalogue(keyring, coordination, fleet.reachable, seq=rng.getrandbits(40))
        placement = Placement(
            keyring,
            config.auction,
            coordination,
            self.catalogue,
            fleet,
            stories,
            rng,
            self._give_up,
        )
        rollout = Rollout(config.standing, self.catalogue, placement)
        self.coordination = Coordination(
            keyring, coordination, self.catalogue, placement, fleet, stories, rollout
        )
        bidder = Bidder(config.auction, config.policy, certificate_of=fleet.certificate_of)
        self.publishing = Publishing(keyring.peer, config.outbox, int(coordination.retain_s))
        bidder.hindrance = self.publishing.hindrance
        self.executor = self._executor(bidder, OpsJournal(memory))
        self.inquiries = Inquiries(
            keyring.peer, self._views, self.fleet.neighbours, self.membership.steady
        )
        self.proofs = Proofs(keyring, self.catalogue.jobs, self.inquiries.whom)
        self.requests = self._requests()
        self.steward = self._steward()
        self.views = self._node_views(stories)
        self.messaging = self._messaging()
        self.description = self._description(computes)
        self.propagation = self._propagation()
        self._sweep_at = 0.0
        self.unreadable = self.catalogue.restore(disk) + self.executor.restore(disk)
        self.unreadable += self.steward.restore(disk) + self.publishing.restore(disk)

    def _requests(self) -> Requests:
        return Requests(
            self.keyring,
            self.certificate,
            self.config.coordination,
            self.catalogue,
            self.coordination,
            self.inquiries,
            self.name_of,
        )

    def _executor(self, bidder: Bidder, journal: OpsJournal) -> Executor:
        return Executor(
            self.keyring,
            self.config.coordination,
            bidder,
            self.fleet.reachable,
            journal,
            Restarts(self.config.standing, self.rng),
            self._over,
            self._first_rank,
            self._alone_since,
            self.publishing,
        )

    def _steward(self) -> Steward:
        return Steward(
            self.keyring,
            self.certificate,
            self.config,
            self.rng,
            self.executor,
            self.coordination,
            self.inquiries,
            self.fleet.adverts,
            self.fleet.neighbours,
            self.fleet.absent,
            self.name_of,
            self.requests,
            self.cron,
            self.membership.partners,
        )

    def _node_views(self, stories: Stories) -> NodeViews:
        return NodeViews(
            self.keyring,
            self.membership,
            self.fleet,
            self.catalogue,
            self.coordination,
            stories,
            self.steward,
        )

    def _messaging(self) -> Messaging:
        return Messaging(
            self.config.membership.peers_max,
            self.membership,
            self.relay,
            self.fleet,
            self.catalogue,
            self.coordination,
            self.executor,
            self.inquiries,
            self.proofs,
            self.requests,
            self.steward,
        )

    def _description(self, computes: bool) -> Description:
        return Description(
            self.config,
            computes,
            self.membership,
            self.fleet,
            self.executor,
            self.coordination,
            self.steward,
        )

    def _propagation(self) -> Propagation:
        return Propagation(
            self.membership, self.catalogue, self.coordination, self.executor, self.steward
        )

    # ---- the one entry -----------------------------------------------------------------------

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Take in one event; returns the effects in the order to carry them out in."""
        effects = self._on(event, now)
        effects = self.messaging.loop_back(effects, now)
        news = self.propagation.news(now)
        while news:
            effects += self.messaging.loop_back(news, now)
            news = self.propagation.news(now)
        removed = [effect.execution for effect in effects if isinstance(effect, RemoveTask)]
        for execution in removed:
            effects += self.publishing.removed(execution)
        return one_save([self.messaging.routed(effect, now) for effect in effects])

    @property
    def deadline(self) -> float:
        """Monotonic seconds at which a DeadlinePassed is due; infinity where nothing pends."""
        return min(
            self.membership.deadline,
            self.catalogue.deadline,
            self.coordination.deadline,
            self.executor.deadline,
            self.inquiries.deadline,
            self.proofs.deadline,
            self.steward.deadline,
            self.publishing.deadline,
            self._sweep_at,
        )

    @property
    def jobs(self) -> dict[JobId, HeldJob]:
        return self.catalogue.jobs

    # ---- events ------------------------------------------------------------------------------

    def _on(self, event: Event, now: Now) -> list[Effect]:
        match event:
            case FrameReceived():
                return self.messaging.on_frame(event, now)
            case GossipReceived():
                return self.messaging.on_gossip(event, now)
            case DeadlinePassed():
                return self._on_deadline(now)
            case TaskStarted() | TaskProgressed() | HealthChanged() | TaskEnded() if (
                self.steward.owns(event.execution)
            ):
                return self.steward.on_task(event, now)
            case TaskProgressed():
                return self.executor.lifecycle.on_progress(event, now)
            case HealthChanged():
                return self.executor.lifecycle.on_health(event, now)
            case TaskStarted():
                return self.executor.lifecycle.on_started(event.execution, now, event.ports)
            case PublishingStarted():
                return self.executor.lifecycle.on_publishing(event.execution, now)
            case TaskEnded():
                return self.executor.lifecycle.on_ended(event, now)
            case BrokerChanged():
                hearing = self.steward.triggers.hearing
                hearing.on_broker(event.broker, event.connected, now.mono)
                return self.publishing.on_event(event, now)
            case MessagePublished() | LinesPublished():
                return self.publishing.on_event(event, now)
            case FactsSampled():
                self.description.on_sampled(event, now)
                clocked = [*self.description.on_clock(now), *self._loss.review(now)]
                return [*clocked, *self.steward.sampled(now)]
            case SubmitRequested() if event.spec.standing:
                return self.steward.submit(event, now)
            case SubmitRequested():
                return self.requests.submit(event, now)
            case RunRequested():
                return self.steward.run_template(event, now)
            case ControlRequested() if event.job in self.steward.standing.jobs:
                return self.steward.control(event, now)
            case ControlRequested():
                return self.requests.control(event, now)
            case (
                TriggerHeard()
                | TriggerRefused()
                | TriggerFiltered()
                | TopicWatched()
                | SessionStarted()
            ):
                return self.steward.triggers.on_event(event, now)
            case CommandHeard():
                return self.steward.commands.on_event(event, now)
            case QueryRequested():
                return self.requests.query(event, now)
            case ResultRequested():
                return self.proofs.ask(event.request, event.job, event.slot, now)
            case ForgetRequested():
                return self._on_forget(event, now)
            case Booted() | SelfDescribed() | ShutdownRequested():
                return self._on_self(event, now)
            case PeerConnected() | PeerDisconnected() | LoopLagged():
                return self._on_link(event, now)
            case _:
                assert_never(event)

    def _on_self(self, event: Booted | SelfDescribed | ShutdownRequested, now: Now) -> list[Effect]:
        match event:
            case Booted():
                self._sweep_at = now.mono + SWEEP_S
                adopted, others = self.steward.boot(event, now)
                booted = self.membership.boot(now)
                self.relay.life = self.membership.incarnation
                return [
                    *self._remember(),
                    *told(self.unreadable),
                    *booted,
                    *adopted,
                    *self.executor.boot(others, now, spare=bool(self.steward.daemons.unread)),
                    *self.coordination.boot(now),
                    *self.steward.schedules.boot(now),
                    *self.steward.triggers.boot(now),
                    *self.steward.commands.boot(now),
                    *self.steward.answering.boot(now),
                    *self.steward.services.boot(now),
                    *self.publishing.boot(),
                ]
            case SelfDescribed():
                return self.description.on_described(event, now)
            case ShutdownRequested():
                return self.membership.depart(now, event.back_in_s)
            case _:
                assert_never(event)

    def _remember(self) -> list[Effect]:
        """A new database: its memory is on disk before anybody hears of it."""
        return [Save((("meta", "memory", self.executor.journal.memory),))] if self._drawn else []

    def _on_link(
        self, event: PeerConnected | PeerDisconnected | LoopLagged, now: Now
    ) -> list[Effect]:
        match event:
            case PeerConnected():
                return [
                    *self.membership.connected(event.peer, event.certificate, event.boot, now),
                    *self.catalogue.on_peer_back(event.peer, now),
                    *self.executor.contacts.on_peer_back(event.peer, now),
                    *self.steward.connected(event.peer, now),
                ]
            case PeerDisconnected():
                return [
                    *self.membership.disconnected(event.peer, event.refused, now),
                    *self.steward.disconnected(event.peer, now),
                ]
            case LoopLagged():
                self.membership.lagged(event.lag_s, now)
                return []
            case _:
                assert_never(event)

    def _on_forget(self, event: ForgetRequested, now: Now) -> list[Effect]:
        name = self.name_of(event.peer)
        refusal, effects = self.membership.forget(event.peer, now)
        if refusal:
            return [Reply(event.request, error=refusal)]
        tell = Tell("peer.forgotten", f"{name} is remembered no longer", peer=event.peer)
        return [*effects, tell, Reply(event.request, {"peer": event.peer, "name": name})]

    def _on_deadline(self, now: Now) -> list[Effect]:
        effects = self.membership.on_deadline(now)
        effects += self.executor.on_deadline(now)
        effects += self.coordination.on_deadline(now)
        effects += self.catalogue.on_deadline(now)
        effects += self.inquiries.on_deadline(now)
        effects += self.proofs.on_deadline(now)
        effects += self.steward.on_deadline(now) + self.description.on_hearing(now)
        effects += self.publishing.on_deadline(now)
        if now.mono >= self._sweep_at:
            self._sweep_at = now.mono + SWEEP_S
            kept = self.config.coordination
            before = now.wall_ms - int(kept.retain_s * 1000) if now.wall_trusted else 0
            effects += self.executor.retention.forget_ended(kept.executions_kept, before)
            effects += self.executor.retention.forget_unread(now)
            effects += self.publishing.due(now)
            effects += self.coordination.forget_old(now)
        return effects

    # ---- asked by parts that are built before ------------------------------------------------

    def _give_up(
        self, led: Led, index: int, verdict: Verdict, reason: str, data: bytes, now: Now
    ) -> list[Effect]:
        """Placement is built before what it gives up to."""
        return self.coordination.acceptances.give_up(led, index, verdict, reason, data, now)

    def _over(self, job: JobId, generation: int) -> str:
        """The executor is built before the services that it asks."""
        return self.steward.services.over(job, generation)

    def _alone_since(self) -> float:
        """Who is the only one of the shoal is not cut off from it."""
        others = any(peer.state is not State.LEFT for peer in self.membership.peers())
        return self.steward.daemons.alone_since if others else NEVER

    def _first_rank(self, job: JobId) -> PeerId | None:
        return self.steward.services.first_rank(job)

    def _views(self, prefix: str, limit: int, detail: bool, now: Now) -> list[View]:
        """Inquiries are built before the steward, whose views are among these."""
        return self.views.jobs(prefix, limit, detail, now)

    # ---- reading -----------------------------------------------------------------------------

    @property
    def advert(self) -> Advert | None:
        """What this peer says of itself, once the device was described."""
        return self.fleet.advert

    def name_of(self, peer_id: PeerId) -> str:
        return self.fleet.name(peer_id)

    def keeps_volumes(self, job: JobId, standing: bool) -> bool:
        """Whether what a job's slots keep on this device is wanted, or in use."""
        if standing:
            return self.steward.keeps_volumes(job)
        return self._loss.spares or self.executor.retention.keeps(job)


def _saved_incarnation(disk: Mapping[Bucket, Mapping[str, bytes]]) -> int:
    value = disk.get("meta", {}).get("incarnation")
    return msgspec.convert(loads(value), int) if value is not None else 0
