"""One execution on this device: its states, its row on disk, and the fence that bounds it.

`State` and `MOVES` are all an execution can go through here. What a coordinator may order is
bounded by the fence: it only ever rises per slot, on disk, so that a late award of a coordinator
that has been succeeded starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import msgspec

from protocol.clock import NEVER
from protocol.derived import heard_by, open_spec
from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError, UnreadableSpec
from protocol.ids import ExecutionId, JobId, PeerId, Revision, execution_id, peer_slot
from protocol.job import JobSpec, JobType
from protocol.records import Assignment, Fence, Keyring, Result, Spec, Verdict
from protocol.unread import Unread
from protocol.wire import Sealed, dumps, load_row, loads, open_sealed

# Far more slots than one device runs in the days that a late award could need; 100 bytes each.
FENCES_MAX: Final = 20_000

# Of Bacalhau's pkg/compute/envvars.go; a job's name, namespace and node it set for four days only.
TWINS: Final = ("JOB_ID", "EXECUTION_ID", "PARTITION_INDEX", "PARTITION_COUNT")

CHECKING: Final = "checking"  # said of a running service whose checks have not passed yet

Row = tuple[Bucket, str, bytes | None]


class State(StrEnum):
    PENDING = "pending"  # of a service: to be started again, or once an older one has stopped
    STARTING = "starting"  # journaled; inputs are fetched, the engine is told
    RUNNING = "running"
    PUBLISHING = "publishing"  # its task has ended; what that left is brought to its publisher
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"  # because its job was
    SUPERSEDED = "superseded"  # a later award of the slot took its place
    LOST = "lost"  # the device lost track of it: a power cut, a killed supervisor
    UNKNOWN = "unknown"  # the same of an ops job, which is not tried again


ENDED: Final = (
    State.COMPLETED,
    State.FAILED,
    State.STOPPED,
    State.SUPERSEDED,
    State.LOST,
    State.UNKNOWN,
)
MOVES: Final[dict[State, tuple[State, ...]]] = {
    State.PENDING: (State.STARTING, *ENDED),
    State.STARTING: (State.RUNNING, *ENDED),
    State.RUNNING: (State.PUBLISHING, *ENDED),
    State.PUBLISHING: ENDED,
    State.COMPLETED: (),
    State.FAILED: (),
    State.STOPPED: (),
    State.SUPERSEDED: (),
    State.LOST: (),
    State.UNKNOWN: (),
}


@dataclass(slots=True)
class Execution:
    """One attempt here. `stopping` says why it was told to stop, empty while it was not.

    An attempt of a service is started again and again: each `run` is an execution of its own.
    """

    id: ExecutionId
    assignment: Assignment
    assignment_data: bytes
    spec_data: bytes
    namespace: str
    author: PeerId
    spec: JobSpec
    coordinator: PeerId
    holders: tuple[PeerId, ...]
    generation: int
    run: int = 0
    state: State = State.STARTING
    stopping: str = ""
    result_data: bytes = b""
    delivered: bool = False  # somebody who answers for the job has the result, or nobody wants it
    started_ms: int = 0
    ended_ms: int = 0  # wall; zero while it runs
    # Of this life only:
    next_at: float = 0.0  # monotonic; renew, or offer the result again
    tries: int = 0
    heard_at: float = 0.0  # monotonic; when a holder last answered for the lease
    start_by: float = NEVER  # monotonic; by then the engine has started it, or it is given up
    hints: int = 0  # of another coordinator that were followed at once
    failures: int = 0  # of a service: how often in a row it ended soon after it started
    start_at: float = NEVER  # monotonic; when a pending one is due
    began_at: float = 0.0  # monotonic; when it was started, or found running
    passing: bool = False  # its checks have passed; a service without checks needs none
    sick: str = ""  # why it is not well, and so started again
    ports: tuple[tuple[str, int], ...] = ()  # of this device that lead to the present run
    doing: str = ""  # what takes long before it starts
    touched: bool = False  # a task of it may have begun, and left something in its volumes

    @property
    def job(self) -> JobId:
        return self.assignment.job

    @property
    def revision(self) -> Revision:
        return self.assignment.revision

    @property
    def slot(self) -> int:
        return self.assignment.slot

    @property
    def fence(self) -> Fence:
        return self.assignment.fence

    @property
    def listed(self) -> bool:
        """Of an ops job: this device's one execution of the revision."""
        return self.spec.type is JobType.OPS

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def service(self) -> bool:
        """It does not end of itself: it is started again, or handed back to its coordinator."""
        return self.spec.type is JobType.SERVICE

    @property
    def keeps_volumes(self) -> bool:
        """Its volumes stay as long as something is remembered of its job here."""
        return bool(self.spec.task.volumes) and not self.service

    @property
    def asked(self) -> bool:
        """Whoever sent its message waits for what it prints."""
        if self.spec.fired is None:
            return False
        heard = heard_by(self.spec_data)
        return heard is not None and bool(heard[1].reply)

    @property
    def publishes(self) -> bool:
        """Whether its output goes out with its result, or with an answer."""
        publisher = self.spec.task.publisher.mqtt
        return (publisher is not None and not publisher.lines) or self.asked

    @property
    def owes(self) -> bool:
        """A result is still to be delivered."""
        return bool(self.result_data) and not self.delivered

    @property
    def live(self) -> bool:
        """It runs, or its result is still to be delivered."""
        return self.state not in ENDED or self.owes

    @property
    def proves(self) -> str:
        """Its state for whoever waits until it is well."""
        unproved = self.spec.check is not None and not self.passing
        return CHECKING if unproved and self.state is State.RUNNING else self.state.value

    def answers_to(self, peer: PeerId) -> bool:
        """Whether `peer` is one whom it renews with or brings its result to."""
        return peer in (self.coordinator, self.fence.coordinator, *self.holders)

    def move(self, state: State) -> None:
        assert state in MOVES[self.state], (self.id, self.state, state)
        self.state = state

    def row(self) -> Row:
        value = [
            self.assignment_data,
            self.spec_data,
            self.state.value,
            self.stopping,
            self.coordinator,
            list(self.holders),
            self.result_data,
            self.delivered,
            self.started_ms,
            self.ended_ms,
            self.run,
        ]
        return ("execution", self.id, dumps(value))

    @classmethod
    def begin(
        cls,
        assignment: Assignment,
        data: bytes,
        sealed: Sealed,
        holders: tuple[PeerId, ...],
        run: int = 0,
    ) -> Execution:
        """Build from an assignment and a spec that were verified. Raises RemoteProtocolError."""
        spec = sealed.record
        assert isinstance(spec, Spec)
        try:
            job = JobSpec.decode(spec.body)
        except ValueError as error:
            raise UnreadableSpec(f"this version cannot read its spec: {error}") from None
        if job.schedule is not None or job.parameters is not None:
            raise RemoteProtocolError("a schedule or template is not run itself")
        own = peer_slot(assignment.job, assignment.executor)
        listed = job.type is JobType.OPS
        if assignment.slot != own if listed else not 0 <= assignment.slot < job.count:
            raise RemoteProtocolError(f"slot {assignment.slot} of {job.count}")
        if job.namespace != spec.namespace:
            raise RemoteProtocolError("a spec in another namespace than its record's")
        return cls(
            id=id_of(assignment, run),
            assignment=assignment,
            assignment_data=data,
            spec_data=sealed.data,
            namespace=spec.namespace,
            author=sealed.author,
            spec=job,
            coordinator=assignment.fence.coordinator,
            holders=holders,
            generation=spec.generation,
            run=run,
        )

    def again(self) -> Execution:
        """The next run of the same award, to be started when its time has come."""
        run = self.run + 1
        return replace(
            self,
            id=id_of(self.assignment, run),
            run=run,
            state=State.PENDING,
            stopping="",
            result_data=b"",
            delivered=False,
            started_ms=0,
            ended_ms=0,
            passing=False,
            sick="",
            ports=(),
            doing="",
        )

    def environment(self, peer: PeerId) -> dict[str, str]:
        """What every task sees (DESIGN 9)."""
        own = {
            "SHOAL_JOB_ID": self.job,
            "SHOAL_EXECUTION_ID": self.id,
            "SHOAL_PEER_ID": peer,
            "SHOAL_PARTITION_INDEX": "0" if self.listed else str(self.slot),
            "SHOAL_PARTITION_COUNT": str(self.spec.count),
            "SHOAL_TERM": str(self.fence.term),
            "SHOAL_ATTEMPT": str(self.fence.attempt),
        }
        fired = self.spec.fired.environment if self.spec.fired is not None else {}
        return {**with_twins(own, self.spec.type), **fired}


def with_twins(own: Mapping[str, str], type_: JobType) -> dict[str, str]:
    """A task's variables, and those of them that Bacalhau sets too under its names, for job files
    made for it; the ports it sets are known where the task starts (agent.engines.ports)."""
    twins = {f"BACALHAU_{name}": own[f"SHOAL_{name}"] for name in TWINS}
    return {**own, **twins, "BACALHAU_JOB_TYPE": type_.value}


def id_of(record: Assignment | Result, run: int = 0) -> ExecutionId:
    fence, slot = record.fence, record.slot
    return execution_id(record.revision, slot, fence.term, fence.coordinator, fence.attempt, run)


def restore_execution(value: bytes, keyring: Keyring) -> Execution:
    """Rebuild one from its row. Raises RemoteProtocolError or ValueError for a foreign row."""
    fields = load_row(
        value,
        tuple[bytes, bytes, str, str, str, list[str], bytes, bool, int, int, int],
        bytes_max=512 * 1024,
    )
    data, spec_data, state, stopping, coordinator, holders, result, delivered, *numbers = fields
    assignment = open_sealed(data, keyring).record
    sealed = open_spec(spec_data, keyring)
    if not isinstance(assignment, Assignment) or not isinstance(sealed.record, Spec):
        raise RemoteProtocolError("not an execution's row")
    known = tuple(PeerId(peer) for peer in holders)
    execution = Execution.begin(assignment, data, sealed, known, numbers[2])
    execution.state, execution.stopping = State(state), stopping
    execution.coordinator, execution.result_data = PeerId(coordinator), result
    execution.delivered = delivered
    execution.started_ms, execution.ended_ms = numbers[:2]
    return execution


@dataclass(slots=True)
class Fences:
    """The highest fence seen per slot; on disk before anything is done on the strength of it."""

    known: dict[tuple[JobId, int], Fence] = field(default_factory=dict)

    @classmethod
    def restore(cls, rows: Mapping[str, bytes], unreadable: list[Unread]) -> Fences:
        """Rebuild them from disk; adds the rows that could not be read to `unreadable`."""
        fences = cls()
        for key, value in rows.items():
            job, _, slot = key.partition("/")
            try:
                fences.known[(JobId(job), int(slot))] = msgspec.convert(loads(value), Fence)
            except (RemoteProtocolError, ValueError) as error:
                unreadable.append(Unread("fence", key, str(error)))
        return fences

    def stale(self, job: JobId, slot: int, fence: Fence) -> bool:
        """Whether an award that is not known here comes too late.

        One at the very height was run and forgotten, or withdrawn before it came.
        """
        highest = self.known.get((job, slot))
        return highest is not None and fence <= highest

    def raise_to(self, job: JobId, slot: int, fence: Fence) -> list[Row]:
        """The row to save; none where as much is known already."""
        highest = self.known.get((job, slot))
        if highest is not None and fence <= highest:
            return []
        self.known.pop((job, slot), None)
        self.known[(job, slot)] = fence
        value = dumps([fence.term, fence.coordinator, fence.attempt])
        rows: list[Row] = [("fence", f"{job}/{slot}", value)]
        if len(self.known) > FENCES_MAX:
            oldest = next(iter(self.known))
            del self.known[oldest]
            rows.append(("fence", f"{oldest[0]}/{oldest[1]}", None))
        return rows


def verdict_of(exit_code: int | None) -> Verdict:
    """DESIGN 6: zero is success, any other a failure; no exit at all is not the task's fault."""
    if exit_code is None:
        return Verdict.FAULT
    return Verdict.SUCCESS if exit_code == 0 else Verdict.FAILURE
