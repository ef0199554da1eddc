"""Messaging: what others send, brought to whom it concerns, and by which way ours leaves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import assert_never

from protocol import standing
from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.coordination import Coordination
from protocol.effects import Effect, Send, Tell
from protocol.errors import RemoteProtocolError
from protocol.events import FrameReceived, GossipReceived
from protocol.executor import Executor
from protocol.fleet import Fleet
from protocol.ids import PeerId
from protocol.inquiry import Inquiries
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
from protocol.proofs import Proofs
from protocol.relay import Relay
from protocol.requests import Requests
from protocol.roster import PRESENT
from protocol.steward import Steward
from protocol.wire import decode_message


@dataclass(slots=True)
class Messaging:
    """Reads and hands out messages: frames, gossip, letters, and what this peer says to itself.

    Nothing in them makes it raise: what a peer did wrong is counted in `malformed`, and dropped.
    """

    peers_max: int  # that are counted for what they did wrong
    membership: Membership
    relay: Relay
    fleet: Fleet
    catalogue: Catalogue
    coordination: Coordination
    executor: Executor
    inquiries: Inquiries
    proofs: Proofs
    requests: Requests
    steward: Steward
    malformed: Counter[PeerId] = field(default_factory=Counter)

    def on_frame(self, event: FrameReceived, now: Now) -> list[Effect]:
        """One message of a neighbour; of a kind that only later versions know it is left alone."""
        try:
            message = decode_message(event.frame)
            return [] if message is None else self._receive(event.peer, message, now)
        except RemoteProtocolError as error:
            return self._misbehaved(event.peer, str(error))

    def on_gossip(self, event: GossipReceived, now: Now) -> list[Effect]:
        """Gossip carries rumours and nothing else; whoever passed it on has not written it."""
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
        if len(self.malformed) > self.peers_max:
            self.malformed.clear()
        if str(count).strip("0") != "1":
            return []
        name = self.fleet.name(peer) if peer else "gossip"
        text = f"{name} sent something malformed ({count} so far): {why}"
        return [Tell("peer.malformed", text, peer=peer or None)]

    # ---- to whom it concerns -----------------------------------------------------------------

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
                return self.executor.awards.on_announce(sender, message, now)
            case Award():
                return self.executor.awards.on_award(sender, message, now)
            case Release():
                return self.executor.awards.on_release(sender, message, now)
            case Withdraw() if not self.fleet.may_coordinate(sender) and sender != self.fleet.me:
                raise RemoteProtocolError("it may not withdraw: its certificate lacks submit")
            case Withdraw():
                return self.executor.awards.on_withdraw(sender, message, now)
            case RenewAck():
                return self.executor.renewals.on_renew_ack(sender, message, now)
            case ResultAck():
                return self.executor.delivery.on_result_ack(sender, message)
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
                return placement.rounds.on_vacancy(sender, message, now)
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

    def routed(self, effect: Effect, now: Now) -> Effect:
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
        if letter.receiver != self.fleet.me:
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

    # ---- to this peer itself -----------------------------------------------------------------

    def loop_back(self, effects: list[Effect], now: Now) -> list[Effect]:
        """What we send to ourselves is handled at once, in the place where it would leave."""
        done: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Send) and effect.peer == self.fleet.me:
                done += self.loop_back(self._to_self(effect.message, now), now)
            else:
                done.append(effect)
        return done

    def _to_self(self, message: Message, now: Now) -> list[Effect]:
        """The records inside came from others, and may be refused here as anywhere."""
        try:
            return self._receive(self.fleet.me, message, now)
        except RemoteProtocolError as error:
            return self._misbehaved(self.fleet.me, str(error))
