"""A job in its coordinator's hands: per slot what is being done about it, and until when."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from protocol.asks import asks_of
from protocol.auction import Auction
from protocol.clock import NEVER
from protocol.effects import Effect
from protocol.heldjob import HeldJob, Slot
from protocol.ids import PeerId
from protocol.job import JobSpec
from protocol.messages import Requirements
from protocol.records import Fence
from protocol.sources import ArchiveSource


class Phase(StrEnum):
    WAITING = "waiting"  # to be placed once `due` has come
    BIDDING = "bidding"
    OFFERED = "offered"  # awarded; accept, decline or silence until `due`
    RUNNING = "running"  # leased until `due`
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Silence:
    """Of who did not answer an award."""

    since: float  # monotonic; when it was waited for no more
    boot: bytes  # the life of its agent that was awarded, empty where that is not known


@dataclass(slots=True)
class Plan:
    """What its coordinator does about one slot. Of this life only; the records say the rest."""

    phase: Phase
    due: float  # monotonic seconds
    since: float  # monotonic; when it began to wait for a peer
    failures: int = 0
    untaken: int = 0  # awards that are not among them: who had them died before it answered
    counted: Fence | None = None  # the latest attempt whose failure is among them
    failed_on: dict[PeerId, int] = field(default_factory=dict)
    repeated: bool = False  # the award was sent again
    offered: float = -NEVER  # monotonic; when it was made
    late: bool = False  # it is waited for longer than its round
    boot: bytes = b""  # the life of the agent that it was made to, as far as that is known
    # Whose awards are waited for no more: they may have died of them. Until they answer, or the
    # slot runs.
    silent: dict[PeerId, Silence] = field(default_factory=dict)
    publishing: bool = False  # its task has ended, and its results are on their way
    dry_rounds: int = 0  # auctions in a row that found nobody
    reason: str = ""
    untouched: Fence | None = None  # an award that nothing came of: its volumes do not exist
    answered: Fence | None = None  # an award that its executor is known to have taken
    ports: tuple[tuple[str, int], ...] = ()  # that lead to its task, as its executor says
    doing: str = ""  # what takes long before that starts, likewise
    # Of a service:
    begun: Fence | None = None  # the award that `began` and `restarts` are about
    began: float = 0.0  # monotonic; when that was accepted, as far as this peer knows
    restarts: int = 0
    ended: Fence | None = None  # the award whose task ended too often, and was handed back
    well: Fence | None = None  # the award that ran for long enough once
    leaving: PeerId | None = None  # who drains, and runs it until somebody else does
    surplus: Fence | None = None  # an older award that ran on for a while, and was told of
    outranked: float = NEVER  # monotonic; since when executors know of a later award than ours

    def wait(self, now: float, pause: float = 0.0) -> None:
        if self.phase is Phase.RUNNING:  # an award that came to nothing does not begin it anew
            self.since = now
        self.phase, self.due = Phase.WAITING, now + pause

    def lease(self, until: float) -> None:
        self.phase, self.due, self.dry_rounds = Phase.RUNNING, until, 0

    def begin(self, fence: Fence, now: float) -> None:
        """An execution of this award runs; told so again, nothing changes."""
        self.outranked = NEVER
        if self.begun != fence:
            self.begun, self.began, self.restarts = fence, now, 0
            self.publishing = False


@dataclass(slots=True)
class Confirmation:
    """Effects that wait until a standby has `version` on disk, or until `due`."""

    version: int
    due: float
    effects: list[Effect]
    request: int | None = None  # a submission that is answered then

    @property
    def of_acceptance(self) -> bool:
        """Whether it is the job itself that a standby is to have, and not what became of it."""
        return not self.effects


@dataclass(slots=True)
class Led:
    """One job and its plans, slot by slot."""

    held: HeldJob
    plans: dict[int, Plan]
    total_due: float = NEVER
    queue_due: float = NEVER
    auction: Auction | None = None
    confirmations: list[Confirmation] = field(default_factory=list)
    busy: dict[PeerId, None] = field(default_factory=dict)  # may tell that they have room now
    invited_by: PeerId | None = None  # who has told so: it is asked first
    waits: dict[PeerId, str] = field(default_factory=dict)  # told of slots that wait for just these
    told: tuple[str, int] | None = None  # the outcome that people were told: state, exit code
    review_at: float = NEVER  # of a service whose slots go from one revision to another
    held_back: bool = False  # ops: its list is not known to be at a standby yet, so nobody starts
    look_at: float = NEVER  # ops: when it is looked whom to add to the list, and whether to close

    @property
    def needs(self) -> Requirements:
        return requirements_of(self.held)

    def pairs(self) -> list[tuple[Slot, Plan]]:
        return [
            (slot, self.plans[slot.index])
            for slot in self.held.slots
            if slot.index in self.plans  # a holder may speak of more slots than a service has
        ]

    def waiting(self, now: float) -> list[int]:
        return [
            index
            for index, plan in self.plans.items()
            if plan.phase is Phase.WAITING and plan.due <= now
        ]

    def current(self, slot: int, fence: Fence) -> bool:
        """Whether `fence` is the latest award of the slot."""
        assignment = self.held.slots[slot].assignment
        return assignment is not None and assignment.fence == fence

    @property
    def queueing(self) -> list[int]:
        """Slots that wait and never had a peer: the job's QueueTimeout is about them."""
        return [
            slot.index
            for slot, plan in self.pairs()
            if plan.phase is Phase.WAITING and slot.assignment is None
        ]

    @property
    def deadline(self) -> float:
        times = [confirmation.due for confirmation in self.confirmations]
        if self.auction is not None and not self.auction.awarding:
            times.append(self.auction.closes_at)
        for plan in self.plans.values():
            timed = plan.phase in (Phase.OFFERED, Phase.RUNNING)
            # Slots that wait are taken up when the round under way is over.
            if timed or (
                plan.phase is Phase.WAITING and self.auction is None and not self.held_back
            ):
                times.append(plan.due)
        if not self.held.done:
            times += [self.total_due, self.review_at]
        if not self.held.closed:
            times.append(self.look_at)
        if any(self.plans[index].dry_rounds for index in self.queueing):
            times.append(self.queue_due)
        return min(times, default=NEVER)


def requirements_of(held: HeldJob) -> Requirements:
    """What a bidder must know to answer; the spec itself goes to the winner alone."""
    return needs_of(held.job)


def needs_of(spec: JobSpec) -> Requirements:
    """What one execution of a job needs of a device."""
    task, need = spec.task, spec.task.resources
    return Requirements(
        engine=task.engine.type,
        cpu_m=need.cpu_m,
        memory_bytes=need.memory_bytes,
        disk_bytes=need.disk_bytes,
        gpus=need.gpu,
        constraints=tuple((c.key, c.operator.value, c.values) for c in spec.constraints),
        inputs=tuple(
            source.source.digest
            for source in task.input_sources
            if isinstance(source.source, ArchiveSource)
        ),
        image=task.engine.container.image if task.engine.type == "docker" else "",
        asks=asks_of(task, spec.name, spec.namespace),
    )
