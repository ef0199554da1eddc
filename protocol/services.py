"""The services: what this peer does about each that its records know of.

Whoever ran the file first coordinates it, as it would a batch job, and its standbys take over. The
records, which every peer holds, say whether it is to run and what; each holder follows them itself,
so that a stop, a change or a delete needs no coordinator. Where nobody is left that held its
slots, the first rank among the living takes it up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from protocol.clock import NEVER, Now
from protocol.config import CoordinationConfig
from protocol.coordination import Coordination
from protocol.effects import Effect, Tell
from protocol.executor import Executor
from protocol.fleet import Fleet
from protocol.heldjob import Slots
from protocol.heldservice import HeldService, Version
from protocol.ids import JobId, PeerId, rendezvous
from protocol.job import JobType
from protocol.records import Desired, Keyring
from protocol.serviceviews import Known
from protocol.standing import Standing
from protocol.standingjob import StandingJob

# Terms begin anew, and higher, each time that a stopped or deleted name is run again: a copy of
# its slots from before that must not count. Nobody takes over so often in between.
TERMS_PER_ERA = 10_000
ERAS_MAX = 2**40


@dataclass(slots=True)
class Services:
    """The one who brings records, slots and what runs here of services together."""

    keyring: Keyring
    config: CoordinationConfig
    standing: Standing
    coordination: Coordination
    executor: Executor
    fleet: Fleet
    _lonely: dict[JobId, float] = field(default_factory=dict)  # since when nobody is known to lead

    # ---- what others ask ---------------------------------------------------------------------

    def over(self, job: JobId, generation: int) -> str:
        """Why a service of this generation is not to run (any more); empty where it may be."""
        record = self.standing.jobs.get(job)
        if record is None:
            return ""
        if record.desired is not Desired.RUNNING:  # also of one that came while it was stopped
            return record.desired.name.lower() if generation <= record.generation else ""
        if record.job is not None and record.job.type is not JobType.SERVICE:
            return f"it is a {record.job.type} now" if generation < record.generation else ""
        return ""

    def first_rank(self, job: JobId) -> PeerId | None:
        """Who takes it up when nobody is left that held its slots."""
        ranked = rendezvous(job, self.fleet.leaders(self.keyring.peer))
        return ranked[0] if ranked else None

    def known(self, job: JobId) -> Known:
        """What there is to show of it."""
        held = self.coordination.catalogue.jobs.get(job)
        service = held if isinstance(held, HeldService) else None
        led, story = self.coordination.led.get(job), self.coordination.stories.get(job)
        return Known(service, led, story, self.executor)

    # ---- what the records want ---------------------------------------------------------------

    def boot(self, now: Now) -> list[Effect]:
        return [effect for job in list(self.standing.jobs) for effect in self.review(job, now)]

    def sampled(self, now: Now) -> list[Effect]:
        """With each sample of facts: the clock may have reached somebody's NotAfter."""
        expiring = [
            job
            for job, record in self.standing.jobs.items()
            if record.job is not None and record.job.not_after_s is not None
        ]
        return [effect for job in expiring for effect in self.review(job, now)]

    def accept(self, job: JobId, now: Now) -> list[Effect]:
        """A service was run here under a name that nobody ran before, or that was deleted."""
        record = self.standing.jobs.get(job)
        held = job in self.coordination.catalogue.jobs
        if record is None or held or self._wanted(record, now) is None:
            return []
        return self._begin(record, now, now.mono)

    def review(self, job: JobId, now: Now) -> list[Effect]:
        """Bring its slots, and what runs of them here, to what the records say."""
        effects = self.executor.review(job, now)
        record, held = self.standing.jobs.get(job), self.coordination.catalogue.jobs.get(job)
        if record is None or (record.desired is Desired.RUNNING and record.job is None):
            return effects  # not here yet, or of a later version: what runs is left alone
        latest = self._wanted(record, now)
        if held is None:
            self._watch(record, now)
            return effects
        if not isinstance(held, HeldService):
            return effects
        if latest is None:
            reason = self.over(job, held.spec.generation)
            if record.desired is Desired.RUNNING:
                reason = reason or "it has expired (NotAfter)"
            if not reason:  # of a later generation than is known here yet
                return effects
            if record.desired is Desired.DELETED:
                return effects + self.coordination.drop(held)
            return effects if held.done else effects + self.coordination.rest(held, reason, now)
        changed = held.adopt(latest)
        if held.done:
            return effects + self.coordination.resume(held, _first_term(record), now)
        return effects + self.coordination.steer(held, now) if changed else effects

    def _wanted(self, record: StandingJob, now: Now) -> Version | None:
        job = record.wanted(now)
        if job is None or job.type is not JobType.SERVICE:
            return None
        return Version.latest(record)

    # ---- nobody leads it ---------------------------------------------------------------------

    def _watch(self, record: StandingJob, now: Now) -> None:
        if self._wanted(record, now) is None:
            self._lonely.pop(record.id, None)
        else:
            self._lonely.setdefault(record.id, now.mono)

    def peers_changed(self, now: Now) -> None:
        """Whoever comes first among the living has to be that for a while."""
        for job in self._lonely:
            if self.first_rank(job) != self.keyring.peer:
                self._lonely[job] = now.mono

    @property
    def deadline(self) -> float:
        return min(self._lonely.values(), default=NEVER) + self.config.lease_s

    def on_deadline(self, now: Now) -> list[Effect]:
        """Take up what nobody has led for a lease, if it is this peer's turn; then wait another
        one for executors that run it and ask around for whom to tell."""
        effects: list[Effect] = []
        due = [
            job for job, since in self._lonely.items() if since + self.config.lease_s <= now.mono
        ]
        for job in due:
            record = self.standing.jobs[job]
            held = job in self.coordination.catalogue.jobs
            if held or self._wanted(record, now) is None:
                del self._lonely[job]
            elif self.first_rank(job) != self.keyring.peer:
                self._lonely[job] = now.mono
            else:
                effects += self._begin(record, now, now.mono + self.config.lease_s)
                text = f"nobody coordinated {record.name}; this peer does now"
                effects.append(
                    Tell("job.taken-over", text, job, fields={"term": _first_term(record)})
                )
        return effects

    def _begin(self, record: StandingJob, now: Now, place_at: float) -> list[Effect]:
        self._lonely.pop(record.id, None)
        latest = Version.latest(record)
        held = HeldService(
            id=record.id,
            spec=latest.spec,
            job=latest.job,
            author=latest.author,
            spec_data=latest.data,
            revision=latest.revision,
            accepted_ms=max(0, now.wall_ms),
            term=_first_term(record),
            coordinator=self.keyring.peer,
            holders=self.coordination.standbys_of(record.id),
            slots=Slots.numbered(0),
        )
        held.adopt(latest)
        return self.coordination.begin(held, now, place_at)


def _first_term(record: StandingJob) -> int:
    return min(record.number, ERAS_MAX) * TERMS_PER_ERA + 1
