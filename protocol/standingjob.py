"""One standing job as every peer holds it: spec and control records, each with its own merge.

A daemon, a service: whatever lives until somebody ends it. Holders that have seen the same records,
in whatever order and however often, hold the same (DESIGN 4). No clock takes part.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from protocol.antientropy import version_of
from protocol.authority import checked_spec
from protocol.clock import Now
from protocol.effects import Bucket
from protocol.errors import JobSpecError, RemoteProtocolError
from protocol.heldjob import control_rank
from protocol.ids import JobId, PeerId, Revision, job_id, revision_of
from protocol.job import JobSpec
from protocol.records import STANDING, Control, Desired, Keyring, Role, Spec, Unknown
from protocol.wire import RECORD_BYTES_MAX, Sealed, dumps, load_row, open_sealed

KIND: Final = STANDING  # of a spec record; part of the job's id
TEMPLATE: Final = "template/"  # before the names of templates: no job's name has a slash
NUMBER_MAX: Final = 2**62  # of a generation or control: forged beyond, so that honest ones can rise

Row = tuple[Bucket, str, bytes | None]
Kept = tuple[bytes, bytes, int, int]  # spec, control, since_ms, seen
SpecRank = tuple[int, Revision, bytes]


def standing_id(keyring: Keyring, namespace: str, key: str) -> JobId:
    """The id of the standing job of this key; the owner takes no part in it."""
    return job_id(keyring.shoal, namespace, KIND, key)


def standing_key(spec: JobSpec) -> str:
    """The key of a standing job's record: templates have names of their own."""
    return spec.name if spec.parameters is None else TEMPLATE + spec.name


def verified_standing(data: bytes, keyring: Keyring) -> Sealed | None:
    """A spec or control record of a standing job, or one of a kind that this version does not know;
    None for other kinds.

    It depends on the bytes alone, the author's certificate among them, so that all who are offered
    a record keep it or none. Raises RemoteProtocolError.
    """
    sealed = open_sealed(data, keyring)
    record = sealed.record
    if isinstance(record, Control):
        _check_control(sealed, record, keyring)
    elif isinstance(record, Spec):
        checked_spec(sealed, keyring)
        if record.kind != KIND:
            raise RemoteProtocolError(f"a spec of kind {record.kind} among standing jobs")
        if record.generation > NUMBER_MAX:
            raise RemoteProtocolError("a generation that nobody gets to by counting")
    elif not isinstance(record, Unknown):
        return None
    return sealed


def _check_control(sealed: Sealed, control: Control, keyring: Keyring) -> None:
    if control.shoal != keyring.shoal:
        raise RemoteProtocolError("a control record of another shoal")
    if control.job != job_id(control.shoal, control.namespace, KIND, control.key):
        raise RemoteProtocolError("a control record whose name does not give its job's id")
    if max(control.number, control.generation) > NUMBER_MAX:
        raise RemoteProtocolError("a control number that nobody gets to by counting")
    # Whose spec it ends may not be known here: any submitter may be the author of that.
    roles = (Role.SUBMIT, Role.OPERATE)
    if not any(sealed.author_holds(role, control.namespace) for role in roles):
        raise RemoteProtocolError(f"{sealed.author} may not control jobs in {control.namespace}")


@dataclass(slots=True)
class StandingJob:
    """The merged state; `spec` is None where only a control record is known, as of a tombstone."""

    id: JobId
    namespace: str
    key: str  # its name, as records have it; see `standing_key`
    spec: Spec | None = None
    spec_data: bytes = b""
    author: PeerId | None = None  # of the spec
    author_roles: tuple[str, ...] = ()
    author_name: str = ""  # by its certificate
    since_ms: int = 0  # wall; when this peer first held the spec. No part of the merge
    seen: int = 0  # the highest generation in any record ever offered here. No part either: a
    # tombstone that another island's stop has overruled took a spec with it
    revision: Revision | None = None
    job: JobSpec | None = None  # None also where this version cannot read it
    unreadable: str = ""  # why not
    control: Control | None = None
    control_data: bytes = b""
    control_author: PeerId | None = None

    @classmethod
    def of(cls, record: Spec | Control) -> StandingJob:
        """An empty one, of the name that a verified record is of."""
        return cls(record.job, record.namespace, record.key)

    @property
    def kind(self) -> str:
        """What it is to people: a type of jobs, or a template."""
        if self.key.startswith(TEMPLATE):
            return "template"
        return self.job.type.value if self.job is not None else "daemon"

    @property
    def name(self) -> str:
        return self.key.removeprefix(TEMPLATE)

    @property
    def desired(self) -> Desired:
        return Desired.RUNNING if self.control is None else Desired(self.control.desired)

    @property
    def generation(self) -> int:
        """The highest that is known; the next one is above it."""
        return self.seen

    @property
    def number(self) -> int:
        """Of its control record; zero where nobody has ever stopped it."""
        return self.control.number if self.control is not None else 0

    @property
    def version(self) -> bytes:
        """Equal at two holders exactly when their records are."""
        return version_of(self.spec_data, self.control_data)

    @property
    def records(self) -> tuple[bytes, ...]:
        return tuple(data for data in (self.spec_data, self.control_data) if data)

    @property
    def size_bytes(self) -> int:
        return len(self.spec_data) + len(self.control_data)

    def expired(self, now: Now) -> bool:
        """Whether its spec's NotAfter has come; nothing expires on a clock that is not trusted."""
        end_s = self.job.not_after_s if self.job is not None else None
        return end_s is not None and now.wall_trusted and now.wall >= end_s

    def wanted(self, now: Now) -> JobSpec | None:
        """What is to run, as far as its records say; None where nothing is."""
        running = self.desired is Desired.RUNNING and not self.expired(now)
        return self.job if running else None

    # ---- the merge ---------------------------------------------------------------------------

    def offer(self, sealed: Sealed) -> bool:
        """Take a verified record of this job if it wins; whether it was taken."""
        record = sealed.record
        assert isinstance(record, Spec | Control), record
        self.seen = max(self.seen, record.generation)
        if isinstance(record, Control):
            return self._offer_control(record, sealed)
        return self._offer_spec(record, sealed)

    def _offer_spec(self, spec: Spec, sealed: Sealed) -> bool:
        if self._buries(spec):
            return False
        revision = revision_of(sealed.body)
        if self.spec is not None and spec_rank(spec, revision, sealed.data) <= self.spec_rank:
            return False
        self.spec, self.spec_data, self.author = spec, sealed.data, sealed.author
        self.author_roles = sealed.certificate.roles if sealed.certificate is not None else ()
        self.author_name = sealed.certificate.name if sealed.certificate is not None else ""
        self.revision = revision
        self.job, self.unreadable = _read(spec)
        return True

    def _offer_control(self, control: Control, sealed: Sealed) -> bool:
        if self.control is not None and control_rank(control, sealed.data) <= control_rank(
            self.control, self.control_data
        ):
            return False
        self.control, self.control_data = control, sealed.data
        self.control_author = sealed.author
        if self.spec is not None and self._buries(self.spec):
            self.spec, self.spec_data, self.author, self.revision = None, b"", None, None
            self.author_roles, self.author_name = (), ""
            self.job, self.unreadable = None, ""
        return True

    @property
    def spec_rank(self) -> SpecRank:
        assert self.spec is not None and self.revision is not None
        return spec_rank(self.spec, self.revision, self.spec_data)

    def _buries(self, spec: Spec) -> bool:
        """A tombstone keeps no spec that its author saw: running the name again makes a new one,
        so nobody will ask for the old one again."""
        control = self.control
        deleted = control is not None and control.desired == Desired.DELETED
        return deleted and control is not None and spec.generation <= control.generation

    # ---- on disk -----------------------------------------------------------------------------

    def row(self) -> Row:
        return ("standing", self.id, dumps([*self.kept]))

    @property
    def kept(self) -> Kept:
        return (self.spec_data, self.control_data, self.since_ms, self.seen)

    @classmethod
    def restore(cls, key: str, value: bytes, keyring: Keyring) -> StandingJob:
        """Rebuild from its row. Raises RemoteProtocolError or ValueError for a foreign row."""
        row: Kept = load_row(value, Kept, 2 * RECORD_BYTES_MAX + 32)
        held: StandingJob | None = None
        for data in row[:2]:
            sealed = verified_standing(data, keyring) if data else None
            if sealed is None or not isinstance(sealed.record, Spec | Control):
                continue
            held = held or cls.of(sealed.record)
            if sealed.record.job != key:
                raise RemoteProtocolError("a record of another job")
            held.offer(sealed)
        if held is None:
            raise RemoteProtocolError("not a standing job's row")
        held.since_ms, held.seen = row[2], max(held.seen, row[3])
        return held


def spec_rank(spec: Spec, revision: Revision, data: bytes) -> SpecRank:
    """Of two specs the later generation wins, of one generation the higher revision, which is a
    hash; and of two authors' records of one revision the higher hash.

    How an update went is merged by generation and revision (`heldservice`): both in one order, or
    a service might for ever be told of an update to a spec that has lost.
    """
    return (spec.generation, revision, hashlib.sha256(data).digest())


def _read(spec: Spec) -> tuple[JobSpec | None, str]:
    """The job in a spec record, or why this peer cannot act on it: it is kept all the same."""
    try:
        job = JobSpec.decode(spec.body)
    except (RemoteProtocolError, JobSpecError) as error:
        return None, f"this version cannot read its spec: {error}"
    if not job.standing or (job.namespace, standing_key(job)) != (spec.namespace, spec.key):
        return None, "its spec is of another kind, name or namespace than its record"
    return job, ""
