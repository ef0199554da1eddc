"""One daemon on this device: what was started last, what it may go back to, and its row on disk."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.clock import NEVER
from protocol.effects import Bucket
from protocol.errors import RemoteProtocolError
from protocol.execution import ENDED, State, with_twins
from protocol.ids import ExecutionId, JobId, PeerId, Revision, execution_id, revision_of
from protocol.job import JobSpec
from protocol.records import Keyring, Spec
from protocol.wire import RECORD_BYTES_MAX, Sealed, dumps, load_row, open_sealed

Row = tuple[Bucket, str, bytes | None]
Ended = tuple[str, int, str, int, int]  # execution, exit code or -1, reason, started, ended (wall)


@dataclass(frozen=True, slots=True)
class Running:
    """One revision as it can be started: what is needed of its signed spec."""

    data: bytes
    author: PeerId
    revision: Revision
    spec: JobSpec

    @classmethod
    def of(cls, sealed: Sealed) -> Running:
        """Raises RemoteProtocolError or JobSpecError for a spec that cannot be read."""
        record = sealed.record
        if not isinstance(record, Spec):
            raise RemoteProtocolError("a spec record is needed")
        spec = JobSpec.decode(record.body)
        return cls(sealed.data, sealed.author, revision_of(sealed.body), spec)


@dataclass(slots=True)
class Daemon:
    """The one execution of a standing job here, over all its restarts.

    Its row is saved before each start and each stop. That it ended may be saved later: whoever
    finds it neither running nor ended starts it again.
    """

    job: JobId
    now: Running  # what was started last
    before: Running | None = None  # the last revision that ran well here, to go back to
    refused: Revision | None = None  # the one that was gone back from, not to be tried again
    attempt: int = 0  # counts starts over all revisions: each has a directory of its own
    restarts: int = 0  # of this revision
    state: State = State.LOST
    stopping: str = ""  # why it was told to stop, empty while it was not
    started_ms: int = 0
    past: tuple[Ended, ...] = ()  # executions that ended, whose output is kept, the latest last
    # Of this life only:
    failures: int = 0  # in a row, for the pause before the next start
    next_at: float = NEVER  # monotonic; when it is started (again)
    began_at: float = NEVER  # monotonic; when the present execution started
    start_by: float = NEVER  # monotonic; an engine that has not started it by then will not
    healthy_at: float = NEVER  # monotonic; when the present revision counts as a good one
    switch_at: float = NEVER  # monotonic; when this peer's wave of an update comes
    switch_to: Revision | None = None
    waiting: str = ""  # why it does not start just now
    passing: bool = True  # its checks, if it has any
    sick: str = ""  # why it is restarted although it ran
    ports: tuple[tuple[str, int], ...] = ()  # of this device that lead to it
    doing: str = ""  # what takes long before it starts
    parked: bool = False  # it is not to run, or not known to be

    def execution(self, me: PeerId) -> ExecutionId:
        """The id of the latest start."""
        return execution_id(self.now.revision, 0, 0, me, self.attempt)

    @property
    def active(self) -> bool:
        return self.state not in ENDED

    def park(self) -> None:
        """Nothing of it is due until it is wanted (again)."""
        self.parked, self.next_at, self.waiting = True, NEVER, ""

    def row(self) -> Row:
        before = b"" if self.before is None else self.before.data
        value = [
            self.now.data,
            before,
            self.refused or "",
            self.attempt,
            self.restarts,
            self.state.value,
            self.stopping,
            self.started_ms,
            [list(ended) for ended in self.past],
        ]
        return ("daemon", self.job, dumps(value))

    @classmethod
    def restore(cls, key: str, value: bytes, keyring: Keyring) -> Daemon:
        """Rebuild from its row. Raises RemoteProtocolError or ValueError for a foreign row."""
        now, before, refused, attempt, restarts, state, stopping, started, past = load_row(
            value,
            tuple[bytes, bytes, str, int, int, str, str, int, tuple[Ended, ...]],
            3 * RECORD_BYTES_MAX,
        )
        return cls(
            JobId(key),
            Running.of(open_sealed(now, keyring)),
            _before(before, keyring) if before else None,
            Revision(refused) if refused else None,
            attempt,
            restarts,
            State(state),
            stopping,
            started,
            past,
        )


def _before(data: bytes, keyring: Keyring) -> Running | None:
    """What it would go back to; where this version refuses that, it goes back to nothing."""
    try:
        return Running.of(open_sealed(data, keyring))
    except (RemoteProtocolError, ValueError):
        return None


def environment(daemon: Daemon, me: PeerId) -> dict[str, str]:
    """What its task sees (DESIGN 9): a daemon is one of one on each peer."""
    own = {
        "SHOAL_JOB_ID": daemon.job,
        "SHOAL_EXECUTION_ID": daemon.execution(me),
        "SHOAL_PEER_ID": me,
        "SHOAL_PARTITION_INDEX": "0",
        "SHOAL_PARTITION_COUNT": "1",
        "SHOAL_TERM": "0",
        "SHOAL_ATTEMPT": str(daemon.attempt),
    }
    return with_twins(own, daemon.now.spec.type)
