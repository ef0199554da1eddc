"""Whose turn it is to fire a message, and who is asked first whether the run is there already.

The first rank for a run fires at once; each other one looks first whether those before it have,
and fires when it has waited for them. Whoever is about to fire asks all around, and waits for those
that may have fired it and live. Of two that do so at once one goes first (see `holds_back`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from protocol.catalogue import Catalogue
from protocol.clock import NEVER, Now
from protocol.config import TriggersConfig
from protocol.effects import Effect, Save, TriggerKept
from protocol.ids import ID_CHARS, JobId, PeerId, rendezvous
from protocol.inquiry import Inquiries, View
from protocol.messages import JobQuery
from protocol.waiting import Waiter, Waiting

ASKING_MAX: Final = 32  # runs that are asked for at once; the others wait their turn
ASKED_FOR_MAX: Final = 4096
ASK_AGAIN_S: Final = 0.05  # an answer takes 2 ms on a LAN, a second from who is silent
# Of those before this peer: whoever is first and its standbys are among them.
RANKS_ASKED: Final = 3


@dataclass(slots=True)
class Turns:
    """The waiting messages by their time."""

    me: PeerId
    config: TriggersConfig
    waiting: Waiting
    inquiries: Inquiries
    catalogue: Catalogue
    disk_full: Callable[[], bool]
    leaders: Callable[[Waiter], list[PeerId]]  # who may fire it; none of what has no key
    heard_since: Callable[[JobId], float]  # monotonic; its broker sends a template's messages here
    room_for: Callable[[JobId], bool]  # whether one more run of a template may begin
    fire: Callable[[Waiter, Now], list[Effect]]
    opens_at: float = NEVER  # monotonic; who else is there is not known before
    _asking: int = 0  # runs that others are being asked for
    # What others have asked for and was not known here, the last at the end.
    _asked_for: dict[JobId, None] = field(default_factory=dict)

    def begin(self, waiter: Waiter, now: Now) -> list[Effect]:
        self.queue(waiter, now)
        return self.look(waiter, now) if waiter.due <= now.mono else []

    def queue(self, waiter: Waiter, now: Now) -> None:
        """When it is looked at: by the first rank at once; by another first whether those before it
        have fired, then, when it has waited for each of them, whether to fire itself."""
        waiter.rank = self.rank(waiter) if waiter.named else 0
        waiter.asked = waiter.rank == 0
        waiter.turn = now.mono + waiter.rank * self.config.rank_delay_s
        waiter.due = now.mono + (self.config.look_s if waiter.rank else 0.0)
        if waiter.named:
            waiter.due = max(waiter.due, self.opens_at)

    def rank(self, waiter: Waiter) -> int:
        """How many come before this peer: all of them where it is a leaf. Of a template without
        keys nobody else hears it."""
        ranked = self.ranked(waiter)
        rank = ranked.index(self.me) if self.me in ranked else len(ranked)
        return min(rank, self.config.rank_max)

    def ranked(self, waiter: Waiter) -> list[PeerId]:
        return rendezvous(waiter.run, self.leaders(waiter))

    def look(self, waiter: Waiter, now: Now) -> list[Effect]:
        """Its time has come: fire it, unless somebody knows the run. Before it fires all around are
        asked: whoever has fired may be gone by now, or not be among those that it knows."""
        if not waiter.named:
            return self.fire(waiter, now)
        if waiter.run in self.catalogue.jobs:
            return self.drop(waiter)
        last = waiter.asked
        if last and waiter.unkept and not self.disk_full():
            return [*self._keep(waiter), *self.look(waiter, now)]
        if last and waiter.turn > now.mono:
            waiter.due = waiter.turn
            return []
        if last and not self.room_for(waiter.template):
            return self.retry(waiter, now)
        if self._asking >= ASKING_MAX:
            waiter.due = now.mono + ASK_AGAIN_S
            return []

        def unknown(later: Now) -> list[Effect]:
            if last and waiter.asked:
                return self.fire(waiter, later)
            waiter.asked = True
            return self.look(waiter, later)

        asked = 1 if waiter.unkept else min(waiter.rank, RANKS_ASKED)
        whom = None if last else self.ranked(waiter)[:asked]
        return self._ask(waiter, whom, unknown, now)

    def _ask(
        self,
        waiter: Waiter,
        whom: list[PeerId] | None,
        unknown: Callable[[Now], list[Effect]],
        now: Now,
    ) -> list[Effect]:
        """Ask these, or all around, whether the run is there; go on where nobody knows it."""
        waiter.asking, waiter.firing = True, whom is None
        self._asking += 1

        def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            waiter.asking = waiter.firing = False
            self._asking -= 1
            effects = answered(views, silent, later)
            askers, waiter.askers = waiter.askers, {}
            for sender, query in askers.items():
                effects += self.inquiries.on_query(sender, query, later)
            return effects

        def answered(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            if self.waiting.waiters.get(waiter.run) is not waiter:
                return []
            if views:
                return self.drop(waiter)
            if patience is not None and patience(silent, later):
                return self.retry(waiter, later)
            return unknown(later)

        until = now.mono + self.config.patience_s

        def may_have_fired(silent: list[PeerId], later: Now) -> list[PeerId]:
            """Busy or dead, which is known soon."""
            if later.mono >= until or self._fresh(waiter, later):
                return []
            ranked = self.ranked(waiter)
            return [peer for peer in silent if peer in ranked]

        patience = may_have_fired if whom is None else None
        return self.inquiries.ask(waiter.run, 1, False, found, now, whom, patience)

    def _fresh(self, waiter: Waiter, now: Now) -> bool:
        """Whether the first rank has just heard it, as the others have: it is not yet for them to
        fire. It comes late to who was away from its broker, or is behind in a burst; who of the
        others has heard it long ago has then asked for it before it fired."""
        steady = now.mono > self.heard_since(waiter.template) + self.config.deaf_s
        in_time = now.mono < waiter.heard + self.config.rank_delay_s / 2
        return waiter.rank == 0 and steady and in_time and waiter.run not in self._asked_for

    def holds_back(self, sender: PeerId, query: JobQuery) -> bool:
        """Whether somebody asks for a run that this peer is about to fire: it hears of that once it
        has, or has not, and so does not fire it as well. Of two who ask each other the one goes
        first that the other has answered already, else the one that ranks before it."""
        run = JobId(query.prefix)
        waiter = self.waiting.waiters.get(run)
        self._note_asked(run)
        if waiter is None or not waiter.firing:
            return False
        ranked = self.ranked(waiter)
        if sender not in ranked:
            return False
        mine = ranked.index(self.me) if self.me in ranked else len(ranked)
        crossing = self.inquiries.waits_for(sender, query.prefix)
        if crossing and ranked.index(sender) < mine:
            return False
        waiter.askers[sender] = query
        return True

    def _note_asked(self, run: JobId) -> None:
        """Who asks for what is not here goes on to fire it."""
        if len(run) == ID_CHARS and run not in self.catalogue.jobs:
            self._asked_for.pop(run, None)
            self._asked_for[run] = None
            if len(self._asked_for) > ASKED_FOR_MAX:
                del self._asked_for[next(iter(self._asked_for))]

    def drop(self, waiter: Waiter) -> list[Effect]:
        """It is on another disk, or comes to nothing."""
        rows = self.waiting.drop(waiter)
        kept = [TriggerKept(handle) for handle in waiter.unkept]
        return [*([Save(tuple(rows))] if rows else []), *kept]

    def _keep(self, waiter: Waiter) -> list[Effect]:
        """Nobody before this peer knows it: it is written down here, too."""
        kept, waiter.unkept = waiter.unkept, []
        return [Save((waiter.row(),)), *(TriggerKept(handle) for handle in kept)]

    def retry(self, waiter: Waiter, now: Now) -> list[Effect]:
        """However long the runs before it take: its broker was told that it is here."""
        waiter.due = now.mono + self.config.retry_s
        return []

    def due(self, now: Now) -> list[Effect]:
        """Look at each whose time has come."""
        waiters = self.waiting.waiters.values()
        found = [each for each in waiters if each.due <= now.mono and not each.asking]
        return [effect for waiter in found for effect in self.look(waiter, now)]
