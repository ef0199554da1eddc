"""The store: what the node and the invites keep on disk, through one writer thread.

The writer commits whenever it is free, and whatever was queued meanwhile shares the commit; nobody
waits for company. Order is kept. After a failure every waiter hears of it, and so does everybody
who comes later, until `reload`: the state that they built on is not on the disk.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import outcome
import trio

from agent.datalock import LOCK_FILE, DataLock
from agent.eventlog import UNSAVED_MAX, Event, EventLog
from agent.storefile import StoreFile
from agent.storesql import Change, InviteWrite, Rows, RowWrite, StoreFailed
from agent.threads import in_thread
from protocol.effects import BUCKETS

if TYPE_CHECKING:
    from protocol.effects import Tell

QUEUED_MAX: Final = 256  # changes that the writer may find; further ones wait behind them in order
CLOSE_S: Final = 30.0  # for the disk to take the rest; a dead one must not hold up a shutdown

_BUCKETS: Final = frozenset(BUCKETS)
_Task = Callable[[], None]  # runs in the writer between two commits
T = TypeVar("T")


class Pending:
    """A change on its way to the disk."""

    __slots__ = ("_done", "_error", "change", "token")

    def __init__(self, change: Change, token: trio.lowlevel.TrioToken) -> None:
        self.change = change
        self.token = token
        self._done = trio.Event()
        self._error: StoreFailed | None = None

    @property
    def durable(self) -> bool:
        return self._done.is_set() and self._error is None

    async def wait(self) -> None:
        """Return when it is durable. Raises StoreFailed. Cancelling does not undo the write."""
        await self._done.wait()
        if self._error is not None:
            raise StoreFailed(str(self._error)) from self._error

    def finish(self, error: StoreFailed | None) -> None:
        """Called in the loop, once."""
        self._error = error
        self._done.set()


class Store:
    """One data directory's database, held by one agent. Its methods belong to the loop's thread."""

    def __init__(self, data_dir: Path, lock: DataLock, file: StoreFile) -> None:
        """Use `open`."""
        self.data_dir = data_dir
        self.log = EventLog(file.load_events())
        self._lock = lock
        self._file = file
        self._broken: StoreFailed | None = None  # as the loop knows it
        self._failed: StoreFailed | None = None  # as the writer knows it, a moment earlier
        self._closed = False
        # The disk is full from now on; what a reload or a refill finds, their callers see.
        self.on_full: Callable[[], None] = lambda: None
        self._full = False  # as was told
        self._queue: queue.SimpleQueue[Pending | _Task | None] = queue.SimpleQueue()
        self._queued = 0  # Pendings in `_queue` or being committed
        self._backlog: deque[Pending] = deque()
        self._flushing = False
        self._commits_before = self._checkpoints_before = 0  # of files that a reload closed
        self._writer = threading.Thread(target=self._write, name="shoal-store", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, data_dir: Path) -> Store:
        """Lock the directory and open its database; blocks for the integrity check.

        Raises DataLocked and StoreFailed.
        """
        # Where there is a lock there was a database: is it gone?
        seen_before = os.path.exists(data_dir / LOCK_FILE)  # unlike Path's, this never raises
        lock = DataLock(data_dir)
        try:
            return cls(data_dir, lock, StoreFile(data_dir, seen_before=seen_before))
        except BaseException:
            lock.release()
            raise

    # ---- reading, at the start -------------------------------------------------------------------

    @property
    def was_corrupt(self) -> str:
        """The name that a corrupt database was set aside under, "missing" where it was gone.

        Empty where all is well. The row ("meta", "lost_database") says the same and stays.
        """
        return self._file.aside

    def load(self) -> Rows:
        """Every row by bucket and key, before the first `save`. Raises StoreFailed."""
        return self._file.load()

    def load_invites(self) -> dict[tuple[str, str], bytes]:
        """Rows of the invites by invite id and peer id, before the first save of one.

        Raises StoreFailed.
        """
        return self._file.load_invites()

    # ---- writing ---------------------------------------------------------------------------------

    def enqueue(self, rows: Sequence[RowWrite]) -> Pending | None:
        """Put `rows` in line now, as one transaction; None while the queue is full.

        For a caller that goes on meanwhile and waits later. Raises StoreFailed.
        """
        self._require_usable()
        if self._queued >= QUEUED_MAX:
            return None
        return self._put(Change(rows=_checked(rows)))

    async def save(self, rows: Sequence[RowWrite]) -> None:
        """Write `rows` in one transaction and return when it is durable; None deletes.

        Its place in line is that of the call. Raises StoreFailed.
        """
        self._require_usable()
        await self._put(Change(rows=_checked(rows))).wait()

    async def save_invites(self, invites: Sequence[InviteWrite]) -> None:
        """Like `save`, for the invites' own table. Raises StoreFailed."""
        self._require_usable()
        await self._put(Change(invites=tuple(invites))).wait()

    def tell(self, tell: Tell, wall_ms: int) -> Event:
        """Log an event; it reaches the disk with the next commit, and costs none of its own."""
        event = self.log.append(tell, wall_ms)
        usable = self._broken is None and not self._closed
        if self.log.unsaved >= UNSAVED_MAX and usable and not self._flushing:
            self._flushing = True
            self._queue.put(self._flush)
        return event

    async def reload(self) -> Rows:
        """Open the database anew, after a failure, and read it. Raises StoreFailed."""
        rows = await self._in_writer(self._reopen)
        self._broken, self._full = None, self.disk_full
        return rows

    async def refill_reserve(self) -> bool:
        """Set the reserve aside again if the disk has room by now. Raises StoreFailed."""
        refilled = await self._in_writer(self._refill)
        self._full = self.disk_full  # should it be full again before the next commit
        return refilled

    async def aclose(self) -> None:
        """Write what is queued and the rest of the events, and give the directory free."""
        if self._stop():
            with trio.CancelScope(shield=True):  # bounded by CLOSE_S
                await in_thread(self._release)

    def close(self) -> None:
        """`aclose` for who is in no loop; harmless when repeated."""
        if self._stop():
            self._release()

    # ---- counters --------------------------------------------------------------------------------

    @property
    def disk_full(self) -> bool:
        """The reserve is given up or could not be set aside: take no new work."""
        return self._file.disk_full

    @property
    def commits(self) -> int:
        return self._commits_before + self._file.commits

    @property
    def fsyncs(self) -> int:
        """One a commit; a checkpoint syncs the WAL, the database, and the WAL's new header."""
        return self.commits + 3 * (self._checkpoints_before + self._file.checkpoints)

    @property
    def bytes_written(self) -> int:
        """By the writer thread since it started, as the kernel counts; 0 where it does not."""
        try:
            text = Path(f"/proc/self/task/{self._writer.native_id}/io").read_text("ascii")
        except OSError:
            return 0
        return int(text.partition("wchar: ")[2].partition("\n")[0] or 0)

    # ---- in the loop -----------------------------------------------------------------------------

    def _require_usable(self) -> None:
        if self._closed:
            raise StoreFailed(f"the store in {self.data_dir} is closed")
        if self._broken is not None:
            raise StoreFailed(str(self._broken)) from self._broken

    def _put(self, change: Change) -> Pending:
        pending = Pending(change, trio.lowlevel.current_trio_token())
        self._backlog.append(pending)
        self._pump()
        return pending

    def _pump(self) -> None:
        """Hand on from the backlog what the queue has room for."""
        while self._backlog and self._queued < QUEUED_MAX:
            self._queued += 1
            self._queue.put(self._backlog.popleft())

    def _finish(self, batch: Sequence[Pending], error: StoreFailed | None) -> None:
        if error is not None:
            self._broken = error
            while self._backlog:  # they built on what is not on the disk
                self._backlog.popleft().finish(error)
        self._queued -= len(batch)
        for pending in batch:
            pending.finish(error)
        self._pump()
        before, self._full = self._full, self.disk_full
        if self._full and not before:
            self.on_full()

    def _stop(self) -> bool:
        """Send the writer home after what is queued; False where it was sent before."""
        if self._closed:
            return False
        self._closed = True
        while self._backlog:
            self._queue.put(self._backlog.popleft())
        self._queue.put(None)
        return True

    def _release(self) -> None:
        self._writer.join(CLOSE_S)
        self._lock.release()

    async def _in_writer(self, work: Callable[[], T]) -> T:
        """Run `work` in the writer thread, behind what is queued."""
        if self._closed:
            raise StoreFailed(f"the store in {self.data_dir} is closed")
        token, done = trio.lowlevel.current_trio_token(), trio.Event()
        results: list[outcome.Outcome[T]] = []

        def task() -> None:
            results.append(outcome.capture(work))
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        self._queue.put(task)
        await done.wait()
        return results[0].unwrap()

    # ---- in the writer thread --------------------------------------------------------------------

    def _write(self) -> None:
        """Commit what is queued, over and over, until the None that `close` puts there."""
        stopping = False
        while not stopping:
            item = self._queue.get()
            batch: list[Pending] = []
            while isinstance(item, Pending):
                batch.append(item)
                try:
                    item = self._queue.get_nowait() if len(batch) < QUEUED_MAX else _nothing
                except queue.Empty:
                    item = _nothing
            if batch:
                self._commit(batch)
            if item is None:
                self._flush()
                stopping = True
            elif not isinstance(item, Pending):
                item()
        self._file.close()

    def _commit(self, batch: Sequence[Pending]) -> None:
        if self._failed is None:
            self._failed = self._try_commit([pending.change for pending in batch])
        with contextlib.suppress(trio.RunFinishedError):
            batch[0].token.run_sync_soon(self._finish, batch, self._failed)
        if self._failed is None:
            self._file.checkpoint_if_due()

    def _try_commit(self, changes: Sequence[Change]) -> StoreFailed | None:
        try:
            self._file.commit(changes, self.log.take_unsaved())
        except StoreFailed as error:
            return error
        except Exception as error:  # our own bug: but a dead writer would leave its callers waiting
            return StoreFailed(f"the store could not write: {error!r}")
        return None

    def _flush(self) -> None:
        """Commit events alone: too many have gathered, or the store closes."""
        self._flushing = False
        if self.log.unsaved and self._failed is None:
            self._try_commit([])  # nobody waits; what fails here fails again at the next save

    def _refill(self) -> bool:
        return self._file.refill_reserve()  # of whichever file it is when the turn comes

    def _reopen(self) -> Rows:
        self._commits_before += self._file.commits
        self._checkpoints_before += self._file.checkpoints
        self._file.commits = self._file.checkpoints = 0
        self._file.close()
        file = StoreFile(self.data_dir, seen_before=True)
        rows = file.load()
        self._file, self._failed = file, None
        return rows


def _nothing() -> None:
    """In place of a task where the queue is empty."""


def _checked(rows: Sequence[RowWrite]) -> tuple[RowWrite, ...]:
    """Our own bugs show at the caller, not in the writer. Raises AssertionError."""
    for bucket, key, value in rows:
        assert bucket in _BUCKETS, f"no such bucket: {bucket!r}"
        assert isinstance(key, str), f"a key is text: {key!r}"
        assert value is None or isinstance(value, bytes), f"a value is bytes: {value!r}"
    return tuple(rows)
