"""A service's slots as their holders keep them: assignments that outlive revisions, never accepted.

Its records are every peer's (`standingjob`), and each holder follows those itself; what the holders
share is who coordinates, who runs which slot at which fence, and how the latest update went.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import msgspec

from protocol.authority import verified_spec
from protocol.errors import RemoteProtocolError
from protocol.heldjob import HOLDERS_MAX, SLOTS_MAX, HeldJob, Merged, Row
from protocol.ids import PeerId, Revision, revision_of
from protocol.job import JobSpec, JobType, OnFailure
from protocol.messages import JobSync, SlotState, UpdateState
from protocol.records import Acceptance, Assignment, Control, Keyring, Spec
from protocol.standingjob import KIND, StandingJob
from protocol.wire import RECORD_BYTES_MAX, Sealed, dumps, load_row, open_sealed

SETTLED = 1  # every slot ran the revision as long as its author asks for
FAILED = 2  # one did not; it wins the merge, since it was said first


@dataclass(frozen=True, slots=True)
class Version:
    """One revision as it can be awarded."""

    spec: Spec
    data: bytes
    author: PeerId
    revision: Revision
    job: JobSpec

    @classmethod
    def of(cls, sealed: Sealed) -> Self:
        """Raises RemoteProtocolError or JobSpecError for what is no service's spec."""
        spec = sealed.record
        assert isinstance(spec, Spec)
        job = JobSpec.decode(spec.body)
        if job.type is not JobType.SERVICE:
            raise RemoteProtocolError("not a service's spec")
        return cls(spec, sealed.data, sealed.author, revision_of(sealed.body), job)

    @classmethod
    def latest(cls, record: StandingJob) -> Self:
        """Of the records that every peer holds; they are known to be of a service."""
        assert record.spec is not None and record.author is not None
        assert record.revision is not None and record.job is not None
        return cls(record.spec, record.spec_data, record.author, record.revision, record.job)


@dataclass(slots=True)
class HeldService(HeldJob):
    """The spec is what slots are to run now: the latest, or the one before once that failed.

    `ended_ms` says since when it rests, because it is stopped; zero while it is to run.
    """

    previous: Version | None = None  # what every slot ran before the latest, to go back to
    latest: Version | None = None
    update: UpdateState | None = None  # how the latest update that is over went

    # ---- what it is to run -------------------------------------------------------------------

    @property
    def service(self) -> bool:
        return True

    @property
    def done(self) -> bool:
        """It never ends; while it rests nobody coordinates it."""
        return self.ended_ms != 0

    def end(self, now_ms: int, fetched: bool = False) -> bool:
        return False

    def matches(self, revision: Revision) -> bool:
        """Slots keep their fences over all revisions."""
        return True

    def version(self) -> Version:
        return Version(self.spec, self.spec_data, self.author, self.revision, self.job)

    def adopt(self, latest: Version) -> bool:
        """Follow the records; whether what slots are to run has changed by that."""
        before = (self.revision, self.spec_data)
        if self.latest is None or latest.revision != self.latest.revision:
            uniform = all(a.revision == self.revision for a in self._assigned())
            if uniform and self.revision != latest.revision:
                self.previous = self.version()
        self.latest = latest
        goal = latest
        if self.failed and self.previous is not None:
            goal = self.previous
        self.spec, self.spec_data, self.author = goal.spec, goal.data, goal.author
        self.revision, self.job = goal.revision, goal.job
        self.fit(self.job.count)
        return before != (self.revision, self.spec_data)

    def _assigned(self) -> list[Assignment]:
        slots = [slot for slot in self.slots if slot.index < self.job.count]
        return [slot.assignment for slot in slots if slot.assignment is not None]

    def _outcome(self) -> int:
        """Of the update to the latest; zero while it is not over."""
        latest, update = self.latest, self.update
        if latest is None or update is None:
            return 0
        same = (update.generation, update.revision) == (latest.spec.generation, latest.revision)
        return update.outcome if same else 0

    @property
    def failed(self) -> bool:
        """Whether the latest revision was tried and found wanting."""
        return self._outcome() == FAILED

    @property
    def settled(self) -> bool:
        return self._outcome() == SETTLED

    @property
    def paused(self) -> bool:
        """The slots that run the latest revision keep it all the same, the others stay as well."""
        assert self.latest is not None
        stays = self.latest.job.update.on_failure is OnFailure.PAUSE or self.previous is None
        return self.failed and stays

    def conclude(self, outcome: int) -> None:
        """The update to the latest is over."""
        assert self.latest is not None
        self.update = UpdateState(self.latest.spec.generation, self.latest.revision, outcome)
        self.adopt(self.latest)

    def make_room(self, gone: Callable[[PeerId], bool]) -> None:
        """Forget holders that are gone once there are too many: a service outlives its holders."""
        if len(self.holders) >= HOLDERS_MAX:
            self.holders = tuple(peer for peer in self.holders if not gone(peer))

    def fit(self, count: int) -> None:
        """Have so many slots at least; those beyond the present Count remember their fences."""
        for index in range(len(self.slots), count):
            self.slots.add(index)

    # ---- the merge ---------------------------------------------------------------------------

    def fingerprint(self) -> bytes:
        """The spec takes no part: each holder has it from the records that every peer holds."""
        h = hashlib.blake2b(digest_size=12)
        h.update(dumps([self.term, self.coordinator, self.accepted_ms, _rank(self.update)]))
        for slot in self.slots:
            if slot.assignment_data:
                h.update(dumps([slot.index, slot.digest()]))
        return h.digest()

    def merge(self, sync: JobSync, keyring: Keyring) -> Merged:
        merged = HeldJob.merge(self, sync, keyring)
        if _rank(sync.update) > _rank(self.update):
            self.update = sync.update
            merged.head = True
            if self.latest is not None:
                self.adopt(self.latest)
        return merged

    def _checked(
        self, state: SlotState, keyring: Keyring
    ) -> tuple[SlotState, Assignment | None, Acceptance | None]:
        if state.slot >= SLOTS_MAX:
            raise RemoteProtocolError(f"slot {state.slot} of a service")
        self.fit(state.slot + 1)
        if state.acceptance:
            raise RemoteProtocolError("a service's slot is never accepted")
        return HeldJob._checked(self, state, keyring)

    def _checked_spec(self, data: bytes, keyring: Keyring) -> Sealed | None:
        return None

    def _merged_control(self, data: bytes, keyring: Keyring) -> Control | None:
        return None

    def _require_place(self, record: Assignment | Acceptance, slot: int) -> None:
        if (record.job, record.slot) != (self.id, slot):
            raise RemoteProtocolError("a record of another job or slot")

    def sync(self, seq: int, slots: list[int], with_spec: bool) -> JobSync:
        """Who lacks the spec is given the one to go back to: the latest it has from the records."""
        sync = HeldJob.sync(self, seq, slots, with_spec)
        spec = self.previous.data if with_spec and self.previous is not None else sync.spec
        return msgspec.structs.replace(sync, spec=spec, update=self.update)

    # ---- on disk -----------------------------------------------------------------------------

    def head_rows(self) -> list[Row]:
        previous = self.previous.data if self.previous is not None else b""
        value = dumps([previous, _rank(self.update)])
        return [*HeldJob.head_rows(self), ("service", self.id, value)]

    def forget_rows(self) -> list[Row]:
        return [*HeldJob.forget_rows(self), ("service", self.id, None)]

    def recall(self, value: bytes, keyring: Keyring) -> None:
        """Take up what its row says. Raises RemoteProtocolError or ValueError."""
        previous, update = load_row(
            value, tuple[bytes, tuple[int, str, int]], RECORD_BYTES_MAX + 256
        )
        if previous:
            self.previous = Version.of(open_sealed(previous, keyring))
        if update[0]:
            self.update = UpdateState(update[0], Revision(update[1]), update[2])


def _rank(update: UpdateState | None) -> tuple[int, str, int]:
    return (
        (update.generation, update.revision, update.outcome) if update is not None else (0, "", 0)
    )


def created(
    data: bytes,
    keyring: Keyring,
    coordinator: PeerId,
    term: int,
    accepted_ms: int,
    holders: tuple[PeerId, ...],
) -> HeldJob:
    """A held job of the kind that its spec record is of. Raises RemoteProtocolError."""
    sealed = verified_spec(data, keyring)
    spec = sealed.record
    assert isinstance(spec, Spec)
    if spec.kind != KIND:
        return HeldJob.create(sealed, coordinator, term, accepted_ms, holders)
    held = HeldService.create(sealed, coordinator, term, accepted_ms, holders)
    if not isinstance(held, HeldService) or held.job.type is not JobType.SERVICE:
        raise RemoteProtocolError("only a service among standing jobs has holders")
    held.previous = held.version()
    return held
