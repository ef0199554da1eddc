"""Comparing: with whom, and when, this peer compares the adverts that both hold (anti-entropy)."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Final

from protocol.config import MembershipConfig
from protocol.effects import Effect, Send
from protocol.ids import PeerId
from protocol.roster import Roster

SYNC_PAUSE_S: Final = 0.25  # between two exchanges: the first may settle what the second would
YOUNG_S: Final = 8.0  # a leaf's first pause, doubling: who starts with it comes by and by
BESIDE_PERIODS: Final = 0.5  # so much earlier a leaf compares beside something else


class Comparer:
    """Opens exchanges; what they say is the reconciler's, and what comes of them the judge's."""

    def __init__(self, config: MembershipConfig, me: PeerId, roster: Roster, rng: Random) -> None:
        self._config = config
        self._me = me
        self._roster = roster
        self._rng = rng
        self._waiting: dict[PeerId, None] = {}
        self._next = -inf  # not before
        self._at = inf  # with a random peer
        self._pause_s = YOUNG_S if config.leaf else config.sync_period_s

    @property
    def deadline(self) -> float:
        return min(self._at, self._next if self._waiting else inf)

    def boot(self, now: float) -> None:
        self._at = now + self._period()

    def met(self, peer: PeerId, now: float) -> None:
        """A connection to `peer` stands. One side is enough, between a leaf and another the leaf:
        who begins sends items of what differs, who answers 0.6 KB of buckets."""
        alike = self._config.leaf is self._roster.is_leaf(peer)
        if self._me < peer if alike else self._config.leaf:
            self._soon(peer, now)

    def lost(self, peer: PeerId) -> None:
        self._waiting.pop(peer, None)

    def learned(self, peer: PeerId, now: float) -> None:
        """`peer` brought news: there may be more of it, and others may lack it too."""
        if self._config.leaf or not self._roster.is_leaf(peer):
            self._soon(peer, now)
        if not self._config.leaf:
            self.random(now)

    def random(self, now: float, but: PeerId | None = None) -> None:
        """Soon, with any neighbour that is no leaf, if there is one."""
        linked = self._roster.partners([peer for peer in self._roster.linked if peer != but])
        if linked:
            self._soon(self._rng.choice(linked), now)

    def beside(self, peer: PeerId, now: float) -> list[Effect]:
        """A packet leaves for `peer` anyhow: a leaf compares then, as one more costs it more than
        what is in it."""
        early = BESIDE_PERIODS * self._pause_s
        linked = self._roster.linked
        if not self._config.leaf or self._at - now > early or peer not in linked:
            return []
        if peer not in self._roster.partners(linked):
            return []
        self._at = now + self._period()
        return [Send(peer, self._roster.reconciler.start())]

    def due(self, now: float) -> list[Effect]:
        """Open the exchange that is due; harmless before that."""
        if now >= self._at:
            self._at = now + self._period()
            self.random(now)
        if not self._waiting or now < self._next:
            return []
        peer = next(iter(self._waiting))
        del self._waiting[peer]
        self._next = now + SYNC_PAUSE_S * (1 + self._rng.random())
        return [Send(peer, self._roster.reconciler.start())]

    def _soon(self, peer: PeerId, now: float) -> None:
        if not self._waiting:
            pause = SYNC_PAUSE_S * (1 + self._rng.random())
            self._next = max(self._next, now + pause)
        self._waiting[peer] = None

    def _period(self) -> float:
        jittered = 0.75 + 0.5 * self._rng.random()
        if not self._config.leaf:
            return self._pause_s * jittered
        pause_s = self._pause_s * (jittered + BESIDE_PERIODS)
        self._pause_s = min(2 * self._pause_s, self._config.sync_period_s)
        return pause_s
