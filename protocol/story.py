"""What is remembered of how a job was placed: rounds of bidding and attempts, for people only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from protocol.auction import Auction
from protocol.ids import JobId, PeerId

ROUNDS_MAX = 8  # the first and the latest ones
ATTEMPTS_MAX = 64
ASKED_MAX = 64


@dataclass(slots=True)
class Attempt:
    """One execution as its coordinator saw it."""

    execution: str
    slot: int
    peer: PeerId
    term: int
    attempt: int
    state: str
    at_ms: int
    ended_ms: int = 0
    exit_code: int | None = None
    reason: str = ""


@dataclass(slots=True)
class Story:
    """Of one job; lost with the agent's memory, since nothing is decided by it."""

    rounds: list[Auction] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    waiting: str = ""  # why nothing happens just now

    def add_round(self, auction: Auction) -> None:
        self.rounds.append(auction)
        if len(self.rounds) > ROUNDS_MAX:
            del self.rounds[1]

    def add_attempt(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)
        if len(self.attempts) > ATTEMPTS_MAX:
            del self.attempts[0]

    def update(
        self,
        execution: str,
        state: str,
        ended_ms: int = 0,
        exit_code: int | None = None,
        reason: str = "",
    ) -> None:
        for attempt in self.attempts:
            if attempt.execution == execution:
                attempt.state, attempt.ended_ms = state, ended_ms or attempt.ended_ms
                attempt.exit_code, attempt.reason = exit_code, reason


class Stories(OrderedDict[JobId, Story]):
    """The stories of the latest jobs, up to a bound."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def of(self, job: JobId) -> Story:
        story = self.get(job)
        if story is None:
            story = self[job] = Story()
            if len(self) > self.most:
                self.popitem(last=False)
        return story
