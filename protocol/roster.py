"""The roster: every peer known, what state it is in, and who of them watches whom."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

from protocol.antientropy import Reconciler
from protocol.config import MembershipConfig
from protocol.ids import PeerId
from protocol.records import Advert, Certificate
from protocol.ring import Ring
from protocol.rumours import digest_of
from protocol.suspicion import Case

DOMAIN: Final = 0  # of adverts, in anti-entropy
EVIDENCE_MAX: Final = 3  # records kept to convince others of a death: the accusers and one spare


class State(StrEnum):
    """What is thought of a peer."""

    UNHEARD = "unheard"  # its advert is from our disk; nobody has vouched for it since we started
    ALIVE = "alive"
    SUSPECT = "suspect"  # accused, and still counted as alive: it may refute
    DEAD = "dead"
    LEFT = "left"  # it said that it leaves for good
    RESTARTING = "restarting"  # it said that it comes back


PRESENT: Final = (State.ALIVE, State.SUSPECT)
GONE: Final = (State.DEAD, State.LEFT, State.RESTARTING)


@dataclass(slots=True, eq=False)
class Peer:
    """One other peer. To be read only, outside of membership; `since` and `until` are monotonic."""

    id: PeerId
    state: State
    since: float  # when `state` was entered
    incarnation: int = 0  # 0: not known yet
    advert: Advert | None = None
    certificate: Certificate | None = None
    connected: bool = False
    data: bytes = b""  # the sealed advert
    heard: float = -inf  # when it last sent anything to us itself
    linked_at: float = -inf  # when the connection came up that stands
    told: float = -inf  # when we last told it that it is accused
    boot: bytes = b""  # of its agent's life, as it last connected to us; empty: not known
    goodbye: bytes = b""  # the one that ended with a departure
    until: float = inf  # when a RESTARTING peer counts as dead
    evidence: tuple[bytes, ...] = ()  # sealed records that say why it is gone
    case: Case | None = None  # while SUSPECT

    @property
    def signed(self) -> int:
        """The highest incarnation that it said itself: others may accuse it of a higher one."""
        return 0 if self.advert is None else self.advert.incarnation

    @property
    def addresses(self) -> tuple[str, ...]:
        return () if self.advert is None else self.advert.addresses

    @property
    def leaf(self) -> bool:
        """Whether it says that it is on a metered link."""
        return self.advert is not None and self.advert.keepalive_s > 0

    @property
    def name(self) -> str:
        """For people."""
        if self.advert is not None and self.advert.name:
            return self.advert.name
        if self.certificate is not None and self.certificate.name:
            return self.certificate.name
        return self.id[-8:]


@dataclass(frozen=True, slots=True)
class Change:
    """`peer` went from one state to another; who was never known before was UNHEARD.

    From a state to the same one: its conditions changed, labels or what it offers.
    """

    peer: PeerId
    before: State
    after: State


class Roster:
    """The table of other peers, with what is derived from it kept up to date.

    Anti-entropy covers our own advert and those of the peers that are present: who lacks the news
    of a death offers the dead peer's advert, and is answered with the evidence.
    """

    def __init__(self, me: PeerId, config: MembershipConfig) -> None:
        self._me = me
        self._config = config
        self.peers: dict[PeerId, Peer] = {}
        self.changes: list[Change] = []
        self.suspects: dict[PeerId, Peer] = {}
        self.linked: list[PeerId] = []  # sorted: to whom a connection stands
        self.ways: tuple[PeerId, ...] = ()  # a leaf's: who relays to its anchors
        self.turns = 0  # counts the changes of the ring
        self.reconciler = Reconciler(DOMAIN, self._records_of)
        self._ring = Ring()  # who is no leaf
        self._leaves = Ring()
        (self._leaves if config.leaf else self._ring).add(me)
        self._live: list[PeerId] = []
        self._held: dict[bytes, PeerId] = {}  # digest of each advert held
        self._own = b""
        self.deadline = inf  # not after the first end of a restart or of a retention

    def __len__(self) -> int:
        return len(self.peers)

    def alive(self) -> list[PeerId]:
        """Who is ALIVE or SUSPECT, sorted; a new list."""
        return self._live.copy()

    def sorted(self) -> list[Peer]:
        return [self.peers[peer] for peer in sorted(self.peers)]

    def holder(self, digest: bytes) -> Peer | None:
        """Whose advert has this digest, byte for byte."""
        peer = self._held.get(digest)
        return None if peer is None else self.peers[peer]

    def is_leaf(self, peer: PeerId) -> bool:
        return peer in self._leaves

    @property
    def stranded(self) -> bool:
        """Whether this is a leaf that is connected to nobody: its anchors may both be gone, and
        only others can say so."""
        return self._config.leaf and not self.linked

    @property
    def is_own_leaf(self) -> bool:
        """Whether this peer is a leaf itself."""
        return self._config.leaf

    @property
    def leaves(self) -> int:
        """How many of those present are leaves, this peer included."""
        return len(self._leaves)

    def pace(self, peer: Peer) -> MembershipConfig:
        """How `peer` is probed and judged: a leaf as slowly as it asks for."""
        pace = self._config.towards(0 if peer.advert is None else peer.advert.keepalive_s)
        told = self._config.leaf and self._me not in self.monitors(peer.id)
        return pace.as_told() if told else pace

    def targets(self) -> list[PeerId]:
        """Whom we monitor: exactly those that have us among their monitors."""
        anchors = self._config.anchors
        if not self._config.leaf:
            leaves = [leaf for leaf in self._leaves if self._me in self.monitors(leaf)]
            return [*self._ring.targets(self._me, self._config.monitors), *leaves]
        if len(self._ring) > anchors:  # each has monitors enough that are no leaves
            return []
        others = [peer for peer in self._ring if self._me in self.monitors(peer)]
        return [*others, *self._leaves.targets(self._me, max(0, anchors - len(self._ring)))]

    def monitors(self, peer: PeerId) -> list[PeerId]:
        """Who monitors `peer`, ourselves perhaps among them; of a leaf these are its anchors.

        No leaf monitors anybody, unless there are fewer than two others to do it.
        """
        anchors = self._config.anchors
        found = self._ring.monitors(peer, anchors if self.is_leaf(peer) else self._config.monitors)
        return found + self._leaves.monitors(peer, max(0, anchors - len(found)))

    def watched(self) -> list[PeerId]:
        """Whom we probe: our targets; a leaf also those through whom it is reached, its anchors
        and who relays to them, to notice a dead connection."""
        if not self._config.leaf:
            return self.targets()
        anchors = [peer for peer in self.monitors(self._me) if self.peers[peer].connected]
        return list(dict.fromkeys([*self.targets(), *anchors, *self.ways]))

    def may_link(self, peer: Peer) -> bool:
        """Whether a connection to `peer` may be kept: to and from a leaf, to its anchors only, and
        to who relays to those.

        Who is alone tries whoever was there before; a stranded leaf whoever is there.
        """
        if not self._config.leaf and not peer.leaf:
            return True
        if peer.state not in PRESENT:
            return not self._live
        if self.stranded or peer.id in self.ways:
            return True
        return self._me in self.monitors(peer.id) or peer.id in self.monitors(self._me)

    def partners(self, peers: Sequence[PeerId]) -> list[PeerId]:
        """Of `peers`, those to turn to with what anybody can answer: leaves only if all are."""
        return [peer for peer in peers if peer not in self._leaves] or list(peers)

    @property
    def meshed(self) -> bool:
        """Whether what we gossip spreads: a leaf, or who is linked to none but leaves, is alone."""
        return not self._config.leaf and any(peer not in self._leaves for peer in self.linked)

    def reachable_monitors(self, peer: PeerId) -> list[PeerId]:
        """The monitors of `peer` that are not suspect themselves."""
        return [
            m for m in self.monitors(peer) if m == self._me or self.peers[m].state is State.ALIVE
        ]

    def quorum(self, peer: PeerId) -> int:
        """How many must accuse `peer` before its time runs."""
        entry = self.peers.get(peer)
        accusers = self._config.accusers if entry is None else self.pace(entry).accusers
        return max(1, min(accusers, len(self.reachable_monitors(peer))))

    def admit(self, peer: PeerId, now: float) -> Peer | None:
        """The entry of `peer`, made UNHEARD if there was none; None where the table is full."""
        entry = self.peers.get(peer)
        if entry is None and len(self.peers) < self._config.peers_max:
            entry = self.peers[peer] = Peer(peer, State.UNHEARD, now)
            self.deadline = min(self.deadline, now + self._config.dead_kept_s)
        return entry

    def hold(self, peer: Peer, advert: Advert, data: bytes) -> None:
        """Keep `advert`, sealed as `data`, in place of what was known of `peer`."""
        if peer.data:
            del self._held[digest_of(peer.data)]
        known = peer.advert
        news = known is None or _conditions(known) != _conditions(advert)
        if news and peer.state in PRESENT:  # the first one, too: it was there without one
            self.changes.append(Change(peer.id, peer.state, peer.state))
        peer.advert, peer.data, peer.incarnation = advert, data, advert.incarnation
        self._held[digest_of(data)] = peer.id
        if peer.state in PRESENT:
            self.reconciler.put(peer.id, _version(data))
            if self.is_leaf(peer.id) is not peer.leaf:
                self._enter(peer)
                self.changes.append(Change(peer.id, peer.state, peer.state))

    def link(self, peer: Peer, connected: bool) -> None:
        """A connection to `peer` stands, or does not."""
        if connected and not peer.connected:
            insort(self.linked, peer.id)
        elif peer.connected and not connected:
            del self.linked[bisect_left(self.linked, peer.id)]
        peer.connected = connected

    def victim(self) -> Peer | None:
        """Whom to forget where the table is full: of those that are absent the longest so."""
        absent = [p for p in self.peers.values() if p.state not in PRESENT and not p.connected]
        full = len(self.peers) >= self._config.peers_max
        return min(absent, key=lambda peer: (peer.since, peer.id)) if full and absent else None

    def hold_own(self, data: bytes) -> None:
        self._own = data
        self.reconciler.put(self._me, _version(data))

    def matches(self, peer: Peer, version: bytes) -> bool:
        """Whether `version`, as another lists it, is the advert we hold of `peer`."""
        return peer.data != b"" and _version(peer.data) == version

    def move(self, peer: Peer, state: State, now: float) -> None:
        """Enter `state`; the one place where it changes."""
        before, peer.state, peer.since = peer.state, state, now
        if state is State.SUSPECT:
            self.suspects[peer.id] = peer
        else:
            self.suspects.pop(peer.id, None)
            peer.case = None
        if state in PRESENT:
            peer.evidence = ()
        if state is State.RESTARTING:
            self.deadline = min(self.deadline, peer.until)
        elif state in GONE:
            self.deadline = min(self.deadline, now + self._config.dead_kept_s)
        if (before in PRESENT) != (state in PRESENT):
            self._count(peer, state in PRESENT)
        if before is not state:
            self.changes.append(Change(peer.id, before, state))

    def overdue(self, now: float) -> tuple[list[Peer], list[Peer]]:
        """Who should have been back from a restart by now, and who can be forgotten.

        As long as nobody is alive, nobody is forgotten: the device may be cut off, and the
        addresses of the others are its only way back.
        """
        if now < self.deadline:
            return [], []
        self.deadline = inf
        late: list[Peer] = []
        stale: list[Peer] = []
        for peer in self.sorted():
            if peer.state in PRESENT:
                continue
            end = peer.until if peer.state is State.RESTARTING else self._end(peer)
            if end > now:
                self.deadline = min(self.deadline, end)
            elif peer.state is State.RESTARTING:
                late.append(peer)
            elif self._live and not peer.connected:
                stale.append(peer)
            else:
                self.deadline = min(self.deadline, now + self._config.sync_period_s)
        return late, stale

    def forget(self, peer: Peer) -> None:
        assert peer.state not in PRESENT, peer
        if peer.data:
            del self._held[digest_of(peer.data)]
        del self.peers[peer.id]

    def _end(self, peer: Peer) -> float:
        return peer.since + self._config.dead_kept_s

    def _count(self, peer: Peer, present: bool) -> None:
        if present:
            insort(self._live, peer.id)
            self._enter(peer)
            if peer.data:
                self.reconciler.put(peer.id, _version(peer.data))
        else:
            self.turns += 1
            del self._live[bisect_left(self._live, peer.id)]
            self._ring.discard(peer.id)
            self._leaves.discard(peer.id)
            self.reconciler.discard(peer.id)

    def _enter(self, peer: Peer) -> None:
        """Into the ring that is its own; who has not said what it is, is no leaf."""
        inner, outer = (self._leaves, self._ring) if peer.leaf else (self._ring, self._leaves)
        outer.discard(peer.id)
        inner.add(peer.id)
        self.turns += 1

    def _records_of(self, key: str) -> tuple[bytes, ...]:
        if key == self._me:
            return (self._own,)
        return (self.peers[PeerId(key)].data,)


def _conditions(advert: Advert) -> tuple[object, ...]:
    """What placement goes by; addresses and names may change without anybody having to act."""
    offered = (advert.cpu_m, advert.memory_bytes, advert.disk_bytes, advert.gpus)
    return (*offered, advert.engines, advert.labels, advert.draining)


def _version(data: bytes) -> bytes:
    return digest_of(data)[:8]
