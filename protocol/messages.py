"""Messages: what two peers say over one connection (see wire.cddl).

The stream authenticates the speaker, so messages carry no signature; the records inside them do.
Kinds are append-only, and so are the fields of a kind.
"""

from __future__ import annotations

import msgspec

from protocol.bounds import (
    Addresses,
    Count,
    Digest,
    Domain,
    Flag,
    Hash,
    Key,
    Known,
    Labels,
    LetterFrame,
    Millis,
    Name,
    Nonce,
    Outcome,
    Peers,
    Percent,
    Ports,
    Prefix,
    Reason,
    Score,
    Signature,
    Signed,
    Slot,
    Slots,
    Value,
    Version,
    Word,
)
from protocol.ids import ExecutionId, JobId, PeerId, Revision
from protocol.records import Fence

# ---- the first words on a stream (each stream has its own protocol id, see agent/transport) ------


class Hello(msgspec.Struct, array_like=True, tag=100, frozen=True):
    """First frame of both sides on the message stream. `boot` is new at each start of an agent:
    one key with two live boots is a cloned identity."""

    certificate: bytes
    boot: Nonce
    version: Version


class Goodbye(msgspec.Struct, array_like=True, tag=101, frozen=True):
    """Instead of a Hello, or as the last frame: why this stream ends. Codes are append-only."""

    code: Word  # not-a-member, expired, clone, other-shoal, busy, closing
    text: Reason


class JoinRequest(msgspec.Struct, array_like=True, tag=110, frozen=True):
    secret: Nonce
    name: Name


class JoinAnswer(msgspec.Struct, array_like=True, tag=111, frozen=True):
    """Either a certificate, or `error` with a sentence for the person who tried."""

    certificate: bytes
    shoal_name: Name
    addresses: Addresses  # of peers to start from, with /p2p
    labels: Labels
    error: Reason = ""


class ArchiveRequest(msgspec.Struct, array_like=True, tag=120, frozen=True):
    """Send the archive with this SHA-256 (hex) from `offset` on."""

    digest: Digest
    offset: Count


class ArchiveAnswer(msgspec.Struct, array_like=True, tag=121, frozen=True):
    """`size` of the whole in bytes, then size - offset raw bytes follow; or `error`."""

    size: Count
    error: Reason = ""


class LogRequest(msgspec.Struct, array_like=True, tag=122, frozen=True):
    """Output of an execution from `offset` on; `tail` >= 0: from that many lines before its end."""

    execution: ExecutionId
    stream: Word  # stdout or stderr
    offset: Count
    tail: Known
    follow: bool
    since_ms: Millis = 0  # Unix time; where offset and tail leave it open, what was written since


class LogChunk(msgspec.Struct, array_like=True, tag=123, frozen=True):
    """`end`: the execution is over, this was its last; `error` where there is nothing to read."""

    offset: Count
    data: bytes
    end: bool
    error: Reason = ""


class SpliceRequest(msgspec.Struct, array_like=True, tag=124, frozen=True):
    """Open a stream of `protocol` to `target`, and join it to this one."""

    target: PeerId
    protocol: Word


class SpliceAnswer(msgspec.Struct, array_like=True, tag=125, frozen=True):
    """The streams are joined, and what follows is the target's; or `error`, and nothing follows."""

    error: Reason = ""


# ---- membership -------------------------------------------------------------------------------


class Ping(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """Are you there? Answered with an Ack of the same number."""

    seq: Count


class Ack(msgspec.Struct, array_like=True, tag=2, frozen=True):
    seq: Count


class PingRequest(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """Ping `target` for me: I cannot reach it (SWIM's indirect probe)."""

    seq: Count
    target: PeerId


class PingReport(msgspec.Struct, array_like=True, tag=4, frozen=True):
    seq: Count
    target: PeerId
    reached: bool


class Rumours(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """Sealed adverts, departures, suspicions; also the one message that gossip carries."""

    records: tuple[bytes, ...]


class Accused(msgspec.Struct, array_like=True, tag=6, frozen=True):
    """You are held for suspect or dead at this incarnation: raise it to refute."""

    incarnation: Count


# ---- anti-entropy -----------------------------------------------------------------------------


class SyncRoot(msgspec.Struct, array_like=True, tag=10, frozen=True):
    """The hash over all held in `domain` (0 adverts, 1 standing records); silence is agreement."""

    domain: Domain
    root: Hash


class SyncBuckets(msgspec.Struct, array_like=True, tag=11, frozen=True):
    """The hash of each bucket, sent where the roots differ."""

    domain: Domain
    hashes: tuple[Hash, ...]


class SyncItems(msgspec.Struct, array_like=True, tag=12, frozen=True):
    """What the sender holds in the buckets that differ: key and version hash, a part at a time."""

    domain: Domain
    buckets: tuple[Count, ...]
    items: tuple[tuple[Key, Hash], ...]


class SyncWant(msgspec.Struct, array_like=True, tag=13, frozen=True):
    """Send me these."""

    domain: Domain
    keys: tuple[Key, ...]


class SyncRecords(msgspec.Struct, array_like=True, tag=14, frozen=True):
    domain: Domain
    records: tuple[bytes, ...]


class SyncHeld(msgspec.Struct, array_like=True, tag=15, frozen=True):
    """These are on the sender's disk, key and version hash; what it has no room for is `refused`.

    Answers SyncRecords, and those SyncItems that name no bucket: an offer of what is new, repeated
    until it is answered so.
    """

    domain: Domain
    items: tuple[tuple[Key, Hash], ...]
    refused: tuple[Key, ...] = ()
    reason: Reason = ""


# ---- one-off jobs among their holders ---------------------------------------------------------


class SlotState(msgspec.Struct, array_like=True, frozen=True):
    """One slot as its holders share it: sealed assignment and acceptance, empty where none."""

    slot: Slot
    assignment: bytes = b""
    acceptance: bytes = b""


class UpdateState(msgspec.Struct, array_like=True, frozen=True):
    """How a service's update to a revision went: 1 it has settled, 2 it failed."""

    generation: Count
    revision: Revision
    outcome: Outcome


class JobSync(msgspec.Struct, array_like=True, tag=20, frozen=True):
    """A job, or what changed of it; the receiver merges, saves, and acknowledges `seq`.

    `spec` may be empty where the receiver is thought to hold it (`want_spec` in the answer if not).
    """

    seq: Count
    job: JobId
    spec: bytes
    control: bytes
    term: Count
    coordinator: PeerId
    accepted_ms: Millis  # when the job was accepted, wall time: its timeouts count from here
    slots: tuple[SlotState, ...]
    holders: Peers  # whoever holds it, the first coordinator first
    fingerprint: Hash  # of all the sender holds of the job, not only of what is sent here
    held: Slots = 0  # how many slots the sender holds; of an ops job the receiver cannot know
    closed: bool = False  # no more slots are added: what an ops job with NotAfter comes to
    update: UpdateState | None = None  # of a service, the latest that is over


class JobSyncAck(msgspec.Struct, array_like=True, tag=21, frozen=True):
    seq: Count
    job: JobId
    fingerprint: Hash  # of the receiver's state after the merge; equal to the sender's: in sync
    want_spec: bool = False


class JobDigests(msgspec.Struct, array_like=True, tag=22, frozen=True):
    """What the sender holds of the jobs that both should hold: id and hash of the merged state."""

    items: tuple[tuple[JobId, Hash], ...]


class JobWant(msgspec.Struct, array_like=True, tag=23, frozen=True):
    jobs: tuple[JobId, ...]


# ---- bidding ----------------------------------------------------------------------------------


class Requirements(msgspec.Struct, array_like=True, frozen=True):
    """What one slot needs, in the units of `resources.Resources`."""

    engine: Word
    cpu_m: Count
    memory_bytes: Count
    disk_bytes: Count
    gpus: Count
    constraints: tuple[tuple[Key, Word, tuple[Value, ...]], ...] = ()  # key, operator, values
    inputs: tuple[Digest, ...] = ()  # digests of shipped archives
    image: Reason = ""  # of a container
    asks: tuple[Reason, ...] = ()  # what the owner has to allow, see asks


class Announce(msgspec.Struct, array_like=True, tag=30, frozen=True):
    """Who can take some of these slots? Unicast, never gossip."""

    auction: Count
    job: JobId
    revision: Revision
    namespace: Name
    author: PeerId
    slots: Slots  # wanted
    needs: Requirements
    closes_ms: Millis  # from receipt
    priority: Count = 0  # of the job; the higher goes first where a device has room for one
    job_type: Word = ""  # jobtype.JobType; empty where an older coordinator does not say


class Facts(msgspec.Struct, array_like=True, frozen=True):
    """What a bid rests on, measured by the bidder; -1 where it cannot be known."""

    cpu_free_m: Known = -1
    memory_free_bytes: Known = -1
    disk_free_bytes: Known = -1
    load_permille: Known = -1  # of all cores
    running: Count = 0  # executions here
    inputs_here: Count = 0  # of the archives the job needs
    temperature_mc: Signed = -1  # thousandths of a degree Celsius
    battery_percent: Percent = -1
    mains: Flag = -1  # 1 on mains power, 0 on battery
    image_here: Flag = -1  # 1 where the image of the job is here, 0 where not


class Bid(msgspec.Struct, array_like=True, tag=31, frozen=True):
    """The sender would take up to `slots`, and keeps the capacity free for `hold_ms`."""

    auction: Count
    score: Score  # 0 to 1000
    slots: Slots
    hold_ms: Millis
    facts: Facts


class Refusal(msgspec.Struct, array_like=True, tag=32, frozen=True):
    """Not here, and why: a sentence that names what does not fit."""

    auction: Count
    reason: Reason
    final: bool = True  # False: busy now, ask again later


class Award(msgspec.Struct, array_like=True, tag=33, frozen=True):
    """Run this. Resending is harmless; the executor checks the spec's author, not the sender."""

    auction: Count
    assignments: tuple[bytes, ...]  # sealed, of slots of one job
    spec: bytes
    control: bytes
    holders: Peers  # who to renew with and bring the result to, the coordinator first


class Accepted(msgspec.Struct, array_like=True, tag=34, frozen=True):
    """It is on the sender's disk, and starts."""

    job: JobId
    slot: Slot
    fence: Fence


class Declined(msgspec.Struct, array_like=True, tag=35, frozen=True):
    job: JobId
    slot: Slot
    fence: Fence
    reason: Reason
    final: bool = True  # False: busy now, a peer that is on a list may be asked again
    known: Fence | None = None  # a later one that the sender has seen of the slot


class Release(msgspec.Struct, array_like=True, tag=36, frozen=True):
    """The auction is over for you: free what you held for it; `job` waits for you no more."""

    auction: Count
    job: JobId | None = None  # it found a place, or ended, while you had no room for it


class Withdraw(msgspec.Struct, array_like=True, tag=37, frozen=True):
    """Stop every execution of the slot whose fence is below `fence`, and take none such again."""

    job: JobId
    slot: Slot
    fence: Fence
    reason: Reason


class Vacancy(msgspec.Struct, array_like=True, tag=38, frozen=True):
    """There is room now for this job, which the sender refused as busy; kept for it a moment."""

    job: JobId


# ---- executions -------------------------------------------------------------------------------


class Renewal(msgspec.Struct, array_like=True, frozen=True):
    job: JobId
    revision: Revision
    slot: Slot
    fence: Fence
    state: Word
    assignment: bytes = b""  # sealed, for a successor that may not know of it
    restarts: Count = 0  # of a service, since the award
    ports: Ports = ()  # of the sender that lead to it: their names in the job file, and numbers
    doing: Reason = ""  # what takes long before it starts, for people


class Renew(msgspec.Struct, array_like=True, tag=40, frozen=True):
    """These still run here: keep their leases."""

    items: tuple[Renewal, ...]


class RenewAnswer(msgspec.Struct, array_like=True, frozen=True):
    """`verdict` is kept, unknown (ask the next holder), or over (stop: `fence` supersedes it)."""

    job: JobId
    slot: Slot
    fence: Fence  # of the renewal answered
    verdict: Word
    coordinator: PeerId | None = None  # who answers for the job now, as far as the sender knows
    holders: Peers = ()  # whom to turn to when that one is gone


class RenewAck(msgspec.Struct, array_like=True, tag=41, frozen=True):
    items: tuple[RenewAnswer, ...]


class ResultOffer(msgspec.Struct, array_like=True, tag=42, frozen=True):
    """A sealed Result, repeated with backoff until one who answers for the job has it on disk."""

    result: bytes
    assignment: bytes = b""  # sealed; for one who may not know that it was awarded


class ResultAck(msgspec.Struct, array_like=True, tag=43, frozen=True):
    job: JobId
    slot: Slot
    fence: Fence
    status: Word  # accepted, superseded, unknown (ask the next holder)
    coordinator: PeerId | None = None  # who answers for the job now, where the sender does not


# ---- questions --------------------------------------------------------------------------------


class JobQuery(msgspec.Struct, array_like=True, tag=50, frozen=True):
    """Tell me of the jobs whose id starts with `prefix` (all where empty), at most `limit`."""

    seq: Count
    prefix: Prefix
    limit: Count
    detail: bool = False


class JobReport(msgspec.Struct, array_like=True, tag=51, frozen=True):
    seq: Count
    views: tuple[bytes, ...]  # each the CBOR of one job view, see views.py


class ControlRequest(msgspec.Struct, array_like=True, tag=52, frozen=True):
    """A sealed control record for the peer that answers for its job."""

    seq: Count
    control: bytes


class ControlAnswer(msgspec.Struct, array_like=True, tag=53, frozen=True):
    seq: Count
    error: Reason = ""  # a sentence, empty when it is on disk


class ResultQuery(msgspec.Struct, array_like=True, tag=54, frozen=True):
    """Show me the record of what became of this slot."""

    seq: Count
    job: JobId
    slot: Slot


class ResultReport(msgspec.Struct, array_like=True, tag=55, frozen=True):
    seq: Count
    acceptance: bytes = b""  # sealed, with the sealed result inside; empty where none is known


# ---- through a common neighbour ---------------------------------------------------------------


class Letter(msgspec.Struct, array_like=True, frozen=True):
    """A frame for a peer that its sender cannot dial, handed on once by `through`.

    `number` rises with each letter of the sender in one life; the lives are incarnations. A letter
    to an earlier life of the receiver, and one that came before, are not read.
    """

    sender: PeerId
    receiver: PeerId
    through: PeerId
    sender_life: Count
    receiver_life: Count  # as the sender knows it
    number: Count
    frame: LetterFrame  # a message, but no relayed one


class Relayed(msgspec.Struct, array_like=True, tag=60, frozen=True):
    """A letter, signed by its sender; whoever hands it on can read it, and not change it."""

    letter: bytes
    signature: Signature
    certificate: bytes = b""  # the sender's, sealed; empty where the receiver has shown to know it


class PathQuery(msgspec.Struct, array_like=True, tag=61, frozen=True):
    """Which of these are you connected to? I cannot dial them."""

    peers: Peers


class PathReport(msgspec.Struct, array_like=True, tag=62, frozen=True):
    """To these I am connected, and relay; to those I am not, or no longer."""

    connected: Peers
    absent: Peers


Message = (
    Ping
    | Ack
    | PingRequest
    | PingReport
    | Rumours
    | Accused
    | SyncRoot
    | SyncBuckets
    | SyncItems
    | SyncWant
    | SyncRecords
    | SyncHeld
    | JobSync
    | JobSyncAck
    | JobDigests
    | JobWant
    | Announce
    | Bid
    | Refusal
    | Award
    | Accepted
    | Declined
    | Release
    | Withdraw
    | Vacancy
    | Renew
    | RenewAck
    | ResultOffer
    | ResultAck
    | JobQuery
    | JobReport
    | ControlRequest
    | ControlAnswer
    | ResultQuery
    | ResultReport
    | Relayed
    | PathQuery
    | PathReport
)

# These claim nothing that has to survive a power cut: they may leave before a Save is durable.
OVERTAKING = (
    Ping,
    Ack,
    PingRequest,
    PingReport,
    SyncRoot,
    SyncBuckets,
    SyncItems,
    SyncWant,
    Announce,
    Bid,
    Refusal,
    Release,
    Vacancy,
    Renew,
    JobQuery,
    ResultQuery,
    ResultReport,
    PathQuery,
    PathReport,
)
