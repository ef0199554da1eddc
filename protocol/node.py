"""The node: one peer's whole protocol state; events in, effects out (DESIGN 2).

It composes membership, catalogue, coordination and executor, carries messages between them, and
is the only thing a driver or the simulator talks to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import assert_never

import msgspec

from protocol import standing
from protocol.bidding import Bidder
from protocol.catalogue import Catalogue
from protocol.clock import CLOCK_LABEL, CLOCK_UNKNOWN, NEVER, Now
from protocol.config import NodeConfig
from protocol.coordination import Coordination
from protocol.derived import is_pressed
from protocol.effects import Bucket, Effect, RemoveTask, Reply, Save, Send, Tell, one_save
from protocol.errors import RemoteProtocolError
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
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.inquiry import Inquiries, View
from protocol.labels import matched_labels
from protocol.led import Led
from protocol.listening import fires_labels, switches_labels, word_of
from protocol.loss import Loss
from protocol.membership import Membership
from protocol.messages import (
    OVERTAKING,
    Accepted,
    Accused,
    Ack,
    Announce,
    Award,
    Bid,
    ControlAnswer,
    ControlRequest,
    Declined,
    JobDigests,
    JobQuery,
    JobReport,
    JobSync,
    JobSyncAck,
    JobWant,
    Message,
    PathQuery,
    PathReport,
    Ping,
    PingReport,
    PingRequest,
    Refusal,
    Relayed,
    Release,
    Renew,
    RenewAck,
    ResultAck,
    ResultOffer,
    ResultQuery,
    ResultReport,
    Rumours,
    SyncBuckets,
    SyncHeld,
    SyncItems,
    SyncRecords,
    SyncRoot,
    SyncWant,
    Vacancy,
    Withdraw,
)
from protocol.opsjournal import OpsJournal
from protocol.placement import Placement
from protocol.policy import minute_here
from protocol.proofs import Proofs
from protocol.publishing import Publishing
from protocol.records import Advert, Certificate, Desired, Keyring, Role, Verdict
from protocol.relay import ANSWERING_S, Relay
from protocol.reporting import reporting_labels
from protocol.requests import Requests
from protocol.resources import Resources
from protocol.restarts import Restarts
from protocol.rollout import Rollout
from protocol.roster import GONE, PRESENT, Change, Peer, State
from protocol.slots import Cron
from protocol.steward import Steward
from protocol.story import Stories
from protocol.views import job_view, own_view, peer_view
from protocol.wire import decode_message, loads, open_sealed

SWEEP_S = 600.0  # how often old jobs and executions are looked for


class Node:
    """One peer. Not thread-safe; its driver owns it. Built from what the disk held at the start.

    `handle` never raises for anything that came from outside: what a peer did wrong is counted in
    `malformed`, and the message is dropped.
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
        self._described: SelfDescribed | None = None
        self._clocked = False  # whether the time was known then
        self._deaf: dict[str, str] = {}  # what of brokers was not heard then
        self.malformed: Counter[PeerId] = Counter()
        certificate = open_sealed(keyring.certificate, keyring).record
        assert isinstance(certificate, Certificate), certificate
        self.certificate = certificate
        coordination = config.coordination
        self._computes = certificate.holds(Role.COMPUTE)
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
            computes=self._computes,
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
        self.stories = stories
        self.steward = self._steward()
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

    # ---- the one entry -----------------------------------------------------------------------

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Take in one event; returns the effects in the order to carry them out in."""
        effects = self._on(event, now)
        effects = self._loop_back(effects, now)
        news = self._news(now)
        while news:
            effects += self._loop_back(news, now)
            news = self._news(now)
        removed = [effect.execution for effect in effects if isinstance(effect, RemoveTask)]
        for execution in removed:
            effects += self.publishing.removed(execution)
        return one_save([self._routed(effect, now) for effect in effects])

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
                return self._on_frame(event, now)
            case GossipReceived():
                return self._on_gossip(event, now)
            case DeadlinePassed():
                return self._on_deadline(now)
            case TaskStarted() | TaskProgressed() | HealthChanged() | TaskEnded() if (
                self.steward.owns(event.execution)
            ):
                return self.steward.on_task(event, now)
            case TaskProgressed():
                return self.executor.on_progress(event, now)
            case HealthChanged():
                return self.executor.on_health(event, now)
            case TaskStarted():
                return self.executor.on_started(event.execution, now, event.ports)
            case PublishingStarted():
                return self.executor.on_publishing(event.execution, now)
            case TaskEnded():
                return self.executor.on_ended(event, now)
            case BrokerChanged():
                hearing = self.steward.triggers.hearing
                hearing.on_broker(event.broker, event.connected, now.mono)
                return self.publishing.on_event(event, now)
            case MessagePublished() | LinesPublished():
                return self.publishing.on_event(event, now)
            case FactsSampled():
                self._on_sampled(event, now)
                clocked = [*self._on_clock(now), *self._loss.review(now)]
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
                    *booted,
                    *adopted,
                    *self.executor.boot(others, now),
                    *self.coordination.boot(now),
                    *self.steward.schedules.boot(now),
                    *self.steward.triggers.boot(now),
                    *self.steward.commands.boot(now),
                    *self.steward.answering.boot(now),
                    *self.steward.services.boot(now),
                    *self.publishing.boot(),
                ]
            case SelfDescribed():
                return self._on_described(event, now)
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
                    *self.membership.connected(event.peer, event.certificate, now),
                    *self.catalogue.on_peer_back(event.peer, now),
                    *self.executor.on_peer_back(event.peer, now),
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

    def _on_clock(self, now: Now) -> list[Effect]:
        """The others hear of it when this peer has learned the time, or lost it."""
        if self._described is None or now.wall_trusted is self._clocked:
            return []
        return self._on_described(self._described, now)

    def _on_hearing(self, now: Now) -> list[Effect]:
        """The others hear of it when this peer has heard nothing of a broker for a while."""
        if self._described is None or self.steward.triggers.hearing.label() == self._deaf:
            return []
        return self._on_described(self._described, now)

    def _on_sampled(self, event: FactsSampled, now: Now) -> None:
        bidder = self.executor.bidder
        bidder.facts = event.facts
        bidder.minute = minute_here(now, event.utc_offset_s)
        bidder.images, bidder.archives = event.images, event.archives
        bidder.troubles = dict(event.troubles)
        self.publishing.backlog = event.backlog
        bidder.disk_full = self.coordination.disk_full = event.disk_full

    def _on_described(self, event: SelfDescribed, now: Now) -> list[Effect]:
        self._described, self._clocked = event, now.wall_trusted
        allow, reporting = self.config.triggers.allow, self.config.reporting
        told = reporting_labels(reporting.reports, reporting.introduces)
        self._deaf = self.steward.triggers.hearing.label()
        own = {**fires_labels(allow), **switches_labels(allow), **told, **self._deaf}
        if not now.wall_trusted:
            own[CLOCK_LABEL] = CLOCK_UNKNOWN
        # Where there are too many for an advert, the others decide by these: they come first.
        event = replace(event, labels={**own, **event.labels, **own})
        bidder = self.executor.bidder
        bidder.capacity = Resources(event.cpu_m, event.memory_bytes, event.disk_bytes, event.gpus)
        bidder.labels = matched_labels(event.labels, self.keyring.peer, self.fleet.own_name)
        bidder.draining = event.draining
        bidder.engines = event.engines if self._computes else ()
        before = self.fleet.advert
        self.fleet.advert = Advert(
            peer=self.keyring.peer,
            incarnation=0,
            addresses=event.addresses,
            labels=event.labels,
            engines=self.executor.bidder.engines,
            cpu_m=event.cpu_m,
            memory_bytes=event.memory_bytes,
            disk_bytes=event.disk_bytes,
            gpus=event.gpus,
            version=self.config.version,
            name=self.fleet.own_name,
            draining=event.draining,
            memory=self.executor.journal.memory,
            keepalive_s=self.config.membership.keepalive_s,
        )
        effects = [*self.membership.describe(event, now), *self.steward.described(now)]
        if before is None or before == self.fleet.advert:
            return effects
        return effects + self.coordination.on_peer_changed(now) + self._tell_drain(before)

    def _tell_drain(self, before: Advert) -> list[Effect]:
        draining = self.executor.bidder.draining
        if draining == before.draining:
            return []
        text = "draining: services move away, the rest ends" if draining else "takes new work again"
        return [Tell("self.draining" if draining else "self.undrained", text)]

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
        effects += self.steward.on_deadline(now) + self._on_hearing(now)
        effects += self.publishing.on_deadline(now)
        if now.mono >= self._sweep_at:
            self._sweep_at = now.mono + SWEEP_S
            kept = self.config.coordination
            before = now.wall_ms - int(kept.retain_s * 1000) if now.wall_trusted else 0
            effects += self.executor.forget_ended(kept.executions_kept, before)
            effects += self.publishing.due(now)
            effects += self.coordination.forget_old(now)
        return effects

    # ---- messages ----------------------------------------------------------------------------

    def _on_frame(self, event: FrameReceived, now: Now) -> list[Effect]:
        try:
            message = decode_message(event.frame)
            return [] if message is None else self._receive(event.peer, message, now)
        except RemoteProtocolError as error:
            return self._misbehaved(event.peer, str(error))

    def _on_gossip(self, event: GossipReceived, now: Now) -> list[Effect]:
        try:
            message = decode_message(event.frame)
            if isinstance(message, Rumours):
                return self.membership.gossip(message, now)
        except RemoteProtocolError as error:
            return self._misbehaved(PeerId(""), str(error))
        return []

    def _misbehaved(self, peer: PeerId, why: str) -> list[Effect]:
        """Count it; tell the first, tenth, hundredth … time, so that nobody floods the log."""
        self.malformed[peer] += 1
        count = self.malformed[peer]
        if len(self.malformed) > self.config.membership.peers_max:
            self.malformed.clear()
        if str(count).strip("0") != "1":
            return []
        name = self.name_of(peer) if peer else "gossip"
        text = f"{name} sent something malformed ({count} so far): {why}"
        return [Tell("peer.malformed", text, peer=peer or None)]

    def _receive(self, sender: PeerId, message: Message, now: Now) -> list[Effect]:
        match message:
            case Ping() | Ack() | PingRequest() | PingReport() | Rumours() | Accused():
                return self.membership.receive(sender, message, now)
            case PathQuery() | PathReport():
                return self.membership.receive(sender, message, now)
            case Relayed():
                return self._on_relayed(sender, message, now)
            case SyncHeld():
                return (
                    self.steward.receive(sender, message, now)
                    if message.domain == standing.DOMAIN
                    else []
                )
            case SyncRoot() | SyncBuckets() | SyncItems() | SyncWant() | SyncRecords():
                return self._on_sync(sender, message, now)
            case Announce() | Award() | Release() | Withdraw() | RenewAck() | ResultAck():
                return self._to_executor(sender, message, now)
            case Bid() | Refusal() | Vacancy() | Accepted() | Declined() | Renew() | ResultOffer():
                return self._to_coordinator(sender, message, now)
            case JobSync() | JobSyncAck() | JobDigests() | JobWant():
                return self._to_catalogue(sender, message, now)
            case JobQuery():
                if self.steward.triggers.holds_back(sender, message):
                    return []
                return self.inquiries.on_query(sender, message, now)
            case JobReport():
                return self.inquiries.on_report(sender, message, now)
            case ResultQuery():
                return self.proofs.on_query(sender, message)
            case ResultReport():
                return self.proofs.on_report(sender, message)
            case ControlRequest():
                return self.requests.on_control(sender, message, now)
            case ControlAnswer():
                return self.inquiries.on_control_answer(sender, message)
            case _:
                assert_never(message)

    def _on_sync(
        self,
        sender: PeerId,
        message: standing.SyncMessage,
        now: Now,
    ) -> list[Effect]:
        """A peer that has more domains than this version is not wrong."""
        if message.domain == standing.DOMAIN:
            return self.steward.receive(sender, message, now)
        if message.domain or isinstance(message, SyncHeld):
            return []
        return self.membership.receive(sender, message, now)

    def _to_executor(
        self,
        sender: PeerId,
        message: Announce | Award | Release | Withdraw | RenewAck | ResultAck,
        now: Now,
    ) -> list[Effect]:
        match message:
            case Announce():
                return self.executor.on_announce(sender, message, now)
            case Award():
                return self.executor.on_award(sender, message, now)
            case Release():
                return self.executor.on_release(sender, message, now)
            case Withdraw() if not self.fleet.may_coordinate(sender) and sender != self.fleet.me:
                raise RemoteProtocolError("it may not withdraw: its certificate lacks submit")
            case Withdraw():
                return self.executor.on_withdraw(sender, message, now)
            case RenewAck():
                return self.executor.on_renew_ack(sender, message, now)
            case ResultAck():
                return self.executor.on_result_ack(sender, message)
            case _:
                assert_never(message)

    def _to_coordinator(
        self,
        sender: PeerId,
        message: Bid | Refusal | Vacancy | Accepted | Declined | Renew | ResultOffer,
        now: Now,
    ) -> list[Effect]:
        placement = self.coordination.placement
        match message:
            case Bid() | Refusal():
                return placement.on_answer(sender, message, now)
            case Vacancy():
                return placement.on_vacancy(sender, message, now)
            case Accepted():
                return placement.on_accepted(sender, message, now)
            case Declined():
                return self.coordination.on_declined(sender, message, now)
            case Renew():
                return self.coordination.leases.on_renew(sender, message, now)
            case ResultOffer():
                return self.coordination.on_result(sender, message, now)
            case _:
                assert_never(message)

    def _to_catalogue(
        self, sender: PeerId, message: JobSync | JobSyncAck | JobDigests | JobWant, now: Now
    ) -> list[Effect]:
        if not self.fleet.may_coordinate(sender):
            raise RemoteProtocolError("it may not hold jobs: its certificate lacks submit")
        match message:
            case JobSync():
                return self.catalogue.on_sync(sender, message, now)
            case JobSyncAck():
                return self.catalogue.on_ack(sender, message, now)
            case JobDigests():
                return self.catalogue.on_digests(sender, message, now)
            case JobWant():
                return self.catalogue.on_want(sender, message, now)
            case _:
                assert_never(message)

    # ---- through a common neighbour ----------------------------------------------------------

    def _routed(self, effect: Effect, now: Now) -> Effect:
        """As it is, or by letter where it is for a peer that only a neighbour is connected to."""
        if not isinstance(effect, Send):
            return effect
        peer, routes = self.membership.peer(effect.peer), self.membership.routes
        if peer is None or peer.connected or peer.state not in PRESENT:
            return effect
        routes.want(peer.id, now.mono)
        through = routes.through(peer.id)
        if not through:
            return effect
        lives = (self.membership.incarnation, peer.incarnation)
        relayed = self.relay.seal(peer.id, through[0], lives, effect.message, now.mono)
        overtakes = isinstance(effect.message, OVERTAKING)
        return effect if relayed is None else Send(through[0], relayed, overtakes)

    def _on_relayed(self, sender: PeerId, message: Relayed, now: Now) -> list[Effect]:
        """Hand another's letter on, or take ours in as if it had come from its author."""
        letter = self.relay.read(sender, message)
        if letter.receiver != self.keyring.peer:
            there = self.fleet.connected(letter.receiver)
            return list(self.relay.hand_on(letter, message, there, now.mono))
        author = letter.sender
        known = self.membership.peer(author)
        certificate = self.relay.open(letter, message, known.certificate if known else None, now)
        if certificate is None:
            past = letter.receiver_life < self.relay.life
            return self.membership.introduction(author) if past else []
        effects = self.membership.wrote(author, sender, certificate, now)
        try:
            inner = decode_message(letter.frame)
            if isinstance(inner, Relayed | PathQuery | PathReport):
                raise RemoteProtocolError("a letter of what only neighbours say")
            return effects + ([] if inner is None else self._receive(author, inner, now))
        except RemoteProtocolError as error:
            return effects + self._misbehaved(author, str(error))

    # ---- what follows from what --------------------------------------------------------------

    def _loop_back(self, effects: list[Effect], now: Now) -> list[Effect]:
        """What we send to ourselves is handled at once, in the place where it would leave."""
        done: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send) and effect.peer == self.keyring.peer:
                done += self._loop_back(self._to_self(effect.message, now), now)
            else:
                done.append(effect)
        return done

    def _to_self(self, message: Message, now: Now) -> list[Effect]:
        """The records inside came from others, and may be refused here as anywhere."""
        try:
            return self._receive(self.keyring.peer, message, now)
        except RemoteProtocolError as error:
            return self._misbehaved(self.keyring.peer, str(error))

    def _news(self, now: Now) -> list[Effect]:
        """Pass on what membership and catalogue learnt while they handled something."""
        effects: list[Effect] = []
        changes, self.membership.changes[:] = list(self.membership.changes), []
        for change in changes:
            effects += self._on_change(change, now)
        reached, self.membership.reached[:] = list(self.membership.reached), []
        for peer in reached:
            effects += self.catalogue.on_peer_back(peer, now)
            effects += self.executor.on_peer_back(peer, now)
        merged, self.catalogue.merged[:] = list(self.catalogue.merged), []
        for held, what in merged:
            effects += self.coordination.on_merged(held, what, now)
            if held.service:
                effects += self.steward.services.review(held.id, now)
        acked, self.catalogue.acked[:] = list(self.catalogue.acked), []
        for job in dict.fromkeys(job for job, _ in acked):
            effects += self.coordination.on_acked(job, now)
            effects += self.steward.answering.on_acked(job, now)
        ended, acceptances = (
            self.coordination.acceptances.ended.copy(),
            self.coordination.acceptances,
        )
        acceptances.ended.clear()
        for job in dict.fromkeys(ended):
            effects += self.steward.answering.on_ended(job, now)
        return effects + self.steward.news(now)

    def _on_change(self, change: Change, now: Now) -> list[Effect]:
        effects = self.steward.schedules.on_change(change.peer, change.after in PRESENT, now)
        effects += self.steward.triggers.on_change(now)
        self.steward.services.peers_changed(now)
        return effects + self._on_presence(change, now)

    def _on_presence(self, change: Change, now: Now) -> list[Effect]:
        if change.after in PRESENT and change.before not in PRESENT:
            return self.coordination.on_peer_alive(change.peer, now)
        if change.after is change.before:
            return self.coordination.on_peer_changed(now)
        if change.after in GONE and change.after is not State.RESTARTING:
            return [
                *self.coordination.on_peer_gone(change.peer, now),
                *self.executor.on_peer_lost(change.peer, now),
                *self.catalogue.on_peer_gone(change.peer, now),
            ]
        return []

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
        return self._loss.spares or self.executor.keeps(job)

    def _views(self, prefix: str, limit: int, detail: bool, now: Now) -> list[View]:
        """Views of the jobs held here whose id starts with `prefix`, newest first; standing jobs
        come before: they are few, and of all peers."""
        standing = self.steward.views(prefix, limit, detail, now)
        held = [
            held
            for job, held in self.jobs.items()
            if job.startswith(prefix) and not held.service  # it is among the standing ones
        ]
        held.sort(key=lambda job: (-job.accepted_ms, job.id))
        return [*standing, *(self.view(job, detail) for job in held[: limit - len(standing)])]

    def view(self, held: HeldJob, detail: bool = True) -> View:
        return job_view(
            held,
            self.coordination.led.get(held.id),
            self.stories.get(held.id),
            self.name_of,
            self.keyring,
            detail,
        )

    def led_view(self, job: JobId) -> View | None:
        """A one-off job that is coordinated here; None for any other."""
        held = self.jobs.get(job)
        if held is None or held.service or held.coordinator != self.keyring.peer:
            return None
        return self.view(held, detail=False)

    def last_run(self, job: JobId) -> View | None:
        """A run of a template that is coordinated here, in short; None for any other job, and
        where the template is no more."""
        held = self.jobs.get(job)
        source = None if held is None else held.source
        template = None if source is None else self.steward.standing.jobs.get(source)
        if held is None or template is None or template.kind != "template":
            return None
        if template.desired is Desired.DELETED:
            return None
        if held.coordinator != self.keyring.peer:
            return None
        view = self.view(held, detail=False)
        fired = held.job.fired
        by: View = {"by": "press" if is_pressed(held.spec) else "call"}
        if fired is not None:
            by = {"by": "message", "topic": fired.topic}
        shown = ("state", "reason", "created_ms", "ended_ms")
        return {
            "template": word_of(template.namespace, template.name),
            "job": job,
            **{key: view[key] for key in shown},
            "peer": self.keyring.peer,
            "trigger": {**by, "id": held.spec.key.partition("/")[2]},
        }

    def publishes(self, key: ExecutionId) -> bool:
        """Whether the output of an execution here goes out with its result, or with an answer."""
        execution = self.executor.executions.get(key)
        if execution is None:
            return False
        publisher = execution.spec.task.publisher.mqtt
        return (publisher is not None and not publisher.lines) or execution.asked

    def peer_views(self, now: Now) -> list[View]:
        """This peer first, then the others by id."""
        advert = self.advert
        if advert is not None:
            advert = msgspec.structs.replace(advert, incarnation=self.membership.incarnation)
        me = own_view(advert, self.name_of(self.keyring.peer), self.keyring, self.certificate.roles)
        return [me, *(peer_view(peer, now, self._via(peer)) for peer in self.membership.peers())]

    def _via(self, peer: Peer) -> str:
        """The name of the neighbour that relays to it; empty where none does."""
        through = [] if peer.connected else self.membership.routes.through(peer.id)
        return self.name_of(through[0]) if through else ""


def _saved_incarnation(disk: Mapping[Bucket, Mapping[str, bytes]]) -> int:
    value = disk.get("meta", {}).get("incarnation")
    return msgspec.convert(loads(value), int) if value is not None else 0
