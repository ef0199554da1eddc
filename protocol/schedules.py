"""The schedules: which runs are due, and which of them are fired here.

Of a schedule that runs once, the first rank among the live peers that may coordinate fires; where
each peer runs its own, every peer that matches. A run is a derived job, whose id is given by the
schedule and its slot of time: two peers that both fire it mean one job. Of an ops job each of them
writes a list, and the executors' journals let neither start anything twice. The last slot handled
is on disk with what was done about it. Nothing is fired on a clock that is not trusted (DESIGN 6,
Clock).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.bidding import DISK_FULL, Bidder
from protocol.clock import CLOCK_LABEL, NEVER, Now
from protocol.config import CoordinationConfig
from protocol.coordination import Coordination
from protocol.derived import derive, derived_id, slot_trigger
from protocol.effects import Bucket, Effect, Save, Tell
from protocol.errors import JobSpecError, RemoteProtocolError
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId, rendezvous
from protocol.job import JobSpec
from protocol.led import needs_of
from protocol.moment import format_moment
from protocol.records import Keyring, Spec
from protocol.schedule import Overlap, Schedule, Scope
from protocol.slots import Cron, slots_between
from protocol.standing import Standing
from protocol.standingjob import StandingJob
from protocol.tree import Plain
from protocol.unread import Unread
from protocol.wire import dumps, load_row

GRACE_S: Final = 60  # a slot is fired this late at most, but for CatchUp: a takeover takes seconds
CATCH_UP_S: Final = 3 * 86_400  # so late with it; well within the time for which runs are kept
# A clock that went back further than this was wrong before: slots count from its new time again.
BACK_S: Final = 3_600
UNTRUSTED: Final = "the time is not known here (shoal doctor), so nothing fires"
SLOTS_MAX: Final = 64  # fired at once, of a schedule by the second after a minute of silence


View = dict[str, Plain]
# Inquiries.ask, which knows views of schedules: who is asked for an id, how many, in detail, then.
Then = Callable[[list[View], list[PeerId], Now], list[Effect]]
Ask = Callable[[str, int, bool, Then, Now], list[Effect]]


Mark = tuple[int, int]  # on disk: the generation, and its last slot that was handled


@dataclass(slots=True)
class Watch:
    """One schedule as it is watched here.

    A generation begins when it comes, or when this peer learns the time: what was before is not
    its. A device whose database was lost might else fire again what it fired before, on a journal
    of ops that knows nothing of it.
    """

    generation: int  # that has begun here
    mark: int  # the last slot handled, in Unix seconds; what is up to it is never fired from here
    first: PeerId | None = None  # who fires it, as far as is known; None: to be found out
    since: float = NEVER  # wall; since when that is this peer
    asked: int = 0  # a slot of which others were asked, and know nothing
    asking: int = 0  # a slot of which they are being asked
    due: float = NEVER  # monotonic; when it is to be looked at next
    problem: str = ""  # why it cannot fire here


@dataclass(slots=True)
class Schedules:
    """The one writer of marks. `stop` ends a run so that the next may take its place."""

    keyring: Keyring
    config: CoordinationConfig
    standing: Standing
    coordination: Coordination
    bidder: Bidder
    ask: Ask
    cron: Cron
    stop: Callable[[HeldJob, Now], list[Effect]]
    watches: dict[JobId, Watch] = field(default_factory=dict)
    _marks: dict[JobId, Mark] = field(default_factory=dict)  # as they are on disk
    _ready_at: float = NEVER  # monotonic; who else is there is not known before

    @property
    def me(self) -> PeerId:
        return self.keyring.peer

    # ---- what the disk held ------------------------------------------------------------------

    def restore(self, disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[Unread]:
        """Rebuild from disk; returns the rows that could not be read."""
        unreadable: list[Unread] = []
        for key, value in disk.get("schedule", {}).items():
            try:
                self._marks[JobId(key)] = load_row(value, Mark)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("schedule", key, str(error)))
        return unreadable

    def boot(self, now: Now) -> list[Effect]:
        self._ready_at = now.mono + self.config.boot_grace_s
        return self.review_all(now)

    # ---- who fires ---------------------------------------------------------------------------

    def on_change(self, peer: PeerId, present: bool, now: Now) -> list[Effect]:
        """A peer came or went: what it would have fired may be another's now."""
        effects: list[Effect] = []
        for job, watch in list(self.watches.items()):
            if watch.first is None:
                continue
            if present and self._outranks(peer, watch.first, job):
                watch.first, watch.since = peer, NEVER
            elif watch.first == peer and (not present or self.coordination.fleet.is_leaf(peer)):
                watch.first = None
                effects += self.review(job, now)
        return effects

    def _outranks(self, peer: PeerId, first: PeerId, job: JobId) -> bool:
        """Whether it fires in place of the `first`: a leaf never in place of another."""
        fleet = self.coordination.fleet
        if peer == first or not fleet.may_coordinate(peer):
            return False
        if fleet.is_leaf(peer) is not fleet.is_leaf(first):
            higher = fleet.is_leaf(first)
        else:
            higher = rendezvous(job, (first, peer))[0] == peer
        return higher and peer not in self._clockless()  # looked at last: it asks for all adverts

    def _fires(self, job: JobId, watch: Watch, spec: JobSpec, now: Now) -> bool:
        """Whether it is for this peer to fire it."""
        assert spec.schedule is not None
        if spec.schedule.scope is Scope.EACH:
            watch.first = self.me
        elif watch.first is None:
            leaders = self.coordination.fleet.leaders(self.me, without=self._clockless())
            ranked = rendezvous(job, leaders)
            watch.first = ranked[0] if ranked else None
        if watch.first != self.me:
            watch.since = NEVER
            return False
        watch.since = min(watch.since, now.wall)
        return True

    def _clockless(self) -> list[PeerId]:
        """Who does not know the time, and so fires nothing."""
        adverts = self.coordination.fleet.adverts()
        return [advert.peer for advert in adverts if CLOCK_LABEL in advert.labels]

    # ---- what is due -------------------------------------------------------------------------

    def review_all(self, now: Now) -> list[Effect]:
        """With each sample of facts too: the clock may be trusted now, or stand elsewhere."""
        jobs = dict.fromkeys([*self.standing.jobs, *self.watches])
        return [effect for job in jobs for effect in self.review(job, now)]

    def review(self, job: JobId, now: Now) -> list[Effect]:
        """Fire what is due of a schedule, and see when to look again."""
        held = self.standing.jobs.get(job)
        spec = held.wanted(now) if held is not None else None
        if held is None or spec is None or spec.schedule is None:
            return self._unwatch(job)
        watch, effects = self._watched(held, now)
        watch.due = NEVER
        if not now.wall_trusted:
            watch.first, watch.since, watch.problem = None, NEVER, UNTRUSTED
            return effects
        watch.problem = ""
        if now.mono < self._ready_at:
            watch.due = self._ready_at
            return effects
        effects += self._heed_clock(job, watch, now)
        try:
            effects += self._fire_due(held, watch, spec, spec.schedule, now)
            following = self.cron.next(spec.schedule, max(watch.mark, int(now.wall)))
        except JobSpecError as error:  # of a peer whose time zones are others
            watch.problem = f"this peer cannot tell its slots: {error}"
            return effects
        self._fires(job, watch, spec, now)  # who is first before the time comes need not ask
        if following is not None:
            watch.due = now.mono + max(0.001, following - now.wall)
        return effects

    def _watched(self, held: StandingJob, now: Now) -> tuple[Watch, list[Effect]]:
        """The watch of a schedule, and what is to be saved where a generation of it begins."""
        watch = self.watches.get(held.id)
        if watch is None:
            watch = self.watches[held.id] = Watch(*self._marks.get(held.id, (0, 0)))
        assert held.spec is not None
        if watch.generation == held.spec.generation or not now.wall_trusted:
            return watch, []
        watch.generation, watch.asked = held.spec.generation, 0
        return watch, self._marked(held.id, max(watch.mark, int(now.wall)))

    def _unwatch(self, job: JobId) -> list[Effect]:
        """It is no schedule that runs (any more); the mark stays while the job does."""
        watch = self.watches.pop(job, None)
        if job not in self.standing.jobs:
            known = self._marks.pop(job, None)
            return [] if known is None else [Save((("schedule", job, None),))]
        if watch is None or self._marks.get(job, (0, 0)) == (watch.generation, watch.mark):
            return []
        return self._saved(job, (watch.generation, watch.mark))

    def _heed_clock(self, job: JobId, watch: Watch, now: Now) -> list[Effect]:
        if watch.mark <= now.wall + BACK_S:
            return []
        watch.mark = int(now.wall)
        return self._marked(job, watch.mark)

    def _fire_due(
        self, held: StandingJob, watch: Watch, spec: JobSpec, schedule: Schedule, now: Now
    ) -> list[Effect]:
        until = int(now.wall)
        latest = self.cron.last(schedule, until)
        if latest is None or latest <= watch.mark or watch.asking:
            return []
        watch.first = None  # found out anew: a rank that is wrong once must not stay so
        if not self._fires(held.id, watch, spec, now):
            return []
        if schedule.scope is Scope.EACH and self.bidder.unfit(needs_of(spec)):
            watch.mark = latest
            return []
        slots = slots_between(
            self.cron, schedule, max(watch.mark, until - GRACE_S - 1), until, SLOTS_MAX
        )
        if not slots and schedule.catch_up and latest >= until - CATCH_UP_S:
            slots = [latest]
        if not slots:
            when = format_moment(latest)
            text = f"{spec.name}: the run of {when} was not fired here, and is too late now"
            tell = Tell("schedule.missed", text, held.id, self.me, {"slot_s": latest})
            return [*self._marked(held.id, latest), tell]
        effects: list[Effect] = []
        if schedule.overlap is Overlap.REPLACE:
            effects += self._overtaken(held.id, watch, spec, slots[:-1])
            slots = slots[-1:]
        for slot in slots:
            if not watch.asking:
                effects += self._handle(held, watch, spec, schedule, slot, now)
        return effects

    def _overtaken(
        self, job: JobId, watch: Watch, spec: JobSpec, slots: Sequence[int]
    ) -> list[Effect]:
        """Of several that are due at once the last would end the others as they begin. Those that
        another peer may have fired are not told of."""
        reason = "the one after it is due as well, and takes its place"
        return [self._skipped(job, spec, slot, reason) for slot in slots if watch.since <= slot]

    # ---- firing ------------------------------------------------------------------------------

    def _handle(
        self,
        held: StandingJob,
        watch: Watch,
        spec: JobSpec,
        schedule: Schedule,
        slot: int,
        now: Now,
    ) -> list[Effect]:
        """Fire one slot, unless it was fired; where another may have done so, ask first."""
        each = schedule.scope is Scope.EACH
        trigger = slot_trigger(slot, self.me if each else None)
        run = derived_id(self.keyring.shoal, held.namespace, held.id, trigger)
        if run in self.coordination.catalogue.jobs:
            return self._marked(held.id, slot)
        if each or watch.since <= slot or watch.asked == slot:
            return self._fire(held, spec, schedule, slot, trigger, now)
        watch.asking = slot

        def found(views: list[View], silent: list[PeerId], later: Now) -> list[Effect]:
            watch.asking = 0
            if self.watches.get(held.id) is not watch:
                return []
            if not views:
                watch.asked = slot
                return self.review(held.id, later)
            return [*self._marked(held.id, max(watch.mark, slot)), *self.review(held.id, later)]

        return self.ask(run, 1, False, found, now)

    def _fire(
        self,
        held: StandingJob,
        spec: JobSpec,
        schedule: Schedule,
        slot: int,
        trigger: str,
        now: Now,
    ) -> list[Effect]:
        effects = self._marked(held.id, slot)
        busy = [run for run in self.runs(held.id, schedule.scope) if not run.done]
        run, reason = None, self._why_skipped(schedule, busy)
        if not reason:
            run = self._run(held, schedule, trigger, now)
            reason = self.coordination.direct.freeze(run, now) if run.listed else ""
        if run is None or reason:
            return [*effects, self._skipped(held.id, spec, slot, reason)]
        for before in busy if schedule.overlap is Overlap.REPLACE else ():
            effects += self.stop(before, now)
        fields: dict[str, object] = {"slot_s": slot, "job": run.id}
        text = f"{spec.name}: the run of {format_moment(slot)} is job {run.id[:8]}"
        tell = Tell("schedule.fired", text, held.id, self.me, fields)
        return [*effects, *self.coordination.accept(run, None, now), tell]

    def _skipped(self, job: JobId, spec: JobSpec, slot: int, reason: str) -> Tell:
        text = f"{spec.name}: the run of {format_moment(slot)} is skipped: {reason}"
        return Tell("schedule.skipped", text, job, self.me, {"slot_s": slot})

    def _why_skipped(self, schedule: Schedule, busy: list[HeldJob]) -> str:
        if busy and schedule.overlap is Overlap.SKIP:
            return f"the one before has not ended (job {busy[0].id[:8]})"
        if self.coordination.disk_full:
            return DISK_FULL
        return "this peer holds as many jobs as it can" * self.coordination.catalogue.full

    def _run(self, held: StandingJob, schedule: Schedule, trigger: str, now: Now) -> HeldJob:
        sealed = derive(held.spec_data, trigger, {}, self.keyring)
        assert isinstance(sealed.record, Spec)
        once = schedule.scope is Scope.ONCE
        holders = self._holders(held.id, sealed.record.job) if once else ()
        return HeldJob.create(sealed, self.me, 1, now.wall_ms, (self.me, *holders))

    def _holders(self, schedule: JobId, run: JobId) -> tuple[PeerId, ...]:
        """The standbys of a run: whoever fires next, to know whether it has ended; and the first
        that is asked for the run."""
        others = self.coordination.fleet.coordinators(but=self.me)
        ranks = (rendezvous(schedule, others)[:1], rendezvous(run, others))
        both = dict.fromkeys(peer for ranked in ranks for peer in ranked)
        return tuple(both)[: self.config.standbys]

    def _marked(self, job: JobId, slot: int) -> list[Effect]:
        """What is handled is handled for ever: it goes to disk with what came of it."""
        watch = self.watches[job]
        watch.mark = slot
        return self._saved(job, (watch.generation, slot))

    def _saved(self, job: JobId, mark: Mark) -> list[Effect]:
        self._marks[job] = mark
        return [Save((("schedule", job, dumps(list(mark))),))]

    # ---- time --------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        return min((watch.due for watch in self.watches.values()), default=NEVER)

    def on_deadline(self, now: Now) -> list[Effect]:
        due = [job for job, watch in self.watches.items() if watch.due <= now.mono]
        return [effect for job in due for effect in self.review(job, now)]

    # ---- reading -----------------------------------------------------------------------------

    def runs(self, schedule: JobId, scope: Scope = Scope.ONCE) -> list[HeldJob]:
        """Its runs that are held here, the latest first; where each peer has its own, ours."""
        held = self.coordination.catalogue.jobs.values()
        found = [run for run in held if run.source == schedule]
        if scope is Scope.EACH:
            found = [run for run in found if run.spec.key.endswith(f"/{self.me}")]
        return sorted(found, key=lambda run: (-run.accepted_ms, run.id))

    def next_s(self, schedule: Schedule, now: Now) -> int:
        """Its next slot in Unix seconds; zero where none is to be told."""
        try:
            return self.cron.next(schedule, int(now.wall)) or 0 if now.wall_trusted else 0
        except JobSpecError:
            return 0
