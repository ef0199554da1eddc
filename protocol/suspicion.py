"""Suspicion: accusations against one peer until it refutes or its time is up, and how far to trust
one's own impression meanwhile (SWIM 4.2; Lifeguard 2018).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Final

from protocol.config import MembershipConfig
from protocol.ids import PeerId

UNANSWERED_LONES: Final = 3.0  # times a lone accuser's wait; a refutation takes one of seconds
ACCUSERS_MAX: Final = 8  # kept per peer; more change nothing, and a stranger cannot make us hoard


@dataclass(slots=True)
class Health:
    """Lifeguard's local health: how many times slower than usual to judge, 1 to `level_max`."""

    level_max: int
    recovery_s: float  # one level better for each such stretch that ends with an answered probe
    level: int = 1
    changed: float = -inf

    def trouble(self, now: float) -> None:
        """Something suggests that it is us: our loop lagged, nobody answers, others accuse us."""
        self.level = min(self.level + 1, self.level_max)
        self.changed = now

    def answered(self, now: float) -> None:
        """A probe was answered in time."""
        if self.level > 1 and now - self.changed >= self.recovery_s:
            self.level -= 1
            self.changed = now

    @property
    def worst(self) -> bool:
        return self.level >= self.level_max


@dataclass(slots=True)
class Case:
    """What is held against a peer at one incarnation.

    `deadline` is the death of the peer once `confirmed`; until then it says when to count again
    whose word is needed, as monitors come and go.
    """

    incarnation: int
    opened: float
    accusers: dict[PeerId, bytes] = field(default_factory=dict)  # their sealed Suspicions
    confirmed: bool = False
    refused: bool = False
    deadline: float = inf
    limit: float = inf  # how far own lag may push `deadline`: who always lags must end it too

    def accuse(self, author: PeerId, record: bytes) -> bool:
        """Whether this is another accuser, and there was room for it."""
        if author in self.accusers or len(self.accusers) >= ACCUSERS_MAX:
            return False
        self.accusers[author] = record
        return True

    def weigh(self, quorum: int, config: MembershipConfig, level: int, now: float) -> None:
        """Start the timer when enough accuse; a second accuser shortens a lone one's (Lifeguard).

        A lone accuser and own trouble are the same doubt, so that the longer of both stretches the
        timer and not their product.
        """
        if not self.enough(quorum, config, now):
            self.confirmed = False
            self.deadline = now + config.probe_period_s
            self.limit = inf
            return
        alone = len(self.accusers) < config.accusers
        stretch = max(level, config.lone_factor) if alone else level
        end = now + config.suspicion_s * stretch
        self.deadline = min(self.deadline, end) if self.confirmed else end
        self.limit = self.deadline + config.suspicion_s
        self.confirmed = True

    def enough(self, quorum: int, config: MembershipConfig, now: float) -> bool:
        """Whether what is said counts: so many say it, or it was never answered.

        Of a death that one alone could tell of, as its other monitors were gone as well then, there
        is no second word for those who missed it. Whoever is there answers once others were asked.
        """
        unanswered_s = UNANSWERED_LONES * config.lone_factor * config.suspicion_s
        many = len(self.accusers) >= quorum
        return many or self.refused or now - self.opened >= unanswered_s

    def doubt(self, config: MembershipConfig, level: int, now: float) -> None:
        """Its port was refused to another, but we have a stream to it: time to answer one probe."""
        self.refused = self.confirmed = True
        self.deadline = min(self.deadline, now + config.probe_timeout_s * level)
        self.limit = self.deadline + config.suspicion_s

    def spare(self, until: float) -> None:
        """Not before `until`, within bounds: we were away, a refutation may lie unread."""
        self.deadline = max(self.deadline, min(until, self.limit))

    def reopen(self, now: float) -> None:
        """It was heard of since, or we were frozen: what was counted so far proves nothing."""
        self.opened = now
        self.confirmed = self.refused = False
