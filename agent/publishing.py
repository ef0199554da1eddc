"""Publishing: results that are brought to a bucket once they are packed, and kept here as well.

The archive of an execution is what is published, as one object or file by file. Where to is fixed
on disk before the first byte leaves, so that whoever goes on after a crash writes the same objects.
"""

from __future__ import annotations

import logging
import math
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom
from typing import Any, Final, cast

import msgspec
import trio

from agent.archives import ArchiveError, Archives
from agent.engines.directories import Directories
from agent.engines.engine import Engines
from agent.packing import Packed
from agent.results import PACKED, QUOTA_BYTES
from agent.s3 import S3, BucketError
from agent.threads import abandonable
from protocol.effects import StartTask
from protocol.ids import ExecutionId, PeerId
from protocol.s3 import PLAIN, S3Target
from protocol.tree import Node

WANTED: Final = "publish"  # notes beside an execution: where to,
PUBLISHED: Final = "published"  # and what came of it
PUBLISH_S: Final = 900.0  # a router that starts anew, a server that is updated; and besides
SLOW_BYTES_S: Final = 300_000  # what is sent in a second at least
GIVEN_UP_S: Final = 60.0  # after that a thread that hangs in the network is left behind
PAUSE_S: Final = 1.0  # before the next try, doubling
PAUSE_MAX_S: Final = 60.0
AT_ONCE_MAX: Final = 2  # a device's link has one width
# That wait; then no more work is taken that adds to it. Half of what all results may have: what
# runs already may leave as much again.
WAITING_BYTES_MAX: Final = QUOTA_BYTES // 2
_log = logging.getLogger("shoal.publishing")


class Published(msgspec.Struct, frozen=True):
    """Where the results are now, or why they are not there; neither where nothing was wanted."""

    url: str = ""
    problem: str = ""


class _Wanted(msgspec.Struct, frozen=True):
    """A place as in a job file, and the key in it, once that is fixed."""

    params: dict[str, Any]
    job: str
    key: str = ""

    @property
    def target(self) -> S3Target:
        return S3Target.read(Node(self.params))


class Publishing:
    """Nothing that goes wrong raises here but OSError of the device's own disk."""

    def __init__(
        self, engines: Engines, store: Archives, s3: S3, me: PeerId, wall: Callable[[], float]
    ) -> None:
        """`store` has the archives; `wall` gives Unix time in seconds."""
        self._engines = engines
        self._store = store
        self._s3 = s3
        self._me = me
        self._wall = wall
        self._slots = trio.Semaphore(AT_ONCE_MAX)
        self._random = SystemRandom()
        self._sizes: dict[ExecutionId, int] = {}  # of what waits, in bytes
        self._unwanted: set[ExecutionId] = set()  # started in this life; saves looking for the note
        self.on_backlog: Callable[[], None] = lambda: None  # there is one now, or none any more

    @property
    def backlog(self) -> str:
        """Why no more work is taken that is published; empty where nothing is against it."""
        total = sum(self._sizes.values())
        return f"{total >> 20} MiB wait for their bucket" if total > WAITING_BYTES_MAX else ""

    async def want(self, directories: Directories, task: StartTask) -> None:
        """Note before the start where its results go, whichever life sees its end."""
        target = task.spec.task.publisher.s3
        if target is not None:
            wanted = _Wanted(cast("dict[str, Any]", target.to_plain()), task.job)
            await directories.write_note(task.execution, WANTED, msgspec.json.encode(wanted))
        else:
            self._unwanted.add(task.execution)

    def forget(self, execution: ExecutionId) -> None:
        """It has ended, and was told so."""
        self._unwanted.discard(execution)

    async def known(self, execution: ExecutionId) -> Published | None:
        """What came of it, or an empty one where nothing was wanted; None: not yet known."""
        directories = self._engines.of(execution).directories
        if execution in self._unwanted or await directories.read_note(execution, WANTED) is None:
            return Published()
        note = await directories.read_note(execution, PUBLISHED)
        try:
            return None if note is None else msgspec.json.decode(note, type=Published)
        except msgspec.MsgspecError:  # zeroes after a power cut
            return None

    async def publish(self, execution: ExecutionId, packed: Packed) -> Published:
        """Bring it there, however often that takes within its time; what came of it is noted."""
        if not packed.digest:
            problem = f"there is nothing to publish: {packed.note}" if packed.lost else ""
            return await self.settle(execution, Published(problem=problem))
        try:
            wanted = await self._resolved(execution)
        except (ValueError, msgspec.MsgspecError):
            problem = "where its results are to be published is unreadable: the device lost power"
            return await self.settle(execution, Published(problem=problem))
        target = wanted.target
        url = f"s3://{target.place.bucket}/{wanted.key}"
        with self._counted(execution, packed):
            problem = await self._bring(target, wanted.key, packed)
        if problem:
            problem = f"its results could not be published: {problem}"
            _log.warning("%s: %s", execution, problem)
        return await self.settle(execution, Published("" if problem else url, problem))

    @contextmanager
    def _counted(self, execution: ExecutionId, packed: Packed) -> Iterator[None]:
        before, self._sizes[execution] = self.backlog, packed.size_bytes
        try:
            if bool(before) != bool(self.backlog):
                self.on_backlog()
            yield
        finally:
            before = self.backlog
            del self._sizes[execution]
            if bool(before) != bool(self.backlog):
                self.on_backlog()

    async def settle(self, execution: ExecutionId, published: Published) -> Published:
        """Note what came of it: it is not tried again."""
        directories = self._engines.of(execution).directories
        try:
            await directories.write_note(execution, PUBLISHED, msgspec.json.encode(published))
        except OSError as error:  # it is published again should this agent end before it has told
            _log.warning("what became of publishing %s: %s", execution, error)
        return published

    async def _resolved(self, execution: ExecutionId) -> _Wanted:
        """With the key that it has for good."""
        directories = self._engines.of(execution).directories
        note = await directories.read_note(execution, WANTED) or b""
        wanted = msgspec.json.decode(note, type=_Wanted)
        if wanted.key:
            return wanted
        now = time.gmtime(self._wall())
        values = {
            "{executionID}": str(execution),
            "{jobID}": wanted.job,
            "{nodeID}": str(self._me),
            "{date}": time.strftime("%Y%m%d", now),
            "{time}": time.strftime("%H%M%S", now),
        }
        wanted = msgspec.structs.replace(wanted, key=wanted.target.resolved(values))
        await directories.write_note(execution, WANTED, msgspec.json.encode(wanted))
        return wanted

    async def _bring(self, target: S3Target, key: str, packed: Packed) -> str:
        """Empty once it is there; else why it is not. Its time begins with its first try: others
        may have the slots for all of theirs before."""
        sent: set[str] = set()  # keys of files that are there, for the next try
        problem, end, pause_s = "", math.inf, PAUSE_S
        while True:
            async with self._slots:
                now = trio.current_time()
                if now >= end:  # while it waited for its slot again
                    return problem
                end = min(end, now + PUBLISH_S + packed.size_bytes / SLOW_BYTES_S)
                problem, passing = await self._try(target, key, packed, sent, end)
            pause = pause_s * self._random.uniform(0.5, 1.0)
            if not passing or trio.current_time() + pause >= end:
                return problem
            await trio.sleep(pause)
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    async def _try(
        self, target: S3Target, key: str, packed: Packed, sent: set[str], end: float
    ) -> tuple[str, bool]:
        """What went wrong, empty where nothing did, and whether another try may help."""
        given_up = threading.Event()
        until = time.monotonic() + max(0.0, end - trio.current_time())

        def go_on() -> None:
            if given_up.is_set() or time.monotonic() > until:
                raise ArchiveError(f"s3://{target.place.bucket}/{key} took too long")

        def upload() -> None:
            _upload(self._s3, target, key, self._store.path(packed.digest), sent, go_on)

        try:
            with trio.fail_at(end + GIVEN_UP_S):
                await abandonable(upload)
        except BucketError as error:
            return str(error), error.passing
        except FileNotFoundError:
            return "its files are no longer here", False
        except (ArchiveError, OSError, tarfile.TarError, EOFError) as error:
            return str(error), False
        except trio.TooSlowError:
            return f"s3://{target.place.bucket}/{key} took too long", False
        finally:
            given_up.set()
        return "", False


def waiting(engines: Engines) -> frozenset[str]:
    """Archives, by digest, that this life or the next has yet to publish. Blocks."""
    found: dict[str, None] = {}
    for directory in (each for some in engines.directories for each in some.all()):
        # One that is removed just now, or whose note a power cut left half.
        with suppress(OSError, msgspec.MsgspecError):
            if directory.read_note(WANTED) is None or directory.read_note(PUBLISHED) is not None:
                continue
            if (note := directory.read_note(PACKED)) is not None:
                found[msgspec.json.decode(note, type=Packed).digest] = None
    return frozenset(found)


def _upload(
    s3: S3, target: S3Target, key: str, archive: Path, sent: set[str], go_on: Callable[[], None]
) -> None:
    """Blocks; nothing of it is in memory but one part."""
    bucket = s3.open(target.place, go_on)
    if target.encoding != PLAIN:
        with archive.open("rb") as file:
            bucket.write(key, file, archive.stat().st_size)
        return
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            go_on()
            name = key + member.name
            if member.isreg() and name not in sent:
                content = tar.extractfile(member)
                assert content is not None, member.name
                bucket.write(name, cast("Any", content), member.size)
                sent.add(name)
