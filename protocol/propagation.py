"""Propagation: what one part of a node has learnt, passed on to those whom it concerns."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.catalogue import Catalogue
from protocol.clock import Now
from protocol.coordination import Coordination
from protocol.effects import Effect
from protocol.executor import Executor
from protocol.membership import Membership
from protocol.roster import GONE, PRESENT, Change, State
from protocol.steward import Steward


@dataclass(slots=True)
class Propagation:
    """Parts leave their news in lists, so that none calls back into another in its midst."""

    membership: Membership
    catalogue: Catalogue
    coordination: Coordination
    executor: Executor
    steward: Steward

    def news(self, now: Now) -> list[Effect]:
        """Take what membership and catalogue learnt while they handled something."""
        effects: list[Effect] = []
        changes, self.membership.changes[:] = list(self.membership.changes), []
        for change in changes:
            effects += self._on_change(change, now)
        reached, self.membership.reached[:] = list(self.membership.reached), []
        for peer in reached:
            effects += self.catalogue.on_peer_back(peer, now)
            effects += self.executor.contacts.on_peer_back(peer, now)
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
                *self.executor.contacts.on_peer_lost(change.peer, now),
                *self.catalogue.on_peer_gone(change.peer, now),
            ]
        return []
