"""Judgement: what records and silence mean for the state of each peer, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from protocol.advertising import INCARNATION_MAX, JUMP_MAX, Advertiser
from protocol.clock import Now
from protocol.effects import Effect, Gossip, Hangup, Save, Send, Tell
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.links import Links
from protocol.messages import Accused, Rumours
from protocol.records import Accusation, Advert, Departure, Keyring, Suspicion, Unknown
from protocol.roster import EVIDENCE_MAX, GONE, PRESENT, Peer, Roster, State
from protocol.rumours import RECORD_BYTES_MAX, RumourMill, digest_of
from protocol.suspicion import Case, Health
from protocol.wire import Sealed, seal

RESTART_MAX_S: Final = 3600.0  # a planned restart that takes longer is a death
REPLY_BYTES: Final = 48 * 1024

Opener = Callable[[bytes, Keyring], Sealed]


@dataclass(frozen=True, slots=True)
class Item:
    """One record of a message: verified now, or (`sealed` None) known byte for byte."""

    digest: bytes
    data: bytes
    sealed: Sealed | None


class Judge:
    """Every change of a peer's state is decided here; each method returns what follows from it."""

    def __init__(
        self,
        keyring: Keyring,
        roster: Roster,
        own: Advertiser,
        mill: RumourMill,
        links: Links,
        health: Health,
        opener: Opener,
    ) -> None:
        self._keyring = keyring
        self._roster = roster
        self._own = own
        self._mill = mill
        self._links = links
        self._health = health
        self._opener = opener
        self._replies: dict[bytes, None] = {}  # records for the sender of what is being heard
        self._passing = False  # whether what is being heard was told to us, and not compared
        self._news = False  # the record at hand was news
        self.progress = False  # something heard was news
        self.doubtful: list[Peer] = []  # suspects that wait for the word of others, just looked at

    @property
    def deadline(self) -> float:
        cases = (p.case.deadline for p in self._roster.suspects.values() if p.case is not None)
        return min(cases, default=inf)

    # ---- records -----------------------------------------------------------------------------

    def hear(
        self, records: Sequence[bytes], sender: PeerId | None, passing: bool, now: Now
    ) -> list[Effect]:
        """Take in `records`: from `sender`, or by gossip where None. `passing`: gossip the news.

        Raises RemoteProtocolError if any is invalid; none has been taken in then.
        """
        items = [item for item in map(self._open, records) if item is not None]
        effects: list[Effect] = []
        self._replies = {}
        self._passing = passing
        self.progress = False
        for item in items:
            if sender is None:
                self._mill.drop(item.digest)
            effects += self._take(item, sender, now)
        if sender is not None:
            effects += [Send(sender, message) for message in parts(self._replies)]
        return effects

    def _open(self, data: bytes) -> Item | None:
        """None where it says nothing that could still matter."""
        if len(data) > RECORD_BYTES_MAX:
            raise RemoteProtocolError(f"a rumour of {len(data)} bytes")
        digest = digest_of(data)
        if self._roster.holder(digest) is not None:
            return Item(digest, data, None)
        if data == self._own.data or self._mill.seen(digest):
            self._mill.drop(digest)
            return None
        sealed = self._opener(data, self._keyring)
        record = sealed.record
        if isinstance(record, Advert | Departure):
            if sealed.author != record.peer:
                raise RemoteProtocolError(f"{sealed.author} speaks for {record.peer}")
            if not 0 < record.incarnation <= INCARNATION_MAX:
                raise RemoteProtocolError(f"incarnation {record.incarnation}")
        elif isinstance(record, Suspicion):
            if sealed.author == record.peer:
                raise RemoteProtocolError(f"{sealed.author} accuses itself")
        elif not isinstance(record, Unknown):
            raise RemoteProtocolError(f"a {type(record).__name__} is no rumour")
        return Item(digest, data, sealed)

    def _take(self, item: Item, sender: PeerId | None, now: Now) -> list[Effect]:
        peer = self._roster.holder(item.digest)
        if peer is not None:
            return self._held_again(peer, sender, now)
        if item.sealed is None or self._mill.seen(item.digest):
            return []  # twice in one message
        self._news = False
        match item.sealed.record:
            case Advert():
                effects = self._on_advert(item, item.sealed, item.sealed.record, sender, now)
            case Departure():
                effects = self._on_departure(item, item.sealed.record, sender, now)
            case Suspicion():
                author = item.sealed.author
                effects = self._on_suspicion(item, author, item.sealed.record, sender, now)
            case _:
                effects, self._news = [], True  # a newer version's: it travels on
        if self._news:
            self.progress = True
            self._mill.remember(item.digest)
            if self._passing and sender is not None:
                self._mill.pass_on(item.digest, item.data, now.mono)
        return effects

    def _on_advert(
        self, item: Item, sealed: Sealed, advert: Advert, sender: PeerId | None, now: Now
    ) -> list[Effect]:
        if advert.peer == self._keyring.peer:
            return self._on_echo(advert.incarnation, sender, now)
        effects, peer = self.admit(advert.peer, now)
        if peer is None:
            return effects
        if advert.incarnation < peer.incarnation:
            return effects + self._outdated(peer, sender, now)
        newer = advert.incarnation > peer.incarnation
        back = newer and peer.state in GONE and not peer.connected
        if advert.incarnation == peer.incarnation and item.data < peer.data:
            return effects  # two adverts of one number: all keep the larger
        self._news = True
        first = peer.incarnation == 0 and peer.state is State.UNHEARD
        self._roster.hold(peer, advert, item.data)
        peer.certificate = sealed.certificate
        effects.append(Save((("peer", peer.id, item.data),)))
        if newer:
            effects += self._revive(peer, first, now)
        else:
            effects += self._held_again(peer, sender, now)
        return effects + list(self._links.learn(peer, self._roster, now.mono, back))

    def _held_again(self, peer: Peer, sender: PeerId | None, now: Now) -> list[Effect]:
        """Somebody tells us the advert that we hold."""
        if peer.state is State.UNHEARD:
            self.progress = True
            return self._revive(peer, False, now)
        return self._outdated(peer, sender, now) if peer.state in GONE else []

    def _outdated(self, peer: Peer, sender: PeerId | None, now: Now) -> list[Effect]:
        """`sender` holds `peer` for less, or for more alive, than we know it to be."""
        if sender == peer.id:
            return self.tell(peer, now)
        if peer.state in GONE:
            self._replies.update(dict.fromkeys(peer.evidence))
        elif self._passing and peer.data:  # what is compared goes both ways anyhow
            self._replies[peer.data] = None
        return []

    def _on_departure(
        self, item: Item, record: Departure, sender: PeerId | None, now: Now
    ) -> list[Effect]:
        if record.peer == self._keyring.peer:
            return self._on_echo(record.incarnation, sender, now)
        peer = self._roster.peers.get(record.peer)
        if peer is None or peer.state is State.LEFT or item.data in peer.evidence:
            return []
        if record.incarnation < peer.incarnation:
            return self._outdated(peer, sender, now)
        self._news = True
        peer.incarnation = record.incarnation
        peer.evidence, peer.goodbye = (item.data,), peer.boot
        if record.until_ms == 0:
            self._roster.move(peer, State.LEFT, now.mono)
            text = f"{peer.name} has left the shoal"
            tell = Tell("peer.left", text, peer=peer.id)
            return [Save((("peer", peer.id, None),)), tell, *self._links.drop(peer.id)]
        left_s = record.until_ms / 1000 - now.wall if now.wall_trusted else RESTART_MAX_S
        left_s = min(max(left_s, self._roster.pace(peer).suspicion_s), RESTART_MAX_S)
        peer.until = now.mono + left_s
        self._roster.move(peer, State.RESTARTING, now.mono)
        text = f"{peer.name} restarts and means to be back within {left_s:.0f} s"
        return [Tell("peer.restarting", text, peer=peer.id, fields={"within_s": round(left_s)})]

    def _on_suspicion(
        self, item: Item, author: PeerId, record: Suspicion, sender: PeerId | None, now: Now
    ) -> list[Effect]:
        if record.peer == self._keyring.peer:
            if record.incarnation > self._own.incarnation + JUMP_MAX:
                return []
            return self.accused(record.incarnation, author if sender is None else sender, now)
        peer = self._roster.peers.get(record.peer)
        if peer is None or record.incarnation > peer.signed + JUMP_MAX:
            return []  # it could not refute that
        if record.incarnation < peer.incarnation:
            return self._outdated(peer, sender, now)
        refused = record.why == Accusation.REFUSED
        if peer.state not in PRESENT:
            if refused and peer.evidence and sender is None:
                self._mill.drop(digest_of(peer.evidence[0]))  # it says what we meant to say
            return []
        self._news = True
        peer.incarnation = record.incarnation
        if refused and not peer.connected:
            return self._bury(peer, (item.data,), _REFUSED, now)
        return self._charge(peer, author, item.data, refused, now)

    # ---- ourselves ---------------------------------------------------------------------------

    def accused(self, incarnation: int, by: PeerId, now: Now) -> list[Effect]:
        """We are held for suspect or dead. Raises RemoteProtocolError for an absurd incarnation."""
        if not self._own.accused(incarnation, by):
            return [Send(by, Rumours((self._own.data,)))] if self._own.data else []
        return self.refute(now)

    def refute(self, now: Now) -> list[Effect]:
        """Raise the incarnation if somebody needs that, and not too soon after the last time."""
        own = self._own
        if own.above < 0 or now.mono < own.deadline:
            return []
        first = own.accusers
        effects = own.issue(now.mono)
        self._health.trouble(now.mono)
        names = ", ".join(self.name_of(peer) for peer in first) or "an earlier life"
        text = f"refuted that this peer is gone, as {names} had it"
        effects.append(Tell("self.refuted", text, fields={"incarnation": own.incarnation}))
        me = self._keyring.peer
        others = [peer for peer in self._roster.reachable_monitors(me) if peer not in first]
        return effects + self.spread([*first, *others])

    def spread(self, peers: Sequence[PeerId]) -> list[Effect]:
        """Gossip our advert, and send it to `peers`."""
        if not self._own.data:
            return []
        self._roster.hold_own(self._own.data)
        rumours = Rumours((self._own.data,))
        return [Gossip(rumours), *(Send(peer, rumours) for peer in peers)]

    def _on_echo(self, incarnation: int, sender: PeerId | None, now: Now) -> list[Effect]:
        """A record under our own name that is not our last advert."""
        if incarnation < self._own.incarnation:
            if self._passing and self._own.data:
                self._replies[self._own.data] = None
            return []
        self._own.echoed(incarnation, sender)
        return self.refute(now)

    # ---- accusations -------------------------------------------------------------------------

    def accuse(self, peer: Peer, now: Now) -> list[Effect]:
        """Our probes of `peer` went unanswered: say so to all, unless enough have said so."""
        me, case = self._keyring.peer, peer.case
        if case is not None and (me in case.accusers or case.confirmed):
            return self.tell(peer, now)
        data = self._suspicion(peer, Accusation.SILENT)
        others = [m for m in self._roster.reachable_monitors(peer.id) if m not in (me, peer.id)]
        rumours = Rumours((data,))
        return [
            *self._charge(peer, me, data, False, now),
            Gossip(rumours),
            *(Send(other, rumours) for other in others),
            *self.tell(peer, now),
        ]

    def refused(self, peer: Peer, now: Now) -> list[Effect]:
        """Its connection broke and nobody listens at its port: it is dead.

        Many see that at once: the first of its monitors says so, the others if nobody else does.
        """
        reachable = self._roster.reachable_monitors(peer.id)
        data = self._suspicion(peer, Accusation.REFUSED)
        effects = self._bury(peer, (data,), _REFUSED, now)
        if reachable[:1] == [self._keyring.peer]:
            return [*effects, Gossip(Rumours((data,)))]
        self._mill.pass_on(digest_of(data), data, now.mono)
        return effects

    def expire(self, now: Now) -> list[Effect]:
        """Suspects whose time is up."""
        effects: list[Effect] = []
        self.doubtful = []
        for peer in sorted(self._roster.suspects.values(), key=lambda peer: peer.id):
            case = peer.case
            assert case is not None, peer
            if case.deadline > now.mono:
                continue
            quorum = self._roster.quorum(peer.id)
            if peer.heard > case.opened:  # it is there, and has not heard what is said of it
                case.reopen(now.mono)
                effects += self.tell(peer, now)
            elif case.confirmed and case.enough(quorum, self._roster.pace(peer), now.mono):
                why = _REFUSED if case.refused else "silent"
                evidence = tuple(case.accusers.values())[:EVIDENCE_MAX]
                effects += self._bury(peer, evidence, why, now)
                continue
            case.weigh(quorum, self._roster.pace(peer), self._health.level, now.mono)
            self.doubtful += [] if case.confirmed else [peer]
        return effects

    def spare(self, late_s: float, now: float) -> None:
        """We were away for `late_s`; for a period or more, every count begins anew."""
        for peer in self._roster.suspects.values():
            assert peer.case is not None, peer
            if late_s < self._roster.pace(peer).probe_period_s:
                peer.case.spare(now + late_s)
                continue
            peer.case.reopen(now)
            quorum = self._roster.quorum(peer.id)
            peer.case.weigh(quorum, self._roster.pace(peer), self._health.level, now)

    def tell(self, peer: Peer, now: Now) -> list[Effect]:
        """Let an accused peer know, so that it can refute; not more often than it can answer."""
        if now.mono - peer.told < self._roster.pace(peer).probe_timeout_s:
            return []
        peer.told = now.mono
        return [Send(peer.id, Accused(peer.incarnation))]

    def _suspicion(self, peer: Peer, why: Accusation) -> bytes:
        record = Suspicion(peer=peer.id, incarnation=peer.incarnation, why=int(why))
        data = seal(record, self._keyring)
        self._mill.remember(digest_of(data))
        return data

    def _charge(
        self, peer: Peer, author: PeerId, data: bytes, refused: bool, now: Now
    ) -> list[Effect]:
        """Count one accusation of the incarnation at which we hold `peer`."""
        effects: list[Effect] = []
        case = peer.case
        if case is None or case.incarnation < peer.incarnation:
            case = Case(peer.incarnation, now.mono)
            self._roster.move(peer, State.SUSPECT, now.mono)
            peer.case = case
            text = f"{self.name_of(author)} thinks that {peer.name} is gone"
            fields: dict[str, object] = {"accuser": author}
            effects.append(Tell("peer.suspect", text, peer=peer.id, fields=fields))
            if peer.connected:
                effects += self.tell(peer, now)
        fresh = case.accuse(author, data)
        if refused and not case.refused:
            case.accusers[author] = data  # in place of its own weaker word, perhaps
            case.doubt(self._roster.pace(peer), self._health.level, now.mono)
        elif fresh and not case.refused:
            quorum = self._roster.quorum(peer.id)
            case.weigh(quorum, self._roster.pace(peer), self._health.level, now.mono)
        return effects

    # ---- life and death ----------------------------------------------------------------------

    def admit(self, peer: PeerId, now: Now) -> tuple[list[Effect], Peer | None]:
        """The entry of `peer`; where the table is full, in place of the one absent the longest."""
        effects: list[Effect] = []
        if peer not in self._roster.peers:
            victim = self._roster.victim()
            if victim is not None:
                effects = self.forget(victim)
        return effects, self._roster.admit(peer, now.mono)

    def met(self, peer: Peer, now: Now) -> list[Effect]:
        """`peer` itself speaks to us: it is there, if perhaps at an incarnation thought gone."""
        if peer.state is State.UNHEARD:
            return self._revive(peer, peer.incarnation == 0, now)
        return [] if peer.state is State.ALIVE else self.tell(peer, now)

    def vouched(self, peer: Peer, now: Now) -> list[Effect]:
        """A neighbour lists the advert that we have from our disk."""
        return self._revive(peer, False, now) if peer.state is State.UNHEARD else []

    def overdue(self, now: Now) -> list[Effect]:
        """Restarts that took too long, and peers that were absent long enough to be forgotten."""
        late, stale = self._roster.overdue(now.mono)
        effects: list[Effect] = []
        for peer in late:
            effects += self._bury(peer, peer.evidence, "not back from its restart", now)
        for peer in stale:
            effects += self.forget(peer)
        return effects

    def why_not_forget(self, peer: Peer | None) -> str:
        """Only who is gone can be forgotten; a sentence where it cannot, empty where it can."""
        if peer is None:
            return "no such peer is known here"
        if peer.connected or peer.state in PRESENT:
            return f"{peer.name} is {peer.state.value}: only a peer that is gone can be forgotten"
        if peer.state is State.RESTARTING:
            return f"{peer.name} restarts and means to be back; wait until it is held for dead"
        return ""

    def forget(self, peer: Peer) -> list[Effect]:
        self._roster.forget(peer)
        return [Save((("peer", peer.id, None),)), *self._links.drop(peer.id)]

    def name_of(self, peer: PeerId) -> str:
        known = self._roster.peers.get(peer)
        if known is not None:
            return known.name
        return self._own.name if peer == self._keyring.peer else peer[-8:]

    def _revive(self, peer: Peer, first: bool, now: Now) -> list[Effect]:
        """It is alive: at a higher incarnation, or heard of for the first time since we started."""
        before = peer.state
        if before is State.ALIVE:
            return []
        peer.told = -inf
        self._roster.move(peer, State.ALIVE, now.mono)
        self._links.stir(self._roster, now.mono)
        fields: dict[str, object] = {"before": before.value}
        if first:
            return [Tell("peer.joined", f"{peer.name} is new in the shoal", peer=peer.id)]
        return [Tell("peer.alive", f"{peer.name} is alive", peer=peer.id, fields=fields)]

    def _bury(self, peer: Peer, evidence: tuple[bytes, ...], why: str, now: Now) -> list[Effect]:
        accusers = [] if peer.case is None else list(peer.case.accusers)
        peer.evidence = evidence
        self._roster.move(peer, State.DEAD, now.mono)
        self._links.stir(self._roster, now.mono)
        text = f"{peer.name} is dead: {why}"
        if accusers:
            text += ", say " + ", ".join(self.name_of(accuser) for accuser in accusers)
        level = self._health.level  # above 1: it may be us who are slow
        fields: dict[str, object] = {"why": why, "accusers": accusers, "health": level}
        return [Tell("peer.dead", text, peer=peer.id, fields=fields), Hangup(peer.id)]


_REFUSED: Final = "nobody listens at its port"


def parts(records: dict[bytes, None]) -> list[Rumours]:
    """Messages of bounded size with all of `records`."""
    found: list[Rumours] = []
    part: list[bytes] = []
    size = 0
    for record in records:
        if part and size + len(record) > REPLY_BYTES:
            found.append(Rumours(tuple(part)))
            part, size = [], 0
        part.append(record)
        size += len(record)
    return [*found, Rumours(tuple(part))] if part else found
