"""Events: what happened outside, in the past tense, as the node hears of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec
from protocol.messages import Facts
from protocol.question import Question
from protocol.records import Certificate, Desired, Heard


@dataclass(frozen=True, slots=True)
class TaskFound:
    """A task of an earlier life of this agent: still running, ended meanwhile, or lost track of."""

    execution: ExecutionId
    running: bool
    exit_code: int | None = None  # 128 + n for signal n; None where nobody recorded it
    reason: str = ""
    duration_ms: int = 0
    archive: str = ""  # as in TaskEnded
    archive_bytes: int = 0
    archive_note: str = ""
    ports: tuple[tuple[str, int], ...] = ()  # as in TaskStarted
    published: str = ""
    unpublished: str = ""
    stdout: bytes = b""  # as in TaskEnded
    stdout_bytes: int = 0
    output_note: str = ""
    stdout_tail: bytes = b""  # of those whose end was told in no earlier life
    stderr_tail: bytes = b""

    def as_ended(self) -> TaskEnded:
        """What is known of its end, where it is over."""
        return TaskEnded(
            self.execution,
            self.exit_code,
            self.reason,
            self.duration_ms,
            self.stdout_tail,
            self.stderr_tail,
            archive=self.archive,
            archive_bytes=self.archive_bytes,
            archive_note=self.archive_note,
            published=self.published,
            unpublished=self.unpublished,
            stdout=self.stdout,
            stdout_bytes=self.stdout_bytes,
            output_note=self.output_note,
        )


@dataclass(frozen=True, slots=True)
class Booted:
    """The first event of every life, after the node was built from what the disk held."""

    found: tuple[TaskFound, ...] = ()


@dataclass(frozen=True, slots=True)
class SelfDescribed:
    """What this device is and offers now; once after boot, then whenever it changes."""

    addresses: tuple[str, ...]
    labels: dict[str, str]
    cpu_m: int
    memory_bytes: int
    disk_bytes: int
    gpus: int = 0
    draining: bool = False  # its owner wants no new batch or service work here
    engines: tuple[str, ...] = ("process",)  # that run tasks here, whether or not they do now


@dataclass(frozen=True, slots=True)
class FactsSampled:
    facts: Facts
    utc_offset_s: int = 0  # of local time, which the owner's hours are meant in
    images: frozenset[str] = frozenset()  # that are here already, as container.full_name has them
    archives: frozenset[str] = frozenset()  # by digest, likewise
    troubles: tuple[tuple[str, str], ...] = ()  # engines that do not answer now, and why
    backlog: str = ""  # why nothing more is to be published to buckets; empty: nothing against it
    disk_full: bool = False  # what is left of the disk is for what was begun


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A message stream to a peer stands; its certificate was verified by the transport.

    `boot` is new at each start of its agent, and of the same length.
    """

    peer: PeerId
    certificate: Certificate
    boot: bytes


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    """The stream is gone. `refused`: redialled twice half a second apart, nobody listens there."""

    peer: PeerId
    refused: bool = False


@dataclass(frozen=True, slots=True)
class FrameReceived:
    peer: PeerId
    frame: bytes


@dataclass(frozen=True, slots=True)
class GossipReceived:
    frame: bytes


@dataclass(frozen=True, slots=True)
class SubmitRequested:
    """A person or program asks to run `spec`; `key` makes a repeated call the same job."""

    request: int
    spec: JobSpec
    key: str
    repeatable: bool = False  # the caller chose the key, and may have used it at another peer


@dataclass(frozen=True, slots=True)
class RunRequested:
    """A person or program asks to run a template; of runs with one key there is one."""

    request: int
    template: JobId
    key: str
    inputs: dict[str, str]
    repeatable: bool = False  # as of SubmitRequested


@dataclass(frozen=True, slots=True)
class ControlRequested:
    request: int
    job: JobId
    desired: Desired


@dataclass(frozen=True, slots=True)
class QueryRequested:
    """Find jobs by id prefix, here and among the peers that may hold them."""

    request: int
    prefix: str
    limit: int
    detail: bool


@dataclass(frozen=True, slots=True)
class ResultRequested:
    """What became of a slot, by the signed record of it, here or at a peer that has it."""

    request: int
    job: JobId
    slot: int


@dataclass(frozen=True, slots=True)
class ForgetRequested:
    """Remember a peer no longer that is gone for good."""

    request: int
    peer: PeerId


@dataclass(frozen=True, slots=True)
class TaskStarted:
    execution: ExecutionId
    ports: tuple[tuple[str, int], ...] = ()  # of this device that lead to it, by name


@dataclass(frozen=True, slots=True)
class TaskProgressed:
    """What takes long before it starts, and how far that is: text for people, told not often."""

    execution: ExecutionId
    text: str


@dataclass(frozen=True, slots=True)
class PublishingStarted:
    """It ended, and left files that are brought to its publisher; TaskEnded follows."""

    execution: ExecutionId


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """What the checks of a running task found, each time that it is something else than before."""

    execution: ExecutionId
    healthy: bool
    reason: str = ""  # what the last check that failed found


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """`exit_code` is None where the task could not be started or was lost; `reason` says why."""

    execution: ExecutionId
    exit_code: int | None
    reason: str = ""  # empty, or exited, signalled, timeout, stopped, start-failed: text for people
    duration_ms: int = 0
    stdout_tail: bytes = b""
    stderr_tail: bytes = b""
    archive: str = ""  # the SHA-256 of what its ResultPaths held; empty where nothing is kept
    archive_bytes: int = 0
    archive_note: str = ""  # what of them could not be kept
    published: str = ""  # where else they are: s3://bucket/key
    unpublished: str = ""  # why they are not there, where they were to be
    untouched: bool = False  # it never began, and has left nothing in its volumes
    stdout: bytes = b""  # its beginning, of executions whose output is published as a result
    stdout_bytes: int = 0  # of which there were so many
    output_note: str = ""  # what of its output is not kept


@dataclass(frozen=True, slots=True)
class BrokerChanged:
    """The connection to a broker has come about, or is gone."""

    broker: str
    connected: bool


@dataclass(frozen=True, slots=True)
class MessagePublished:
    """What became of a Publish: the broker has it, or `problem` says why that is not known.

    `refused`: it does not take it, as it said, or by ending the connection each time. `waits`: it
    was not sent, for others are to go before it.
    """

    key: str
    id: str  # of the message: numbers are given out again once nothing of them is left
    problem: str = ""
    refused: bool = False
    waits: bool = False


@dataclass(frozen=True, slots=True)
class LinesPublished:
    """The broker has all lines of this execution that come before `offset`."""

    execution: ExecutionId
    offset: int
    dropped_bytes: int = 0  # since the last one: gone before they could be published
    over: bool = False  # it has ended, and nothing comes any more
    gaps: int = 0  # since the last one: places where some may be gone that nobody can count


@dataclass(frozen=True, slots=True)
class TriggerHeard:
    """A message came that a template's trigger hears, and passes its filter."""

    handle: int  # by which TriggerKept names it; of this life of the agent
    template: JobId
    message: Heard
    key: str = ""  # its own (trigger.key_of); empty: it has none, and is like no other
    # broker/session/number, until it is acknowledged; empty: it is not (QoS 0)
    delivery: str = ""
    repeated: bool = False  # the broker has sent it before (DUP)
    # Its run's key where it has none of its own, drawn where it was heard: the node may be told of
    # one message again, by the same. Empty: the node draws one.
    drawn: str = ""
    # How many its broker had begun to send in its session by then, whatever became of them; of
    # this life of the agent.
    number: int = 0


@dataclass(frozen=True, slots=True)
class TriggerRefused:
    """A message came that runs nothing, whatever the node makes of it: why. One that asks for an
    answer has a handle, as in TriggerHeard."""

    template: JobId
    reason: str
    handle: int = 0
    question: Question | None = None  # as it came, however long
    key: str = ""  # of the message: its own, or made of all it holds
    delivery: str = ""  # as in TriggerHeard


@dataclass(frozen=True, slots=True)
class TriggerFiltered:
    """So many messages came that a template's When does not want."""

    template: JobId
    count: int


@dataclass(frozen=True, slots=True)
class TopicWatched:
    """The broker has the messages of a template sent here; or `problem` says why it does not."""

    template: JobId
    problem: str = ""


class Commanded(Enum):
    """What a command is to."""

    DAEMON = "daemon"  # ON or OFF
    TEMPLATE = "template"  # PRESS


@dataclass(frozen=True, slots=True)
class CommandHeard:
    """A message came on one of the shoal's own topics for commands."""

    broker: str
    kind: Commanded
    word: str  # whose, as listening.word_of
    payload: bytes
    retained: bool = False  # the broker has kept it from earlier


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A broker has nothing of a session any more: its packets' numbers begin anew."""

    source: str  # broker/session, as in a TriggerHeard's delivery


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The moment that `Node.deadline` named has come."""


@dataclass(frozen=True, slots=True)
class LoopLagged:
    """Our own loop ran this late: others may only seem slow to us (Lifeguard's local health)."""

    lag_s: float


@dataclass(frozen=True, slots=True)
class ShutdownRequested:
    """`back_in_s` zero is leaving for good; otherwise a planned restart."""

    back_in_s: float = 0.0


Event = (
    Booted
    | SelfDescribed
    | FactsSampled
    | PeerConnected
    | PeerDisconnected
    | FrameReceived
    | GossipReceived
    | SubmitRequested
    | RunRequested
    | ControlRequested
    | QueryRequested
    | ResultRequested
    | ForgetRequested
    | TaskStarted
    | TaskProgressed
    | PublishingStarted
    | HealthChanged
    | TaskEnded
    | BrokerChanged
    | MessagePublished
    | LinesPublished
    | TriggerHeard
    | TriggerRefused
    | CommandHeard
    | TriggerFiltered
    | TopicWatched
    | SessionStarted
    | DeadlinePassed
    | LoopLagged
    | ShutdownRequested
)
