"""Results: the files that tasks leave, packed and kept where they ran, and read from anywhere."""

from __future__ import annotations

import errno
import logging
import shutil
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import msgspec
import trio

from agent.archives import CHUNK_BYTES, NOT_HERE, ArchiveError, Archives, Dialler
from agent.engines.directories import Directories
from agent.engines.engine import Engines
from agent.packing import Packed, TooMuch, pack
from agent.threads import in_thread
from protocol.bounds import INT_MAX
from protocol.errors import ShoalError
from protocol.ids import ExecutionId, PeerId
from protocol.messages import ArchiveAnswer, ArchiveRequest
from protocol.task import ResultPath
from protocol.wire import decode_as, encode_message

RESULT_BYTES_MAX: Final = 1024**3  # of one execution's files, unpacked
ARCHIVE_BYTES_MAX: Final = RESULT_BYTES_MAX + (64 << 20)  # of files that do not shrink, with heads
QUOTA_BYTES: Final = 2 * 1024**3  # of all archives; the longest unused go first
WANTED: Final = "results"  # notes beside an execution: what is to be packed,
PACKED: Final = "packed"  # and what came of it
PACKERS_MAX: Final = 1  # at a time: it is the card's or the processor's whole width anyhow
FREE_BYTES_MIN: Final = 128 * 1024**2  # of the disk are left alone: the agent lives on it
PRUNE_S: Final = 3600.0
RESTARTED: Final = "the device restarted before they were packed: they may be incomplete"
TRIES_MAX: Final = 5  # to go on with a transfer that broke off
PAUSE_S: Final = 0.3  # before the next, doubling
LOOK_S: Final = 5.0  # whether a device still has an archive: whoever asks looks at a job meanwhile
WEEK: Final = f"kept for a week, the longest unused first to go over {QUOTA_BYTES >> 30} GiB"
GONE: Final = f"the result files are no longer on the device that ran it: {WEEK}"
_log = logging.getLogger("shoal.results")


class Results:
    """The result files of this device's executions, and the way to those of others."""

    def __init__(self, store: Archives, engines: Engines, dial: Dialler, me: PeerId) -> None:
        self._store = store
        self._engines = engines
        self._dial = dial
        self._me = me
        self._limiter = trio.CapacityLimiter(PACKERS_MAX)
        # Started in this life, with nothing to keep: most, so nobody need look on the disk.
        self._unwanted: set[ExecutionId] = set()

    async def run(self) -> None:
        """Delete what is too old, as long as it is not cancelled."""
        while True:
            await trio.sleep(PRUNE_S)
            try:
                await in_thread(self._store.prune, limiter=self._limiter)
            except OSError as error:
                _log.warning("results that are too old: %s", error)

    # ---- here --------------------------------------------------------------------------------

    async def want(
        self, directories: Directories, execution: ExecutionId, paths: tuple[ResultPath, ...]
    ) -> None:
        """Note before the start what is to be packed at the end, whichever life sees it."""
        if paths:
            pairs = [(path.name, path.path) for path in paths]
            await directories.write_note(execution, WANTED, msgspec.json.encode(pairs))
        else:
            self._unwanted.add(execution)

    def forget(self, execution: ExecutionId) -> None:
        """It has ended, and was told so."""
        self._unwanted.discard(execution)

    async def kept(self, execution: ExecutionId) -> Packed | None:
        """What was packed of it, or an empty one where nothing was wanted; None: not yet known."""
        directories = self._engines.of(execution).directories
        if execution in self._unwanted or await directories.read_note(execution, WANTED) is None:
            return Packed()
        note = await directories.read_note(execution, PACKED)
        try:
            return None if note is None else msgspec.json.decode(note, type=Packed)
        except msgspec.MsgspecError:  # zeroes after a power cut
            return None

    async def keep(self, execution: ExecutionId) -> Packed:
        """Pack what it left, once; the answer is the same ever after, and no failure."""
        try:
            known = await self.kept(execution)
            if known is not None:
                return known
            return await self._pack(execution)
        except (OSError, ValueError) as error:
            return await self._note(execution, _failed(error))

    async def _note(self, execution: ExecutionId, packed: Packed) -> Packed:
        try:
            directories = self._engines.of(execution).directories
            await directories.write_note(execution, PACKED, msgspec.json.encode(packed))
        except OSError as error:  # it is packed again should this agent end before it has told
            _log.warning("what became of the result files of %s: %s", execution, error)
        return packed

    async def _pack(self, execution: ExecutionId) -> Packed:
        engine = self._engines.of(execution)
        wanted = await engine.directories.read_note(execution, WANTED) or b"[]"
        try:
            pairs = msgspec.json.decode(wanted, type=list[tuple[str, str]])
        except msgspec.MsgspecError:
            note = "what was to be kept is unreadable: the device lost power"
            return await self._note(execution, Packed(note=note, lost=True))
        work = await engine.collect(execution, [path for _, path in pairs])
        owner = engine.directories.owner
        restarted = not await engine.of_this_boot(execution)
        given_up = threading.Event()

        def work_off() -> Packed:
            try:
                self._store.prune()
                go_on()
                partial = self._store.partial()
                packed = pack(work, pairs, partial, RESULT_BYTES_MAX, owner, go_on)
                if packed.digest:
                    self._store.adopt(partial, packed.digest)
                    self._store.prune(packed.digest)
                return packed
            except TooMuch as error:
                return Packed(note=str(error), lost=True)
            except OSError as error:
                return _failed(error)

        def go_on() -> None:
            if given_up.is_set():
                raise TooMuch("the agent ends")
            if shutil.disk_usage(self._store.directory).free < FREE_BYTES_MIN:
                limit = FREE_BYTES_MIN >> 20
                raise TooMuch(f"less than {limit} MiB of disk are free: no result files are kept")

        # Until it is noted whose archive that is, the next packer does not look for what may go.
        async with self._limiter:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_set_when_cancelled, given_up)  # threads hear of it so
                packed = await in_thread(work_off)
                nursery.cancel_scope.cancel()
            if restarted and packed.digest:
                # The kernel writes a task's files to disk when it likes.
                packed = replace(packed, note=_both(RESTARTED, packed.note))
            return await self._note(execution, packed)

    # ---- anywhere ----------------------------------------------------------------------------

    async def read(
        self,
        digest: str,
        offset: int,
        peer: PeerId,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Hand an archive on from `offset`, from here or the peer that has it; a transfer that
        breaks off goes on from there. Raises ArchiveError, and ShoalError where it cannot be had.
        """
        if self._store.holds(digest):
            async with aclosing(self._store.read(digest, offset)) as chunks:
                async for chunk in chunks:
                    await write(chunk)
            return
        if peer == self._me:
            raise ArchiveError(GONE)
        failure: Exception = ArchiveError("the peer that ran it cannot be reached")
        for attempt in range(TRIES_MAX):
            if attempt:
                await trio.sleep(PAUSE_S * 2**attempt)
            try:
                async with aclosing(self._from(peer, digest, offset)) as chunks:
                    async for chunk in chunks:
                        await write(chunk)
                        offset += len(chunk)
                return
            except ArchiveError:
                raise
            except (ShoalError, EOFError, OSError) as error:
                failure = error
        raise ArchiveError(f"the peer that ran it cannot be reached: {failure}")

    async def missing(self, digest: str, peer: PeerId) -> str:
        """Why an archive cannot be read just now, in a sentence for people; empty where it can.
        Who asks has both from a view, which is a peer's word."""
        try:
            if self._store.holds(digest):
                return ""
        except ArchiveError as error:
            return str(error)
        if peer == self._me:
            return GONE
        try:
            with trio.fail_after(LOOK_S):
                stream = await self._dial(peer)
                try:  # of what lies behind its end nothing comes
                    await stream.write_frame(encode_message(ArchiveRequest(digest, INT_MAX)))
                    answer = decode_as(await stream.read_frame(), ArchiveAnswer)
                finally:
                    await stream.aclose()
        except (ShoalError, EOFError, OSError, trio.TooSlowError):
            return "the device that ran it cannot be reached just now"
        return _refused(answer) if answer.error else ""

    async def _from(self, peer: PeerId, digest: str, offset: int) -> AsyncGenerator[bytes, None]:
        stream = await self._dial(peer)
        try:
            await stream.write_frame(encode_message(ArchiveRequest(digest, offset)))
            answer = decode_as(await stream.read_frame(), ArchiveAnswer)
            if answer.error:
                raise ArchiveError(_refused(answer))
            left = answer.size - offset
            while left > 0:
                chunk = await stream.receive_some(min(left, CHUNK_BYTES))
                if not chunk:
                    raise EOFError("it broke off")
                left -= len(chunk)
                yield chunk
        finally:
            await stream.aclose()


async def _set_when_cancelled(event: threading.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        event.set()


def _refused(answer: ArchiveAnswer) -> str:
    if answer.error == NOT_HERE:
        return GONE
    return f"the peer that ran it says that it {answer.error}"


def _failed(error: Exception) -> Packed:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    why = "the disk is full" if full else str(error)
    _log.warning("result files are not kept: %s", error)
    return Packed(note=f"the result files could not be kept: {why}", lost=True)


def _both(one: str, other: str) -> str:
    return f"{one}; {other}" if other else one
