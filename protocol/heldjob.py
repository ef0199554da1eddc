"""One one-off job as any of its holders keeps it, and how two holders' copies become one.

Every merge here is commutative, associative and idempotent, so holders that have seen the same
records, in whatever order and however often, hold the same (DESIGN 4 and 5).
"""

from __future__ import annotations

import hashlib
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from protocol.authority import signed_assignment, verified_acceptance, verified_spec
from protocol.derived import KIND as DERIVED
from protocol.derived import open_spec, source_of
from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError, UnreadableSpec
from protocol.ids import (
    JobId,
    PeerId,
    Revision,
    execution_id,
    peer_slot,
    revision_of,
)
from protocol.job import JobSpec, JobType
from protocol.messages import JobSync, SlotState
from protocol.records import (
    Acceptance,
    Assignment,
    Control,
    Desired,
    Fence,
    Keyring,
    Result,
    Role,
    Spec,
    Verdict,
)
from protocol.wire import (
    Envelope,
    Sealed,
    decode_as,
    decode_record,
    dumps,
    load_row,
    loads,
    open_sealed,
)

HOLDERS_MAX: Final = 16  # coordinator and two standbys, and who held it before they did
SLOTS_MAX: Final = 10_000

Row = tuple[Bucket, str, bytes | None]


@dataclass(slots=True)
class Slot:
    """One place of the job: its latest assignment and the result that counts."""

    index: int
    assignment: Assignment | None = None
    acceptance: Acceptance | None = None
    assignment_data: bytes = b""
    acceptance_data: bytes = b""
    # Both as `digest` saw them, and what it made of them.
    _digested: tuple[bytes, bytes, bytes] | None = field(default=None, compare=False, repr=False)

    def digest(self) -> bytes:
        """The hash of both; a job of many slots is compared at each of its messages."""
        known = self._digested
        if (
            known is None
            or known[0] is not self.assignment_data
            or known[1] is not self.acceptance_data
        ):
            h = hashlib.blake2b(len(self.assignment_data).to_bytes(4, "big"), digest_size=16)
            h.update(self.assignment_data)
            h.update(self.acceptance_data)
            known = (self.assignment_data, self.acceptance_data, h.digest())
            self._digested = known
        return known[2]

    def offer_assignment(self, assignment: Assignment, data: bytes) -> bool:
        """Take it if its fence is higher than what is known; whether it was taken."""
        known = self.assignment
        # Of two with one fence, which no honest coordinator signs, all keep the same.
        if known is not None and (assignment.fence, data) <= (known.fence, self.assignment_data):
            return False
        self.assignment, self.assignment_data = assignment, data
        return True

    def offer_acceptance(self, acceptance: Acceptance, data: bytes) -> bool:
        """Take it if it wins the merge: success before anything else, then the lowest fence."""
        if self.acceptance is not None:
            mine = (precedence(self.acceptance), self.acceptance_data)
            if mine <= (precedence(acceptance), data):
                return False
        self.acceptance, self.acceptance_data = acceptance, data
        return True

    @property
    def state(self) -> SlotState:
        return SlotState(self.index, self.assignment_data, self.acceptance_data)


@dataclass(slots=True)
class Slots:
    """The places of a job by index, in order: numbered, or one per peer that is on its list."""

    _by_index: dict[int, Slot] = field(default_factory=dict)
    _order: list[int] = field(default_factory=list)

    @classmethod
    def numbered(cls, count: int) -> Slots:
        return cls({index: Slot(index) for index in range(count)}, list(range(count)))

    def __getitem__(self, index: int) -> Slot:
        return self._by_index[index]

    def __contains__(self, index: int) -> bool:
        return index in self._by_index

    def __iter__(self) -> Iterator[Slot]:
        return iter([self._by_index[index] for index in self._order])

    def __len__(self) -> int:
        return len(self._order)

    @property
    def indices(self) -> list[int]:
        return self._order.copy()

    def add(self, index: int) -> Slot:
        """The slot with this index, new where there was none."""
        if index not in self._by_index:
            self._by_index[index] = Slot(index)
            insort(self._order, index)
        return self._by_index[index]


def precedence(acceptance: Acceptance) -> tuple[bool, Fence, int]:
    """Of two choices for one slot the lower counts."""
    return (acceptance.verdict != Verdict.SUCCESS, acceptance.fence, acceptance.verdict)


@dataclass(slots=True)
class Merged:
    """What a merge changed: slots by index, and whether anything of the head did."""

    slots: list[int] = field(default_factory=list)
    head: bool = False
    ended: bool = False  # now every slot has a result that counts
    superseded: list[Acceptance] = field(
        default_factory=list
    )  # results that counted and no longer do

    def __bool__(self) -> bool:
        return self.head or bool(self.slots)


@dataclass(slots=True)
class HeldJob:
    """The merged state; a one-off job keeps one revision all its life."""

    id: JobId
    spec: Spec
    job: JobSpec
    author: PeerId
    spec_data: bytes
    revision: Revision
    accepted_ms: int
    term: int
    coordinator: PeerId
    holders: tuple[PeerId, ...]
    slots: Slots
    closed: bool = True  # no more slots are added
    control: Control | None = None
    control_data: bytes = b""
    ended_ms: int = 0  # wall, when this holder first saw every slot accepted; zero until then

    @classmethod
    def create(
        cls,
        sealed: Sealed,
        coordinator: PeerId,
        term: int,
        accepted_ms: int,
        holders: tuple[PeerId, ...],
    ) -> HeldJob:
        """Build from a verified spec record. Raises RemoteProtocolError for a spec that is none."""
        spec = sealed.record
        if not isinstance(spec, Spec):
            raise RemoteProtocolError("a spec record is needed")
        try:
            job = JobSpec.decode(spec.body)
        except ValueError as error:
            raise UnreadableSpec(f"this version cannot read its spec: {error}") from None
        if job.namespace != spec.namespace:
            raise RemoteProtocolError("a spec in another namespace than its record's")
        if job.standing and cls is HeldJob:  # a service is held likewise, see heldservice
            raise RemoteProtocolError("a standing job's spec for one time")
        return cls(
            id=spec.job,
            spec=spec,
            job=job,
            author=sealed.author,
            spec_data=sealed.data,
            revision=revision_of(sealed.body),
            accepted_ms=accepted_ms,
            term=term,
            coordinator=coordinator,
            holders=tuple(dict.fromkeys(holders))[:HOLDERS_MAX],
            slots=Slots.numbered(job.count if job.type.counted else 0),
            closed=job.not_after_s is None,
        )

    @property
    def listed(self) -> bool:
        """Whether its slots are peers: a list that was frozen when the job was accepted."""
        return self.job.type is JobType.OPS

    @property
    def desired(self) -> Desired:
        return Desired.RUNNING if self.control is None else Desired(self.control.desired)

    @property
    def service(self) -> bool:
        """Whether it is a service's slots, see `heldservice`."""
        return False

    def matches(self, revision: Revision) -> bool:
        """Whether what is said of an execution of this revision is about this job."""
        return revision == self.revision

    @property
    def done(self) -> bool:
        """Every slot has a result that counts, and no more are added."""
        return self.closed and all(slot.acceptance is not None for slot in self.slots)

    def fingerprint(self) -> bytes:
        """Equal at two holders exactly when their merged states are; `holders` takes no part."""
        h = hashlib.blake2b(digest_size=12)
        control = (
            b"" if self.control is None else dumps(control_rank(self.control, self.control_data))
        )
        head = [self.revision, self.author, control, self.term, self.coordinator, self.accepted_ms]
        h.update(dumps(head))
        if self.listed:
            h.update(dumps([self.closed, *self.slots.indices]))
        for slot in self.slots:
            h.update(slot.digest())
        return h.digest()

    def merge(self, sync: JobSync, keyring: Keyring) -> Merged:
        """Take in what another holder has. Raises RemoteProtocolError; nothing is changed then."""
        slots = [self._checked(state, keyring) for state in sync.slots]
        spec = self._checked_spec(sync.spec, keyring)
        control = self._merged_control(sync.control, keyring)
        merged = Merged()
        if spec is not None and spec.author < self.author:
            self.author, self.spec_data = spec.author, spec.data
            merged.head = True
        if control is not None and self.offer_control(control, sync.control):
            merged.head = True
        merged.head |= self.follow(sync.term, sync.coordinator)
        if sync.accepted_ms < self.accepted_ms:
            self.accepted_ms = sync.accepted_ms
            merged.head = True
        merged.head |= self.add_holders(sync.holders)
        if sync.closed and not self.closed:
            self.closed = merged.head = True
        for state, assignment, acceptance in slots:
            self._merge_slot(state, assignment, acceptance, merged)
        return merged

    def _merge_slot(
        self,
        state: SlotState,
        assignment: Assignment | None,
        acceptance: Acceptance | None,
        merged: Merged,
    ) -> None:
        if state.slot not in self.slots:
            self.ended_ms = 0  # another island listed a peer more: it has not ended yet
        slot = self.slots.add(state.slot)
        before = slot.acceptance
        changed = assignment is not None and slot.offer_assignment(assignment, state.assignment)
        if assignment is not None:
            merged.head |= self.follow(assignment.fence.term, assignment.fence.coordinator)
        if acceptance is not None and slot.offer_acceptance(acceptance, state.acceptance):
            changed = True
            if before is not None and precedence(before) != precedence(acceptance):
                merged.superseded.append(before)
        if changed:
            merged.slots.append(state.slot)

    def _checked(
        self, state: SlotState, keyring: Keyring
    ) -> tuple[SlotState, Assignment | None, Acceptance | None]:
        """Verify what is new in one slot; known bytes are not verified again."""
        known = self._known(state)
        assignment: Assignment | None = None
        acceptance: Acceptance | None = None
        if state.assignment and state.assignment != known.assignment_data:
            assignment = signed_assignment(state.assignment, keyring)
            self._require_place(assignment, state.slot)
        if state.acceptance and state.acceptance != known.acceptance_data:
            acceptance = verified_acceptance(state.acceptance, keyring)
            self._require_place(acceptance, state.slot)
        return state, assignment, acceptance

    def _known(self, state: SlotState) -> Slot:
        """The slot as it is here; a peer that is not listed here is so by its award."""
        if state.slot in self.slots:
            return self.slots[state.slot]
        if not self.listed or not state.assignment or len(self.slots) >= SLOTS_MAX:
            raise RemoteProtocolError(f"slot {state.slot} of {len(self.slots)}")
        return Slot(state.slot)

    def _checked_spec(self, data: bytes, keyring: Keyring) -> Sealed | None:
        """The same spec by another author: both accepted one call, the lower id stays."""
        if not data or data == self.spec_data:
            return None
        sealed = verified_spec(data, keyring)
        if revision_of(sealed.body) != self.revision:
            raise RemoteProtocolError("one key was used for two different jobs")
        return sealed

    def _merged_control(self, data: bytes, keyring: Keyring) -> Control | None:
        """The control record of another holder's copy, None where it is known or there is none.

        Several peers may be the spec's authors, and only one stays: what a holder takes may not
        depend on which of them it knows. Any of them submits, and that is in the record's bytes.
        """
        if not data or data == self.control_data:
            return None
        sealed = open_sealed(data, keyring)
        control = self._control_of(sealed)
        if not self._stops(sealed, (Role.SUBMIT, Role.OPERATE)):
            raise RemoteProtocolError(f"{sealed.author} may not control this job")
        return control

    def _control_of(self, sealed: Sealed) -> Control:
        control = sealed.record
        if not isinstance(control, Control) or control.job != self.id:
            raise RemoteProtocolError("not a control record of this job")
        return control

    def checked_control(self, data: bytes, keyring: Keyring) -> Control:
        """Verify a control record that somebody asks to apply. Raises RemoteProtocolError."""
        sealed = open_sealed(data, keyring)
        control = self._control_of(sealed)
        if sealed.author != self.author and not self._stops(sealed, self.stoppers):
            raise RemoteProtocolError(f"{sealed.author} may not control this job")
        return control

    @property
    def source(self) -> JobId | None:
        """The schedule or template it is a run of."""
        return source_of(self.spec)

    def _stops(self, sealed: Sealed, roles: tuple[Role, ...]) -> bool:
        """Whether it holds one of these roles; a peer always has its own run of a schedule."""
        if self.spec.kind == DERIVED and self.spec.key.endswith(f"/{sealed.author}"):
            return True
        return any(sealed.author_holds(role, self.spec.namespace) for role in roles)

    @property
    def stoppers(self) -> tuple[Role, ...]:
        """Who may control it beside its author: of a run whoever may start one, for a run may
        have to make room for the next."""
        return stoppers_of(self.spec.kind == DERIVED)

    def _require_place(self, record: Assignment | Acceptance, slot: int) -> None:
        if (record.job, record.revision, record.slot) != (self.id, self.revision, slot):
            raise RemoteProtocolError("a record of another job, revision or slot")
        if self.listed and isinstance(record, Assignment):
            self.require_own(record.executor, slot)

    def require_own(self, peer: PeerId, slot: int) -> None:
        """Raises RemoteProtocolError where the slot is another peer's."""
        if slot != peer_slot(self.id, peer):
            raise RemoteProtocolError("a slot that is another peer's")

    def follow(self, term: int, coordinator: PeerId) -> bool:
        """Take these for whose word counts if their rank is higher; whether it was.

        An award ranks its coordinator too: nobody awards on beside an award of a later term.
        """
        if (term, coordinator) <= (self.term, self.coordinator):
            return False
        self.term, self.coordinator = term, coordinator
        return True

    def offer_control(self, control: Control, data: bytes) -> bool:
        """Take it if it wins: number, then deleted > stopped > running, then hash."""
        if self.control is not None and control_rank(control, data) <= control_rank(
            self.control, self.control_data
        ):
            return False
        self.control, self.control_data = control, data
        return True

    def add_holders(self, peers: tuple[PeerId, ...]) -> bool:
        """Holders only ever grow, up to a bound, so that each copy ever made is kept up to date."""
        added = [peer for peer in dict.fromkeys(peers) if peer not in self.holders]
        room = HOLDERS_MAX - len(self.holders)
        self.holders += tuple(added[:room])
        return bool(added[:room])

    def end(self, now_ms: int, fetched: bool = False) -> bool:
        """Note when it ended, if it has; whether that is news.

        By its results' times: who gets an old job back from another holder (`fetched`) keeps it no
        longer for that, else holders that forget it one after the other would never be rid of it.
        """
        if self.ended_ms or not self.done:
            return False
        choices = [slot.acceptance for slot in self.slots if slot.acceptance is not None]
        ends = [_ended_ms(choice) for choice in choices]
        dated = fetched or all(choice.result for choice in choices)
        self.ended_ms = (min(now_ms, max((self.accepted_ms, *ends))) if dated else now_ms) or 1
        return True

    def weigh(self, index: int) -> int:
        """Bytes that a slot takes in a message, with its heads."""
        slot = self.slots[index]
        return len(slot.assignment_data) + len(slot.acceptance_data) + 16

    def sync(self, seq: int, slots: list[int], with_spec: bool) -> JobSync:
        """The message that brings another holder these slots and the head."""
        return JobSync(
            seq,
            self.id,
            self.spec_data if with_spec else b"",
            self.control_data,
            self.term,
            self.coordinator,
            self.accepted_ms,
            tuple(self.slots[index].state for index in slots),
            self.holders,
            self.fingerprint(),
            len(self.slots),
            self.closed,
        )

    def head_rows(self) -> list[Row]:
        """What is saved of the job beside its slots."""
        head = [self.term, self.coordinator, self.accepted_ms, list(self.holders), self.ended_ms]
        if self.listed:
            head.append(self.closed)
        rows: list[Row] = [
            ("spec", self.id, self.spec_data),
            ("job", self.id, dumps(head)),
        ]
        if self.control_data:
            rows.append(("control", self.id, self.control_data))
        return rows

    def slot_rows(self, slots: list[int]) -> list[Row]:
        return [("slot", f"{self.id}/{index}", _slot_value(self.slots[index])) for index in slots]

    def forget_rows(self) -> list[Row]:
        """Delete everything of it."""
        rows: list[Row] = [("slot", f"{self.id}/{slot.index}", None) for slot in self.slots]
        return [*rows, ("spec", self.id, None), ("job", self.id, None), ("control", self.id, None)]

    @classmethod
    def restore(
        cls, spec_data: bytes, head: bytes, control: bytes, slots: list[SlotState], keyring: Keyring
    ) -> HeldJob:
        """Rebuild from saved rows. Raises RemoteProtocolError for what we never wrote."""
        fields = loads(head)
        if not isinstance(fields, list):
            raise RemoteProtocolError("not the head of a job")
        closed = fields[5:6] == [True]
        term, coordinator, accepted_ms, holders, ended_ms = msgspec.convert(
            fields[:5], tuple[int, str, int, list[str], int]
        )
        sealed = open_spec(spec_data, keyring)
        held = cls.create(
            sealed,
            PeerId(coordinator),
            term,
            accepted_ms,
            tuple(PeerId(peer) for peer in holders),
        )
        held.merge(
            JobSync(
                0,
                held.id,
                b"",
                control,
                term,
                held.coordinator,
                accepted_ms,
                tuple(slots),
                held.holders,
                b"",
                len(slots),
                closed,
            ),
            keyring,
        )
        held.ended_ms = ended_ms
        return held

    def execution_of(self, slot: Slot) -> str:
        """The id of the slot's latest execution, empty where there was none yet."""
        award = slot.assignment
        if award is None:
            return ""
        fence = award.fence
        return execution_id(
            award.revision, slot.index, fence.term, fence.coordinator, fence.attempt
        )

    def execution_at(self, slot: Slot, fence: Fence) -> str:
        """The id of one of the slot's executions."""
        return execution_id(self.revision, slot.index, fence.term, fence.coordinator, fence.attempt)


def stoppers_of(run: bool) -> tuple[Role, ...]:
    """See HeldJob.stoppers."""
    return (Role.OPERATE, Role.SUBMIT) if run else (Role.OPERATE,)


def saved_slot(value: bytes, index: int) -> SlotState:
    assignment, acceptance = load_row(value, tuple[bytes, bytes])
    return SlotState(index, assignment, acceptance)


def _slot_value(slot: Slot) -> bytes:
    return dumps([slot.assignment_data, slot.acceptance_data])


def _ended_ms(acceptance: Acceptance) -> int:
    """When its result's execution ended, zero where there is none; it was verified before."""
    if not acceptance.result:
        return 0
    result = decode_record(decode_as(acceptance.result, Envelope).body)
    return result.ended_ms if isinstance(result, Result) else 0


def control_rank(control: Control, data: bytes) -> tuple[int, int, bytes]:
    return (control.number, control.desired, hashlib.sha256(data).digest())
