"""Contacts: whom an execution renews its lease with, and brings its result to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from protocol.clock import Now
from protocol.effects import Effect
from protocol.execution import Execution
from protocol.executions import Executions
from protocol.ids import JobId, PeerId

BATCH_S = 0.5  # renewals due this soon go along: fewer, larger messages


@dataclass(slots=True)
class Contacts:
    """Whom to turn to, and to turn to somebody sooner as connections come and go."""

    executions: Executions
    reachable: Callable[[PeerId], bool]
    first_rank: Callable[[JobId], PeerId | None]  # who would coordinate a service without holders

    def target(self, execution: Execution) -> PeerId:
        """Who is asked: the coordinator while it can be reached, else the holders in turn."""
        known = [execution.coordinator, *execution.holders]
        first = self.first_rank(execution.job) if execution.service else None
        if first is not None:  # who takes it up when everybody who held it is gone
            known.append(first)
        candidates = [peer for peer in dict.fromkeys(known) if self.reachable(peer)]
        if not candidates:
            return execution.coordinator
        # The first two tries go to the coordinator; after that somebody else may know better.
        return candidates[max(0, execution.tries - 1) % len(candidates)]

    def on_peer_lost(self, peer: PeerId, now: Now) -> list[Effect]:
        """The coordinator is gone: turn to the next holder at once."""
        for execution in self.executions.live:
            if execution.coordinator == peer:
                execution.next_at = min(execution.next_at, now.mono + BATCH_S)
        return []

    def on_peer_back(self, peer: PeerId, now: Now) -> list[Effect]:
        """What was sent while the coordinator was not connected is gone: say it again at once."""
        for execution in self.executions.live:
            if execution.coordinator == peer:
                execution.next_at, execution.tries = min(execution.next_at, now.mono + BATCH_S), 0
        return []
