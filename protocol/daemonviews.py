"""Views of daemons for who only follows them: whether each is to run, and what this device has.

As little changes as can be, since each change is a message: no seconds to go, no progress.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from protocol.clock import Now
from protocol.daemons import Daemons
from protocol.ids import JobId, PeerId
from protocol.job import JobType
from protocol.listening import word_of
from protocol.records import Desired
from protocol.standing import Standing
from protocol.standingjob import StandingJob
from protocol.standingviews import View, part_of

DAEMONS_MAX: Final = 256  # each is a topic on every device; who has more looks elsewhere
KEYS: Final = ("state", "revision", "generation", "restarts", "exit_code", "started_ms", "ended_ms")
STEADY: Final = ("waiting", "absent")  # states whose reason has no seconds in it


@dataclass(frozen=True, slots=True)
class DaemonView:
    """One that was not deleted. `part` is what this device has of it, None where it has nothing."""

    held: StandingJob
    on: bool
    part: View | None

    @property
    def id(self) -> JobId:
        return self.held.id

    @property
    def word(self) -> str:
        return word_of(self.held.namespace, self.held.name)


def daemon_views(
    standing: Standing, daemons: Daemons, name: Callable[[PeerId], str], now: Now
) -> list[DaemonView]:
    """By word, and no more than DAEMONS_MAX."""
    found = [
        DaemonView(held, held.wanted(now) is not None, _part(held, daemons, name, now))
        for held in standing.jobs.values()
        if is_daemon(held) and held.desired is not Desired.DELETED
    ]
    return sorted(found, key=lambda view: view.word)[:DAEMONS_MAX]


def is_daemon(held: StandingJob) -> bool:
    """Or was one, as far as a tombstone tells."""
    known = held.job is None or held.job.type is JobType.DAEMON
    return known and held.kind != "template"


def _part(
    held: StandingJob, daemons: Daemons, name: Callable[[PeerId], str], now: Now
) -> View | None:
    part = part_of(held, daemons, name, now)
    if part["state"] == "absent":
        return None
    reason = part["reason"] if part["state"] in STEADY else ""
    return {**{key: part[key] for key in KEYS}, "reason": reason}
