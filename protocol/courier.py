"""The courier: what one neighbour has not been known to hold yet, and when to offer it (again)."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Final

from protocol.clock import NEVER
from protocol.config import StandingConfig
from protocol.ids import JobId

ITEMS_MAX: Final = 256  # of one offer, 60 bytes each


@dataclass(slots=True)
class Courier:
    """For one connection, and gone with it: on the next one anti-entropy compares everything."""

    fresh: dict[JobId, None] = field(default_factory=dict)  # to be offered at once
    sent: dict[JobId, None] = field(default_factory=dict)  # offered, and not answered yet
    tries: int = 0
    again_at: float = NEVER

    def add(self, job: JobId) -> None:
        """There is news of this job that the neighbour may lack."""
        self.sent.pop(job, None)
        self.fresh[job] = None

    def settle(self, job: JobId) -> None:
        """The neighbour holds just what we hold, or has no room for it."""
        self.fresh.pop(job, None)
        self.sent.pop(job, None)
        self.tries = 0
        if not self.sent:
            self.again_at = NEVER

    def clear(self) -> None:
        self.fresh, self.sent, self.tries, self.again_at = {}, {}, 0, NEVER

    @property
    def deadline(self) -> float:
        return 0.0 if self.fresh else self.again_at

    def take(self, now: float, config: StandingConfig, rng: Random) -> list[JobId]:
        """What is to be offered now: news once, the rest again with backoff and jitter."""
        if self.again_at <= now:
            self.fresh = {**self.sent, **self.fresh}
            self.sent = {}
            self.tries = min(self.tries + 1, 16)
            self.again_at = NEVER
        if not self.fresh:
            return []
        part = list(self.fresh)[:ITEMS_MAX]
        for job in part:
            del self.fresh[job]
            self.sent[job] = None
        wait = min(config.resend_first_s * 2**self.tries, config.resend_max_s)
        self.again_at = min(self.again_at, now + wait * (0.75 + 0.5 * rng.random()))
        return part
