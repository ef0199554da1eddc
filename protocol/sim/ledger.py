"""The ledger of one device: what its node asked to save, what of it is durable, what went back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from protocol.effects import Bucket, Save
from protocol.ids import PEER_SLOT_MIN, JobId
from protocol.messages import JobSyncAck
from protocol.node import Node
from protocol.records import Acceptance, Advert, Assignment, Fence, Record, Spec, Unknown, Verdict
from protocol.sim.disk import Disk
from protocol.standingjob import KIND
from protocol.wire import dumps, loads

EXECUTION_BYTES_MAX = 512 * 1024  # of one saved execution: spec, award and result with its tails

Open = Callable[[bytes], Record | Unknown | None]
Row = tuple[Bucket, str]


@dataclass(slots=True)
class Ledger:
    """Follows one device through all its lives; every method yields what it finds wrong."""

    open: Open
    slots: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    fences: dict[str, Fence] = field(default_factory=dict)
    terms: dict[str, tuple[int, str]] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    started: dict[tuple[JobId, int], Fence] = field(default_factory=dict)
    choices: list[Acceptance] = field(default_factory=list)  # new ones, drained by the invariants
    _durable: dict[Row, set[bytes]] = field(default_factory=dict)  # every value ever committed
    _awards: set[tuple[str, int, Fence]] = field(default_factory=set)  # ever journaled here
    _own: set[tuple[str, int]] = field(default_factory=set)  # slots of this peer, journaled here
    _claims: dict[JobSyncAck, dict[Row, bytes]] = field(
        default_factory=dict
    )  # by an ack's identity
    _incarnation: int = 0  # the highest it ever told anybody
    _earlier: int = 0  # the highest of its earlier lives

    def booted(self, disk: Disk) -> None:
        """From here on, what counts is what its disk holds."""
        self.slots = {key: pair_of(value) for key, value in disk.rows["slot"].items()}
        self.fences = {key: _fence(value) for key, value in disk.rows["fence"].items()}
        self.terms = {key: _term(value) for key, value in disk.rows["job"].items()}
        self.started.clear()  # a start counts once it is durable, and its fence then is on disk
        self._claims.clear()
        self._earlier = self._incarnation

    def forgot(self) -> None:
        """The database is lost, and with it what this peer has told others."""
        self._incarnation = self._earlier = 0

    def committed(self, save: Save) -> None:
        for bucket, key, value in save.rows:
            if value is None:
                continue
            self._durable.setdefault((bucket, key), set()).add(value)
            if bucket == "execution":
                award = self.open(_first(value))
                assert isinstance(award, Assignment)
                self._awards.add((award.job, award.slot, award.fence))
                self._own.add((award.job, award.slot))

    def has_award(self, job: JobId, slot: int, fence: Fence) -> bool:
        """Whether an execution of this award was ever journaled here; of a peer's own slot there
        is one, whoever awards it."""
        if slot >= PEER_SLOT_MIN:
            return (job, slot) in self._own
        return (job, slot, fence) in self._awards

    # ---- what may not go back ----------------------------------------------------------------

    def saved(self, save: Save, deleted: Callable[[str], bool] | None = None) -> Iterator[str]:
        """The node asks to save these rows; of a service that was deleted none is kept."""
        for bucket, key, value in save.rows:
            if bucket not in ("slot", "fence", "job", "spec", "ops"):
                continue
            job = key.partition("/")[0]
            if value is None and bucket != "fence" and deleted is not None and deleted(job):
                for known in (self.slots, self.terms, self.generations):
                    known.pop(key, None)
                continue
            if value is None:
                yield f"{bucket} {key} is forgotten long before its time"
                continue
            match bucket:
                case "slot":
                    yield from self._slot(key, pair_of(value))
                case "fence":
                    yield from self._fence(key, _fence(value))
                case "job":
                    yield from self._term(key, _term(value))
                case "spec":
                    yield from self._spec(key, value)

    def _fence(self, key: str, fence: Fence) -> Iterator[str]:
        before = self.fences.get(key)
        if before is not None and fence < before:
            yield f"the fence of {key} goes back: {before} to {fence}"
        self.fences[key] = fence

    def _term(self, key: str, term: tuple[int, str]) -> Iterator[str]:
        before = self.terms.get(key)
        if before is not None and term < before:
            yield f"the term of {key} goes back: {before} to {term}"
        self.terms[key] = term

    def _spec(self, key: str, value: bytes) -> Iterator[str]:
        spec = self.open(value)
        if not isinstance(spec, Spec):
            yield f"what is saved as the spec of {key} is none"
            return
        if spec.kind == KIND:
            return  # a service's update may be gone back from
        before = self.generations.get(key, 0)
        if spec.generation < before:
            yield f"the generation of {key} goes back: {before} to {spec.generation}"
        self.generations[key] = max(before, spec.generation)

    def _slot(self, key: str, pair: tuple[bytes, bytes]) -> Iterator[str]:
        award_before, choice_before = self.slots.get(key, (b"", b""))
        self.slots[key] = pair
        if award_before and pair[0] != award_before:
            old, new = self.open(award_before), self.open(pair[0])
            assert isinstance(old, Assignment)
            if not isinstance(new, Assignment) or new.fence < old.fence:
                yield f"the award of {key} goes back from {old.fence}"
        if pair[1] == choice_before:
            return
        choice = self.open(pair[1]) if pair[1] else None
        if not isinstance(choice, Acceptance):
            yield f"{key} has no accepted result any more"
            return
        before = self.open(choice_before) if choice_before else None
        if isinstance(before, Acceptance) and not _wins(choice, before):
            yield f"{key} accepts another result against the merge: {choice}, before {before}"
        self.choices.append(choice)

    def advertised(self, advert: Advert) -> Iterator[str]:
        """It tells others of itself: its incarnation never goes back, whatever it forgot."""
        if advert.incarnation < self._incarnation:
            yield f"the incarnation goes back: {self._incarnation} to {advert.incarnation}"
        elif self._earlier and advert.incarnation <= self._earlier:
            yield f"incarnation {advert.incarnation} is that of an earlier life"
        self._incarnation = max(self._incarnation, advert.incarnation)

    # ---- memory against disk -----------------------------------------------------------------

    def compare(self, node: Node) -> Iterator[str]:
        """What is merged in memory was saved: else a crash takes it back unseen."""
        for job, held in node.jobs.items():
            for slot in held.slots:
                pair = self.slots.get(f"{job}/{slot.index}", (b"", b""))
                if pair[1] != slot.acceptance_data:
                    yield f"the result held for {job}/{slot.index} is not the one saved"
                elif pair[0] != slot.assignment_data:
                    yield f"the award held for {job}/{slot.index} is not the one saved"

    def claims(self, node: Node, ack: JobSyncAck) -> None:
        """Note what this acknowledgement will claim to be on disk when it leaves."""
        held = node.jobs.get(ack.job)
        if ack.want_spec or held is None or held.fingerprint() != ack.fingerprint:
            return
        # A service's spec comes from the standing records: no ack speaks of it.
        rows: dict[Row, bytes] = {} if held.service else {("spec", ack.job): held.spec_data}
        for slot in held.slots:
            if held.service and not slot.assignment_data:
                continue  # of more slots than before nothing is kept until they are awarded
            value = dumps([slot.assignment_data, slot.acceptance_data])
            rows[("slot", f"{ack.job}/{slot.index}")] = value
        self._claims[ack] = rows

    def proven(self, ack: JobSyncAck) -> bool:
        """Whether all that this acknowledgement claims was committed."""
        rows = self._claims.pop(ack, {})
        return all(value in self._durable.get(row, ()) for row, value in rows.items())


def _wins(new: Acceptance, old: Acceptance) -> bool:
    """DESIGN 5: success before failure, then the lowest fence."""
    return _precedence(new) <= _precedence(old)


def _precedence(choice: Acceptance) -> tuple[bool, Fence]:
    return (choice.verdict != Verdict.SUCCESS, choice.fence)


def pair_of(value: bytes) -> tuple[bytes, bytes]:
    """Award and acceptance of a saved slot."""
    return msgspec.convert(loads(value), tuple[bytes, bytes])


def _fence(value: bytes) -> Fence:
    return msgspec.convert(loads(value), Fence)


def _term(value: bytes) -> tuple[int, str]:
    fields = loads(value)
    assert isinstance(fields, list)
    return fields[0], fields[1]


def _first(value: bytes) -> bytes:
    fields = loads(value, EXECUTION_BYTES_MAX)
    assert isinstance(fields, list)
    first = fields[0]
    assert isinstance(first, bytes)
    return first
