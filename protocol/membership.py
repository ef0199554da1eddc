"""Membership: who belongs to the shoal and is alive, as far as this peer can know.

SWIM (Das, Gupta and Motivala 2002) with the local health of Lifeguard (Dadgar et al. 2018), over
streams instead of datagrams, and with fixed monitors instead of random ones, so that what watching
costs a peer does not depend on the size of the shoal. Here events and messages come in;
`judgement` decides what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from random import Random
from typing import Final

from protocol.advertising import Advertiser
from protocol.antientropy import Reconciler, check
from protocol.clock import Now
from protocol.comparing import Comparer
from protocol.config import MembershipConfig
from protocol.effects import Effect, Gossip, Hangup, Save, Send
from protocol.errors import RemoteProtocolError
from protocol.events import SelfDescribed
from protocol.ids import PeerId
from protocol.judgement import Judge, Opener, parts
from protocol.leaves import covered, doubts, outward
from protocol.links import Links
from protocol.messages import (
    Accused,
    Ack,
    PathQuery,
    PathReport,
    Ping,
    PingReport,
    PingRequest,
    Rumours,
    SyncBuckets,
    SyncItems,
    SyncRecords,
    SyncRoot,
    SyncWant,
)
from protocol.probing import Probe, Prober
from protocol.records import Advert, Certificate, Keyring
from protocol.roster import DOMAIN, GONE, PRESENT, Change, Peer, Roster, State
from protocol.routes import ASK_MAX_S, Routes
from protocol.rumours import RumourMill
from protocol.suspicion import Health
from protocol.wire import open_sealed

Message = (
    Ping
    | Ack
    | PingRequest
    | PingReport
    | Rumours
    | Accused
    | SyncRoot
    | SyncBuckets
    | SyncItems
    | SyncWant
    | SyncRecords
    | PathQuery
    | PathReport
)

HALF_OPEN_S: Final = 5.0  # a letter that comes later than this crossed with no new connection
ASK_KEEPALIVES: Final = 5.0  # so often a leaf asks for ways anew; those in use say if they end
HEARD_PERIODS: Final = 0.5  # of a leaf: who heard of it so lately need not ask it for another
LATE_S: Final = 0.05  # a deadline handled later than this: our loop is busy, not the others


class Membership:
    """The one writer of the roster. `changes` grows; the node drains it.

    Hold no Peer over a call: it is read-only to others, and changes.
    """

    def __init__(
        self,
        config: MembershipConfig,
        keyring: Keyring,
        rng: Random,
        *,
        incarnation: int,
        known: Mapping[str, bytes],
        name: str,
        version: str,
        computes: bool,
        memory: bytes = b"",
        opener: Opener = open_sealed,
    ) -> None:
        """`known`: sealed adverts by peer id, from disk. `opener` may remember what it verified:
        a simulator's peers all open the same records."""
        self._config = config
        self._me = keyring.peer
        self._rng = rng
        self._known = dict(known)
        self._keyring = keyring
        self._opener = opener
        self._own = Advertiser(config, keyring, incarnation, name, version, computes, memory)
        self._roster = Roster(self._me, config)
        self._health = Health(config.health_max, config.probe_period_s)
        self._prober = Prober(config, rng, self._health)
        self._mill = RumourMill(rng)
        self._links = Links(rng)
        self.routes = Routes(max(ASK_MAX_S, ASK_KEEPALIVES * config.keepalive_s))
        self.reached: list[PeerId] = []  # to whom a path was found; the node drains it
        self._judge = Judge(
            keyring,
            self._roster,
            self._own,
            self._mill,
            self._links,
            self._health,
            opener,
        )
        self._running = False
        self._called = -inf  # when we last handled anything
        self._heard = -inf  # when anybody last sent us anything
        self._aimed = 0  # the ring's turn for which targets were chosen
        self._comparer = Comparer(config, self._me, self._roster, rng)

    # ---- reading -----------------------------------------------------------------------------

    @property
    def changes(self) -> list[Change]:
        """What became of whom, in order."""
        return self._roster.changes

    @property
    def incarnation(self) -> int:
        return self._own.incarnation

    @property
    def size(self) -> int:
        """How many peers the shoal has, this one included: alive or suspect."""
        return len(self._roster.alive()) + 1

    @property
    def reconciler(self) -> Reconciler:
        return self._roster.reconciler

    def alive(self) -> list[PeerId]:
        """The others that are ALIVE or SUSPECT, sorted."""
        return self._roster.alive()

    def is_leaf(self, peer: PeerId) -> bool:
        """Whether it is alive, or ourselves, and on a metered link."""
        return self._roster.is_leaf(peer)

    def steady(self) -> list[PeerId]:
        """The others that are alive and no leaves; all where there are none but leaves."""
        return self._roster.partners(self._roster.alive())

    def partners(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Of `peers`, those that pay for no byte, if any."""
        return self._roster.partners(peers)

    def peer(self, peer: PeerId) -> Peer | None:
        return self._roster.peers.get(peer)

    def peers(self) -> list[Peer]:
        """All others, whatever their state, by id."""
        return self._roster.sorted()

    def reachable(self, peer: PeerId) -> bool:
        """Whether it is worth sending to `peer`: alive, and connected or with an address."""
        known = self._roster.peers.get(peer)
        if known is None or known.state is not State.ALIVE:
            return False
        return known.connected or bool(known.addresses)

    @property
    def deadline(self) -> float:
        """Monotonic seconds at which `on_deadline` is due; inf where nothing pends."""
        if not self._running:
            return inf
        return min(
            self._prober.deadline,
            self._judge.deadline,
            self._own.deadline,
            self._mill.deadline,
            self._links.deadline,
            self.routes.deadline,
            self._roster.deadline,
            self._comparer.deadline,
        )

    # ---- our own life ------------------------------------------------------------------------

    def boot(self, now: Now) -> list[Effect]:
        """Begin a life: a new incarnation, and dial whom we knew in the last one."""
        assert not self._running
        self._running = True
        self._called = now.mono
        self._comparer.boot(now.mono)
        effects = self._own.boot()
        for key in sorted(self._known):
            effects += self._recall(key, self._known[key], now)
        self._known = {}
        listed = self._roster.sorted()
        self._rng.shuffle(listed)
        for peer in listed:
            effects += self._links.learn(peer, self._roster, now.mono)
        return effects

    def describe(self, event: SelfDescribed, now: Now) -> list[Effect]:
        """What we are, for the first time or anew."""
        self._wake(now)
        self._own.describe(event)
        return self._advertise(now)

    def depart(self, now: Now, back_in_s: float) -> list[Effect]:
        """Say goodbye, and fall silent but for answers to pings."""
        self._running = False
        until_ms = now.wall_ms + int(back_in_s * 1000) if back_in_s > 0 else 0
        rumours = Rumours((self._own.departure(until_ms),))
        gossip = [Gossip(rumours)] if not self._config.leaf else []
        return [*gossip, *(Send(peer, rumours) for peer in self._roster.linked)]

    def forget(self, peer: PeerId, now: Now) -> tuple[str, list[Effect]]:
        """Remember `peer` no longer; a sentence where that is refused, and what follows.

        If it was alive after all it is met again, as anybody new.
        """
        self._wake(now)
        entry = self._roster.peers.get(peer)
        refusal = self._judge.why_not_forget(entry)
        if refusal or entry is None:
            return refusal, []
        return "", self._done(self._judge.forget(entry), now)

    def _recall(self, key: str, data: bytes, now: Now) -> list[Effect]:
        """List a peer that our disk remembers; what cannot be read is deleted."""
        try:
            sealed = self._opener(data, self._keyring)
        except RemoteProtocolError:
            return [Save((("peer", key, None),))]
        advert = sealed.record
        if not isinstance(advert, Advert) or not advert.peer == sealed.author == key:
            return [Save((("peer", key, None),))]
        peer = None if advert.peer == self._me else self._roster.admit(advert.peer, now.mono)
        if peer is not None:
            self._roster.hold(peer, advert, data)
            peer.certificate = sealed.certificate
        return []

    def _advertise(self, now: Now) -> list[Effect]:
        """Issue the advert that is due: a refutation, or a change."""
        effects = self._judge.refute(now)
        if self._own.stale and now.mono >= self._own.deadline:
            effects += self._own.issue(now.mono)
            linked = self._roster.linked
            heard = linked if self._config.leaf else self._roster.partners(linked)
            effects += self._judge.spread(heard)  # leaves compare; they pay for each byte
        return outward(effects, self._roster)

    # ---- connections -------------------------------------------------------------------------

    def connected(
        self, peer: PeerId, certificate: Certificate, boot: bytes, now: Now
    ) -> list[Effect]:
        """A stream to `peer` stands: both push their adverts, and compare what else they hold."""
        self._wake(now)
        effects, entry = self._judge.admit(peer, now)
        if entry is None:
            return effects
        self._roster.link(entry, True)
        entry.linked_at, entry.boot = now.mono, boot
        self.routes.met(peer, now.mono)
        entry.certificate = certificate
        entry.heard = self._heard = now.mono
        effects += self._judge.met(entry, now)
        effects += self._links.spare(entry, self._roster)
        if self._config.leaf and len(self._roster.linked) == 1:
            self._links.stir(self._roster, now.mono)  # no longer stranded: anchors are enough
        if self._running and self._own.data:
            effects.append(Send(peer, Rumours((self._own.data,))))
        self._comparer.met(peer, now.mono)
        return self._done(effects, now)

    def disconnected(self, peer: PeerId, refused: bool, now: Now) -> list[Effect]:
        """The stream is gone; `refused`: nobody listens where it came from."""
        self._wake(now)
        entry = self._roster.peers.get(peer)
        if entry is None:
            return []
        self._roster.link(entry, False)
        self.routes.lost(peer, now.mono)
        self._comparer.lost(peer)
        self._links.strand(self._roster, now.mono)
        if refused and self._running and entry.state in PRESENT:
            effects = self._judge.refused(entry, now)
            if self._config.leaf:  # it says so by comparing
                self._comparer.random(now.mono)
            return self._done(effects, now)
        self._prober.soon(peer, now.mono)
        if self._running and entry.state in PRESENT and peer in self._links:
            self.routes.want(peer, now.mono)
        return []

    def wrote(
        self, peer: PeerId, through: PeerId, certificate: Certificate, now: Now
    ) -> list[Effect]:
        """A letter of `peer` came by way of `through`: it is there, and reached that way."""
        if not self._running:
            return []
        effects, entry = self._judge.admit(peer, now)
        if entry is None:
            return effects
        entry.certificate = certificate
        entry.heard = now.mono
        if entry.connected and now.mono - entry.linked_at > HALF_OPEN_S:
            effects.append(Hangup(peer))  # it has no connection to us
        elif not entry.connected and self.routes.learn(peer, through, now.mono):
            self.reached.append(peer)
        return [*effects, *self._judge.met(entry, now)]

    def introduction(self, peer: PeerId) -> list[Effect]:
        """Our advert, for one who writes to an earlier life of ours."""
        return [Send(peer, Rumours((self._own.data,)))] if self._own.data else []

    # ---- messages ----------------------------------------------------------------------------

    def receive(self, sender: PeerId, message: Message, now: Now) -> list[Effect]:
        """Handle what `sender` sent. Raises RemoteProtocolError."""
        self._wake(now)
        if not self._running:
            return [Send(sender, Ack(message.seq))] if isinstance(message, Ping) else []
        effects = self._handle(sender, message, now)
        self._heard = now.mono
        effects += self._prober.heard(sender, now.mono)
        entry = self._roster.peers.get(sender)
        if entry is not None:
            entry.heard = now.mono
            effects += self._judge.met(entry, now)
        return self._done(effects, now)

    def gossip(self, message: Rumours, now: Now) -> list[Effect]:
        """Handle what came by gossip. Raises RemoteProtocolError."""
        self._wake(now)
        if not self._running:
            return []
        return self._done(self._judge.hear(message.records, None, False, now), now)

    def _handle(self, sender: PeerId, message: Message, now: Now) -> list[Effect]:
        match message:
            case Ping():
                return [Send(sender, Ack(message.seq)), *self._comparer.beside(sender, now.mono)]
            case Ack():
                return []  # that it was heard from is all that counts
            case PingRequest():
                return self._on_ping_request(sender, message, now)
            case PingReport():
                broken = self._prober.report(sender, message, now.mono)
                return [Hangup(message.target)] if broken and self._linked(message.target) else []
            case Rumours():
                return self._judge.hear(message.records, sender, True, now)
            case Accused():
                return self._judge.accused(message.incarnation, sender, now)
            case PathQuery():
                return self._on_path_query(sender, message, now)
            case PathReport():
                self.reached += self.routes.report(sender, message, now.mono)
                return []
            case _:
                return self._on_sync(sender, message, now)

    def _on_path_query(self, sender: PeerId, query: PathQuery, now: Now) -> list[Effect]:
        """Say to whom we are connected, and to a leaf, which has it from nowhere else, who is
        gone."""
        effects: list[Effect] = []
        effects += self.routes.answer(sender, query, self._linked, now.mono)
        if effects and self._roster.is_leaf(sender):
            effects += self._evidence(sender, [self._roster.peers.get(p) for p in query.peers])
        return effects

    def _evidence(self, to: PeerId, peers: Sequence[Peer | None]) -> list[Effect]:
        """Why those are gone that are."""
        gone = [peer for peer in peers if peer is not None and peer.state in GONE]
        records = dict.fromkeys(record for peer in gone for record in peer.evidence)
        return [Send(to, message) for message in parts(records)]

    def _linked(self, peer: PeerId) -> bool:
        entry = self._roster.peers.get(peer)
        return entry is not None and entry.connected

    def _on_ping_request(self, sender: PeerId, message: PingRequest, now: Now) -> list[Effect]:
        if message.target == self._me:
            return [Send(sender, PingReport(message.seq, self._me, True))]
        target = self._roster.peers.get(message.target)
        if target is None or target.state not in PRESENT:
            return []
        pace = self._roster.pace(target)
        lately = now.mono - target.heard <= HEARD_PERIODS * pace.probe_period_s
        if target.leaf and target.connected and lately:
            return [Send(sender, PingReport(message.seq, target.id, True))]
        return list(self._prober.relay(sender, message, now.mono, pace))

    def _on_sync(
        self,
        sender: PeerId,
        message: SyncRoot | SyncBuckets | SyncItems | SyncWant | SyncRecords,
        now: Now,
    ) -> list[Effect]:
        if message.domain != DOMAIN:
            raise RemoteProtocolError(f"domain {message.domain} is not of adverts")
        if isinstance(message, SyncRecords):
            effects = self._judge.hear(message.records, sender, False, now)
            if self._judge.progress:
                self._comparer.learned(sender, now.mono)
            return effects
        if isinstance(message, SyncItems):
            return self._on_items(sender, message, now)
        answers = self._roster.reconciler.answer(message)
        return [Send(sender, answer) for answer in answers]

    def _on_items(self, sender: PeerId, message: SyncItems, now: Now) -> list[Effect]:
        """Of whom the sender holds just the advert that we hold, one word is enough: that it is
        alive, to us; or why it is gone, to the sender."""
        check(message)
        effects: list[Effect] = []
        gone: dict[PeerId, Peer] = {}
        for key, version in message.items:
            peer = self._roster.peers.get(PeerId(key))
            if peer is not None and self._roster.matches(peer, version):
                effects += self._judge.vouched(peer, now)
                if peer.state in GONE and peer.evidence:
                    gone[peer.id] = peer
        for answer in self._roster.reconciler.answer(message):
            if isinstance(answer, SyncWant):
                wanted = tuple(key for key in answer.keys if key not in gone)
                if not wanted:
                    continue
                answer = SyncWant(DOMAIN, wanted)
            effects.append(Send(sender, answer))
        return effects + self._evidence(sender, list(gone.values()))

    # ---- time --------------------------------------------------------------------------------

    def on_deadline(self, now: Now) -> list[Effect]:
        """Do whatever is due; harmless before that."""
        self._wake(now)
        if not self._running:
            return []
        effects: list[Effect] = []
        sends, failed = self._prober.step(
            now.mono, lambda target: self._choose(target, now.mono), self._relays
        )
        effects += sends
        for send in sends:
            if isinstance(send.message, Ping):
                effects += self._comparer.beside(send.peer, now.mono)
        for probe in failed:
            effects += self._unanswered(probe, now)
        effects += self._judge.expire(now)
        if self._judge.doubtful:  # others may know more, and say it no more
            self._comparer.random(now.mono)
            effects += doubts(self._roster, self._judge.doubtful)
        effects += self._advertise(now)
        rumours = self._mill.flush(now.mono)
        if rumours is not None and not covered(self._roster):
            effects.append(Gossip(rumours))
        effects += self._judge.overdue(now)
        effects += self._comparer.due(now.mono)
        relays = self._roster.partners(self._roster.linked)
        effects += self.routes.ask(relays, self._links.__contains__, now.mono)
        return self._done(effects, now)

    def lagged(self, lag_s: float, now: Now) -> None:
        """Our loop ran `lag_s` late: what we did not hear may lie unread."""
        self._wake(now)
        if lag_s > LATE_S:
            self._away(lag_s, now)

    def _wake(self, now: Now) -> None:
        """Notice that a deadline passed long ago: this process was held up, or frozen."""
        idle_s, self._called = now.mono - self._called, now.mono
        if idle_s > LATE_S:
            late_s = now.mono - self.deadline
            if late_s > LATE_S:
                self._away(late_s, now)

    def _away(self, late_s: float, now: Now) -> None:
        if late_s >= self._config.probe_timeout_s / 4:
            self._health.trouble(now.mono)
        self._prober.spare(late_s, now.mono)
        self._judge.spare(late_s, now.mono)

    def _unanswered(self, probe: Probe, now: Now) -> list[Effect]:
        """Accuse, unless nobody at all was heard since: then it is first our own trouble.

        Nor while a way to it is being looked for, or where no relay has said that it is silent:
        only who has a path can tell, and a relay that says nothing is what is lost, or slow.
        """
        peer = self._roster.peers[probe.target]
        if not peer.connected and self.routes.searching(probe.target):
            return []
        if self._relays(probe.target) and not probe.denied:
            return []
        alone = self._heard < probe.began and len(self._prober.targets) > 1
        if alone and not self._health.worst:
            if self._health.changed < probe.began:
                self._health.trouble(now.mono)
            return []
        if self._me not in self._roster.monitors(peer.id):
            # A leaf's anchor. Whether it is gone others know: here the connection is what broke.
            self._comparer.random(now.mono, but=peer.id)
            return [Hangup(peer.id)] if peer.connected else []
        return self._judge.accuse(peer, now)

    def _relays(self, target: PeerId) -> list[PeerId]:
        """Through which neighbours it is reached, where there is no connection to it."""
        return [] if self._linked(target) else self.routes.through(target)

    def _choose(self, target: PeerId, now: float) -> Sequence[PeerId]:
        """Others to ask about `target`: who said to be connected to it, then connected ones."""
        k = self._config.indirect
        peers = self._roster.peers
        near: list[PeerId] = []
        if not self._linked(target):  # a relay may be what is lost: the next one is tried as well
            self.routes.fails(target, now)
            near = self.routes.through(target)[:k]
        others = [p for p in self.alive() if p != target and peers[p].state is State.ALIVE]
        others = [p for p in others if p not in near]
        if self._roster.is_leaf(target):  # nobody else is connected to it
            return [*near, *(p for p in self._roster.monitors(target) if p in others)]
        ready = self._roster.partners([p for p in others if peers[p].connected])
        k -= len(near)
        if len(ready) < k and not self._config.leaf:
            ready = self._roster.partners(others)
        return [*near, *self._rng.sample(ready, min(k, len(ready)))]

    def _done(self, effects: list[Effect], now: Now) -> list[Effect]:
        """Follow the ring: whom we probe, whom we keep a connection to."""
        if self._aimed != self._roster.turns:
            self._aimed = self._roster.turns
            self._prober.aim(self._roster.watched(), now.mono, self._pace)
            self._links.stir(self._roster, now.mono)
            self._want_paths(now)
        if self._config.leaf:
            self._keep_ways(now)
        if now.mono >= self._links.deadline:
            roster = self._roster
            near = [*roster.targets(), *roster.monitors(self._me), *roster.ways]
            effects += self._links.review(self._roster, near, now.mono)
            self._want_paths(now)
        return outward(effects, self._roster)

    def _keep_ways(self, now: Now) -> None:
        """A leaf that reaches an anchor through somebody keeps the connection to that one, and
        sees to it that it is no dead one."""
        near = [*self._roster.targets(), *self._roster.monitors(self._me)]
        ways = tuple(dict.fromkeys(way for peer in near for way in self._relays(peer)[:1]))
        if ways != self._roster.ways:
            self._roster.ways = ways
            self._links.stir(self._roster, now.mono)
        watched = self._roster.watched()
        if watched != self._prober.targets:
            self._prober.aim(watched, now.mono, self._pace)

    def _pace(self, peer: PeerId) -> MembershipConfig:
        entry = self._roster.peers.get(peer)
        return self._config if entry is None else self._roster.pace(entry)

    def _want_paths(self, now: Now) -> None:
        """To whom a connection is to be kept and does not stand; none to who is gone."""
        for peer in self._links.kept():
            entry = self._roster.peers.get(peer)
            if entry is not None and entry.state in PRESENT and not entry.connected:
                self.routes.want(peer, now.mono)
        for peer in self.routes.wanted():
            entry = self._roster.peers.get(peer)
            if entry is None or entry.state not in PRESENT:
                self.routes.drop(peer)
