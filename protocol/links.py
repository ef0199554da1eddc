"""Links: which peers a connection is kept to.

Up to LINKS_MAX others: to all of them. In a larger shoal: to those we monitor and those that
monitor us, and to some at random. As many of theirs come in as go out, which makes about LINKS_MAX.
A few links go to peers thought dead: two halves of a shoal that lost each other meet again there.

A leaf on a metered link keeps to its two anchors, and nobody else keeps to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random
from typing import Final

from protocol.effects import Dial
from protocol.ids import PeerId
from protocol.roster import PRESENT, Peer, Roster, State

LINKS_MAX: Final = 32  # DESIGN 5: open connections
SPARSE_MAX: Final = (
    21  # ten neighbours are shared with their other end, eleven are not: 10 + 2 x 11
)
ABSENT_MAX: Final = 4  # of these, for peers that are dead or were not heard of yet
REVIEW_S: Final = 1.0  # changes of a large shoal are gathered this long
STRANDED_S: Final = 20.0  # a leaf whose link broke gets so long to reach its anchors again
LONELY_S: Final = 60.0  # if it finds nobody it tries others then, ABSENT_MAX at once and never all
_ABSENT = (State.UNHEARD, State.DEAD, State.RESTARTING)


class Links:
    """The addresses dialled; an effect Dial without addresses means: keep it no longer."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._kept: dict[PeerId, tuple[str, ...]] = {}
        self.deadline = inf

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._kept

    def kept(self) -> list[PeerId]:
        return list(self._kept)

    def learn(self, peer: Peer, roster: Roster, now: float, back: bool = False) -> list[Dial]:
        """`peer` or its addresses are new, or it is `back`: dial at once where there is room."""
        addresses = peer.addresses
        if not roster.may_link(peer):
            return self.spare(peer, roster)
        if not addresses or (self._kept.get(peer.id) == addresses and not back):
            return []
        if peer.id in self._kept or len(self._kept) < _limit(roster):
            self._kept[peer.id] = addresses
            return [Dial(peer.id, addresses)]
        self.stir(roster, now)
        return []

    def spare(self, peer: Peer, roster: Roster) -> list[Dial]:
        """No connection is to be kept to it; said again, since discovery may have found it anew."""
        if roster.may_link(peer):
            return []
        self._kept.pop(peer.id, None)
        return [Dial(peer.id, ())]

    def drop(self, peer: PeerId) -> list[Dial]:
        """It left or is forgotten."""
        return [] if self._kept.pop(peer, None) is None else [Dial(peer, ())]

    def stir(self, roster: Roster, now: float) -> None:
        """Somebody came or went: choose again soon, if there is a choice."""
        if roster.leaves or len(roster) > LINKS_MAX or len(self._kept) > LINKS_MAX:
            self.deadline = min(self.deadline, now + REVIEW_S)

    def strand(self, roster: Roster, now: float) -> None:
        """A connection ended; if it was a leaf's last, it is to look further by and by."""
        if roster.stranded:
            self.deadline = min(self.deadline, now + STRANDED_S)

    def review(self, roster: Roster, neighbours: Sequence[PeerId], now: float) -> list[Dial]:
        """Choose again, when it is time: neighbours, then whom we have, then some at random."""
        if now < self.deadline:
            return []
        self.deadline = inf
        limit = _limit(roster)
        known = [p for p in roster.sorted() if p.addresses and roster.may_link(p)]
        live = [p.id for p in known if p.state in PRESENT]
        absent = [p.id for p in known if p.state in _ABSENT]
        before = self._kept
        if roster.stranded:
            self._kept = {}  # who was tried in vain is as likely as any other
            self.deadline = now + LONELY_S
        chosen: dict[PeerId, None] = {}
        near = [roster.peers.get(peer) for peer in neighbours]  # a relay need not be listed
        kept = [p.id for p in near if p is not None and p.addresses and roster.may_link(p)]
        self._fill(chosen, kept, limit)
        self._fill(chosen, live, limit - min(len(absent), ABSENT_MAX))
        self._fill(chosen, absent, limit)
        self._fill(chosen, live, limit)
        self._kept = {peer: roster.peers[peer].addresses for peer in chosen}
        effects = [Dial(peer, ()) for peer in before if peer not in self._kept]
        effects += [Dial(p, there) for p, there in self._kept.items() if before.get(p) != there]
        return effects

    def _fill(self, chosen: dict[PeerId, None], peers: Sequence[PeerId], limit: int) -> None:
        """Add of `peers` up to `limit` in all, those that are kept already before others."""
        fresh: list[PeerId] = []
        for peer in peers:
            if peer in chosen:
                continue
            if peer not in self._kept:
                fresh.append(peer)
            elif len(chosen) < limit:
                chosen[peer] = None
        room = max(0, limit - len(chosen))
        for peer in self._rng.sample(fresh, min(room, len(fresh))):
            chosen[peer] = None


def _limit(roster: Roster) -> int:
    if roster.stranded:
        return ABSENT_MAX
    return LINKS_MAX if len(roster) <= LINKS_MAX else SPARSE_MAX
