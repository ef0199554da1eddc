"""Succession: which jobs have no coordinator that is alive, and when this peer takes them over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId


@dataclass(slots=True)
class Succession:
    """The orphaned ones among the jobs held here, each since when (monotonic seconds)."""

    me: PeerId
    config: CoordinationConfig
    alive: Callable[[PeerId], bool]
    booted_at: float = 0.0
    _orphans: dict[JobId, tuple[HeldJob, float]] = field(default_factory=dict)

    def watch(self, held: HeldJob, now: Now) -> None:
        """Look whether the job has a coordinator that is alive; call it when that may change."""
        if held.done or held.coordinator == self.me or self.alive(held.coordinator):
            self.forget(held)
        else:
            self._orphans.setdefault(held.id, (held, now.mono))

    def first(self, held: HeldJob) -> PeerId:
        """Who of the holders that are alive ranks first."""
        ranks = (peer for peer in held.holders if peer == self.me or self.alive(peer))
        return next(ranks, self.me)

    def forget(self, held: HeldJob) -> None:
        self._orphans.pop(held.id, None)

    @property
    def deadline(self) -> float:
        return min((self._due(*orphan) for orphan in self._orphans.values()), default=NEVER)

    def due(self, now: Now) -> list[HeldJob]:
        """The jobs that this peer is to take over now; it watches them no longer."""
        found = [
            held for held, since in self._orphans.values() if self._due(held, since) <= now.mono
        ]
        for held in found:
            self.forget(held)
        return found

    def _due(self, held: HeldJob, since: float) -> float:
        """Rank r waits r x rank_delay_s, ranked among the holders that are alive."""
        ranks = [peer for peer in held.holders if peer == self.me or self.alive(peer)]
        if self.me not in ranks:
            return NEVER
        wait = ranks.index(self.me) * self.config.rank_delay_s
        return max(since, self.booted_at + self.config.orphan_grace_s) + wait
