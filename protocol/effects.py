"""Effects: what the node wants done, in the imperative.

They leave in the order given, each after every earlier Save is durable; only a Send whose message
is one of `messages.OVERTAKING`, or that says so itself, may go before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from protocol.check import CheckSpec
from protocol.ids import ExecutionId, JobId, PeerId
from protocol.job import JobSpec
from protocol.listening import TopicWatch
from protocol.messages import Message

Bucket = Literal[
    "meta",
    "peer",
    "spec",
    "control",
    "job",
    "slot",
    "execution",
    "fence",
    "standing",
    "daemon",
    "schedule",
    "service",
    "version",
    "ops",
    "outbox",
    "stream",
    "result",  # retained at brokers (protocol.retained)
    "trigger",
    "delivery",
    "foreign",
    "retained",  # the agent's own at brokers (agent.mqtt.retained)
    "answer",
]
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)


@dataclass(frozen=True, slots=True)
class Save:
    """Write all of these in one transaction; a value of None deletes the key.

    `lazy` rows may wait for the next save, or some seconds, and nothing waits for them: losing
    them in a power cut costs a message that is repeated.
    """

    rows: tuple[tuple[Bucket, str, bytes | None], ...]
    lazy: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Bring this to a peer, dialling it if need be. May be lost; whatever matters is resent.

    `overtakes`: it claims nothing that has to survive a power cut, by what is inside it.
    """

    peer: PeerId
    message: Message
    overtakes: bool = False


@dataclass(frozen=True, slots=True)
class Gossip:
    """Spread this rumour; a Rumours message of sealed records. May be lost."""

    message: Message


@dataclass(frozen=True, slots=True)
class Dial:
    """Keep a connection to this peer, at these addresses; without any: keep it no longer."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the connection: the peer is dead or frozen, and its half-open socket helps nobody."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class StartTask:
    execution: ExecutionId
    job: JobId
    spec: JobSpec
    environment: dict[str, str]  # the SHOAL_ and BACALHAU_ variables, which no job sets
    timeout_s: float | None
    sources: tuple[PeerId, ...]  # who may have the shipped archives, the likeliest first
    slot: int = 0  # whose volumes it finds


@dataclass(frozen=True, slots=True)
class CheckTask:
    """See again and again, until it ends, whether this running task is well (HealthChanged)."""

    execution: ExecutionId
    check: CheckSpec


@dataclass(frozen=True, slots=True)
class StopTask:
    execution: ExecutionId
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveTask:
    """Everything the execution left on disk may go."""

    execution: ExecutionId


@dataclass(frozen=True, slots=True)
class DropVolumes:
    """What is kept of volumes that nobody wants any more may go, once nothing uses it."""


@dataclass(frozen=True, slots=True)
class Publish:
    """Publish this at the broker of that name, and say what became of it: MessagePublished."""

    broker: str
    key: str  # of the outbox
    id: str  # stable, for whoever hears it twice
    topic: str
    payload: bytes
    qos: int
    retain: bool
    content_type: str = ""
    expiry_s: int = 0
    properties: tuple[tuple[str, str], ...] = ()
    correlation: bytes = b""
    answer: bool = False  # whoever asked chose the topic: let it hold up nothing else


@dataclass(frozen=True, slots=True)
class StreamLines:
    """Publish each line that the execution writes to stdout from `offset` on, to the end; say now
    and then how far that is (LinesPublished)."""

    execution: ExecutionId
    broker: str
    topic: str
    qos: int
    retain: bool
    format: str
    offset: int
    about: tuple[JobId, int, str]  # job, slot, the job's name


@dataclass(frozen=True, slots=True)
class WatchTopics:
    """Hear just these, each in a session that the broker keeps while this device is away."""

    watches: tuple[TopicWatch, ...]


@dataclass(frozen=True, slots=True)
class TriggerKept:
    """The message is on disk, or is for nobody: the broker may forget it (PUBACK)."""

    handle: int


@dataclass(frozen=True, slots=True)
class TriggerPutOff:
    """There is no room for the message now: it stays the broker's; tell of it again after that."""

    handle: int
    again_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to a request event; `error` is a sentence for a person, empty on success."""

    request: int
    value: dict[str, object] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Tell:
    """Something a person may want to know. `fields` are plain values; `text` is the sentence."""

    kind: str  # dotted: job.accepted, job.bid, execution.running, peer.dead, ...
    text: str
    job: JobId | None = None
    peer: PeerId | None = None
    fields: dict[str, object] = field(default_factory=dict)
    fleeting: bool = False  # for whoever looks on just now, and kept nowhere


Effect = (
    Save
    | Send
    | Gossip
    | Dial
    | Hangup
    | StartTask
    | CheckTask
    | StopTask
    | RemoveTask
    | DropVolumes
    | Publish
    | StreamLines
    | WatchTopics
    | TriggerKept
    | TriggerPutOff
    | Reply
    | Tell
)


def one_save(effects: list[Effect]) -> list[Effect]:
    """The same effects with one Save for all, where the first was: one event, one transaction.

    What stood before the later ones waits for them too, which breaks no promise. Lazy rows go
    along, in their order, since a later row of the same key may not be written before them.
    """
    saves = [effect for effect in effects if isinstance(effect, Save)]
    if len(saves) < 2 or all(save.lazy for save in saves):
        return effects
    rows = tuple(row for save in saves for row in save.rows)
    first = effects.index(saves[0])
    rest = [effect for effect in effects[first:] if not isinstance(effect, Save)]
    return [*effects[:first], Save(rows), *rest]
