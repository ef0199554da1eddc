"""Queueing: whom this device had no room for, and who of them is told first when it has.

A job that found everybody busy waits with its coordinator, which asks again later and later. What
is kept here lets a device that becomes free say so at once, to the most urgent first and among
equals to the one that came first; for a moment the room is theirs. Nothing that runs is stopped
for it, and a large job may see small ones go before it while it does not fit yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.clock import NEVER
from protocol.ids import JobId, PeerId
from protocol.resources import Resources

WAITERS_MAX: Final = 256  # a bound on what announcements alone can make us remember
KEPT_S: Final = 90.0  # a coordinator asks again within 36 s; who has not in this found a place
TURN_S: Final = 1.0  # for whom the room is kept after it was told: as long as an accept may take


@dataclass(slots=True)
class Waiter:
    """One slot of a job, as far as this device is concerned."""

    coordinator: PeerId
    job: JobId
    each: Resources
    priority: int
    number: int  # in the order in which they came
    until: float  # monotonic; then it is forgotten
    turn_until: float = -1.0  # monotonic; it was told that there is room, and may take it

    @property
    def rank(self) -> tuple[int, int]:
        return (-self.priority, self.number)


@dataclass(slots=True)
class Queue:
    """Of this life only: after a restart coordinators ask again anyway."""

    waiters: dict[tuple[PeerId, JobId], Waiter] = field(default_factory=dict)
    _numbers: int = 0

    def join(
        self, coordinator: PeerId, job: JobId, each: Resources, priority: int, now: float
    ) -> None:
        """It was refused for now. Asked again it keeps its place."""
        known = self.waiters.get((coordinator, job))
        if known is not None:
            known.each, known.priority, known.until = each, priority, now + KEPT_S
            return
        self._numbers += 1
        waiter = Waiter(coordinator, job, each, priority, self._numbers, now + KEPT_S)
        if len(self.waiters) >= WAITERS_MAX:
            last = max(self.waiters.values(), key=lambda each: each.rank)
            if last.rank <= waiter.rank:
                return
            del self.waiters[(last.coordinator, last.job)]
        self.waiters[(coordinator, job)] = waiter

    def leave(self, coordinator: PeerId, job: JobId) -> None:
        self.waiters.pop((coordinator, job), None)

    def ahead(self, coordinator: PeerId, job: JobId, priority: int, now: float) -> list[Resources]:
        """What is kept for those whose turn it is, and who go before this one."""
        known = self.waiters.get((coordinator, job))
        rank = (-priority, self._numbers + 1 if known is None else known.number)
        return [
            waiter.each
            for waiter in self.waiters.values()
            if waiter.turn_until > now and waiter.rank < rank
        ]

    def call(self, free: Resources, room: int, now: float) -> list[Waiter]:
        """Whose turn it is, for `free` capacity and `room` executions more; they have it now."""
        self._expire(now)
        called: list[Waiter] = []
        for waiter in sorted(self.waiters.values(), key=lambda each: each.rank):
            if room < 1:
                break
            if not waiter.each.fits(free):
                continue
            free, room = free - waiter.each, room - 1
            if waiter.turn_until < now:
                waiter.turn_until = now + TURN_S
                called.append(waiter)
        return called

    def _expire(self, now: float) -> None:
        """Forget who came no more, or let the turn go by: whoever still waits asks again."""
        for key, waiter in list(self.waiters.items()):
            if waiter.until <= now or 0 <= waiter.turn_until <= now:
                del self.waiters[key]

    @property
    def deadline(self) -> float:
        """When somebody's turn is over, and the next may have it."""
        turns = (each.turn_until for each in self.waiters.values() if each.turn_until >= 0)
        return min(turns, default=NEVER)
