"""Records: what travels signed and outlives the connection it came over (see wire.cddl).

Each is an array on the wire whose first item is its kind. Kinds are append-only, and so are the
fields of a kind: a newer peer may add some at the end, an older one leaves them unread.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final, Protocol

import msgspec

from protocol.bounds import (
    AccusationCode,
    Addresses,
    Correlation,
    Count,
    DesiredCode,
    DigestOrEmpty,
    ExitCode,
    Inputs,
    KeptVolumes,
    Key,
    Labels,
    Millis,
    Name,
    Names,
    Nonce,
    Payload,
    Reason,
    Slot,
    SpecBody,
    Tail,
    Topic,
    VerdictCode,
    Version,
    Word,
    Words,
)
from protocol.ids import JobId, PeerId, Revision, ShoalId
from protocol.opened import Opened

STANDING: Final = "standing"  # the kind of spec that every peer holds


class Role(StrEnum):
    """What a member may do; a record whose author lacks the role is stored but not acted on."""

    COMPUTE = "compute"  # run tasks
    SUBMIT = "submit"  # author specs in its namespaces
    OPERATE = "operate"  # author the next generation or the control of anybody's job
    ADMIT = "admit"  # sign certificates of new members


class Desired(IntEnum):
    """Desired state in a control record; the larger wins a tie (DESIGN 4)."""

    RUNNING = 0
    STOPPED = 1
    DELETED = 2


class Verdict(IntEnum):
    """How an execution ended; the smaller wins a merge, so success beats failure."""

    SUCCESS = 0
    FAILURE = 1  # the task's own: a non-zero exit code, a signal, its timeout
    FAULT = 2  # not the task's doing: could not start, peer lost, lost track of it
    STOPPED = 3  # a person stopped the job


class Accusation(IntEnum):
    """Why a peer is thought gone."""

    SILENT = 0  # probes, direct and through others, went unanswered
    REFUSED = 1  # its connection was reset and its port refused twice: nobody is there


class Certificate(
    msgspec.Struct, array_like=True, tag=1, frozen=True, kw_only=True
):  # signed by the root, or by a member with `admit`
    """Membership of one peer in one shoal. Expiry bars connecting; revocation alone undoes it."""

    shoal: ShoalId
    peer: PeerId
    name: Name
    roles: Words
    namespaces: Names  # ("*",) is all of them
    issued_ms: Millis
    expires_ms: Millis

    def holds(self, role: Role, namespace: str | None = None) -> bool:
        """Whether this member has `role`, and in `namespace` where one is given."""
        if role not in self.roles:
            return False
        return namespace is None or "*" in self.namespaces or namespace in self.namespaces


class Advert(msgspec.Struct, array_like=True, tag=2, frozen=True, kw_only=True):
    """What a peer says of itself and changes slowly: where it is, what it is, what it has."""

    peer: PeerId
    incarnation: Count
    addresses: Addresses  # multiaddrs without the /p2p part
    labels: Labels
    engines: Words
    cpu_m: Count  # offered to jobs, millicores
    memory_bytes: Count
    disk_bytes: Count
    gpus: Count
    version: Version
    name: Name
    draining: bool = False  # takes no new batch or service slots
    # Of its database, drawn with it: another one shows that what it once ran is forgotten.
    memory: Nonce = b""
    # Of a leaf on a metered link: seconds between two signs of life of it; 0: it is no leaf.
    keepalive_s: Count = 0


class Departure(msgspec.Struct, array_like=True, tag=3, frozen=True, kw_only=True):
    """A clean goodbye: `until_ms` zero is leaving, otherwise back by then (a planned restart)."""

    peer: PeerId
    incarnation: Count
    until_ms: Millis = 0


class Suspicion(msgspec.Struct, array_like=True, tag=4, frozen=True, kw_only=True):
    """The author accuses `peer` of being gone; a higher incarnation of it refutes."""

    peer: PeerId
    incarnation: Count
    why: AccusationCode


class Spec(msgspec.Struct, array_like=True, tag=5, frozen=True, kw_only=True):
    """What to run: one generation of one job. Its bytes' hash is the revision."""

    job: JobId
    shoal: ShoalId
    namespace: Name
    kind: Word  # "standing", "one-off" or "derived": how `key` is to be read
    key: Key
    generation: Count
    body: SpecBody  # the canonical job spec, CBOR (job.JobSpec.to_plain)
    # No author and no date: two peers that accept the same call write the same revision.


class Control(msgspec.Struct, array_like=True, tag=6, frozen=True, kw_only=True):
    """Desired state of a job, written only by a person's act."""

    job: JobId
    shoal: ShoalId
    number: Count  # of this control record, counted up
    desired: DesiredCode
    generation: Count  # the highest its author saw
    namespace: Name
    created_ms: Millis
    key: Key = ""  # of a standing job, so that a tombstone alone tells which name it buries


class Fence(msgspec.Struct, array_like=True, frozen=True, order=True):
    """Which award of a slot is meant; a higher one supersedes a lower one, in this field order."""

    term: Count  # rises only at takeover
    coordinator: PeerId
    attempt: Count  # counted per slot, over all terms


class Assignment(msgspec.Struct, array_like=True, tag=7, frozen=True, kw_only=True):
    """A coordinator's award of one slot to one executor, until the lease is not renewed."""

    job: JobId
    revision: Revision
    slot: Slot
    fence: Fence
    executor: PeerId
    lease_ms: Millis
    failures: Count = 0  # of the slot so far, so that retry limits survive a takeover
    memory: Nonce = b""  # ops: the executor's, as its advert had it when it was listed
    volumes: Names = ()  # that the slot keeps at the executor: a later award goes there as well
    fresh: bool = False  # no device has them yet: they begin with this award
    kept: KeptVolumes = ()  # of earlier specs, and who has them: their files may be gone back to
    untaken: Count = 0  # earlier awards that counted as no failure: who had them died unanswered


class Result(msgspec.Struct, array_like=True, tag=8, frozen=True, kw_only=True):
    """What became of one execution, signed by its executor."""

    job: JobId
    revision: Revision
    slot: Slot
    fence: Fence
    executor: PeerId
    verdict: VerdictCode
    exit_code: ExitCode  # of the task; 128 + n for signal n; -1 where there is none
    reason: Reason  # a sentence for people, empty on success
    started_ms: Millis
    ended_ms: Millis
    duration_ms: Millis  # on the executor's monotonic clock
    stdout_tail: Tail = b""  # the end of the output, so that it is known even when the peer is gone
    stderr_tail: Tail = b""
    unknown: bool = False  # it may have run, to an end that nobody saw; it is not started again
    archive: DigestOrEmpty = ""  # of its ResultPaths, kept by the executor; empty: there is none
    archive_bytes: Count = 0
    archive_note: Reason = ""  # what of them could not be kept, for people
    untouched: bool = False  # its task never began, so that nothing is in its volumes
    published: Reason = ""  # where else they are, for people: s3://bucket/key
    output_note: Reason = ""  # what of the output is not kept, for people


class Acceptance(msgspec.Struct, array_like=True, tag=9, frozen=True, kw_only=True):
    """A coordinator's choice of the result that counts for a slot."""

    job: JobId
    revision: Revision
    slot: Slot
    fence: Fence
    verdict: VerdictCode
    result: bytes  # the sealed Result, or empty where the slot ended without one
    reason: Reason = ""  # why it ended so, where there is no result to tell
    lost: bool = False  # its peer was given up without a word of how it ended


class Heard(msgspec.Struct, array_like=True, frozen=True):
    """A message as it was heard; part of the record of the run that it fires."""

    topic: Topic
    payload: Payload
    reply: Topic = ""  # where MQTT 5 wants the answer; empty: nowhere
    correlation: Correlation = b""  # goes back with the answer


class Derived(msgspec.Struct, array_like=True, tag=10, frozen=True, kw_only=True):
    """One run of a schedule or template, signed by whoever fires it; see `derived`.

    What is run, and on whose authority, is told by the source alone: this record only names one
    of the jobs that the source's author has signed for.
    """

    shoal: ShoalId
    source: bytes  # the sealed Spec of the schedule or template
    trigger: Key  # slot of time, or the key of a run; with the source's id the key of the job
    inputs: Inputs = {}  # of a template, by the names of its parameters
    message: Heard | None = None  # of a template with a Trigger: what it has heard


class Unknown(msgspec.Struct, frozen=True):
    """A record of a kind this version does not know: kept and forwarded as it came."""

    kind: int


Record = (
    Certificate
    | Advert
    | Departure
    | Suspicion
    | Spec
    | Control
    | Assignment
    | Result
    | Acceptance
    | Derived
)


class Keyring(Protocol):
    """Signing and verifying, injected: Ed25519 in the agent, something cheap in the simulator."""

    @property
    def peer(self) -> PeerId:
        """Whose key signs."""

    @property
    def shoal(self) -> ShoalId:
        """The root whose certificates count."""

    @property
    def certificate(self) -> bytes:
        """The sealed certificate of `peer`."""

    @property
    def opened(self) -> Opened:
        """Records that this keyring has verified lately; see `wire.open_sealed`."""

    def sign(self, data: bytes) -> bytes:
        """Sign with the identity key."""

    def verify(self, signer: str, data: bytes, signature: bytes) -> bool:
        """Whether `signature` over `data` is by the key that `signer` names. Never raises."""
