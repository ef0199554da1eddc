"""Results: the files that tasks leave, packed and kept where they ran, and read from anywhere."""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final

import msgspec
import trio

from agent.archives import CHUNK_BYTES, ArchiveError, Archives, Dialler
from agent.engines.process import ProcessEngine
from agent.packing import Packed, pack
from protocol.errors import ShoalError
from protocol.ids import ExecutionId, PeerId
from protocol.messages import ArchiveAnswer, ArchiveRequest
from protocol.task import ResultPath
from protocol.wire import decode_as, encode_message

RESULT_BYTES_MAX: Final = 1024**3  # of one execution's files, unpacked
QUOTA_BYTES: Final = 2 * 1024**3  # of all archives; the longest unused go first
WANTED: Final = "results"  # notes beside an execution: what is to be packed,
PACKED: Final = "packed"  # and what came of it
PACKERS_MAX: Final = 1  # at a time: it is the card's or the processor's whole width anyhow
TRIES_MAX: Final = 5  # to go on with a transfer that broke off
PAUSE_S: Final = 0.3  # before the next, doubling
_log = logging.getLogger("shoal.results")


class Results:
    """The result files of this device's executions, and the way to those of others."""

    def __init__(self, store: Archives, engine: ProcessEngine, dial: Dialler, me: PeerId) -> None:
        self._store = store
        self._engine = engine
        self._dial = dial
        self._me = me
        self._limiter = trio.CapacityLimiter(PACKERS_MAX)

    # ---- here --------------------------------------------------------------------------------

    async def want(self, execution: ExecutionId, paths: tuple[ResultPath, ...]) -> None:
        """Note before the start what is to be packed at the end, whichever life sees it."""
        if paths:
            pairs = [(path.name, path.path) for path in paths]
            await self._engine.write_note(execution, WANTED, msgspec.json.encode(pairs))

    async def kept(self, execution: ExecutionId) -> Packed | None:
        """What was packed of it, or an empty one where nothing was wanted; None: not yet known."""
        if await self._engine.read_note(execution, WANTED) is None:
            return Packed()
        note = await self._engine.read_note(execution, PACKED)
        try:
            return None if note is None else msgspec.json.decode(note, type=Packed)
        except msgspec.MsgspecError:  # zeroes after a power cut
            return None

    async def keep(self, execution: ExecutionId) -> Packed:
        """Pack what it left, once; the answer is the same ever after."""
        known = await self.kept(execution)
        if known is not None:
            return known
        try:
            packed = await self._pack(execution)
        except (OSError, ShoalError) as error:
            full = isinstance(error, OSError) and error.errno == errno.ENOSPC
            why = "the disk is full" if full else str(error)
            _log.warning("the result files of %s are not kept: %s", execution, error)
            return Packed(note=f"the result files could not be kept: {why}")
        await self._engine.write_note(execution, PACKED, msgspec.json.encode(packed))
        return packed

    async def _pack(self, execution: ExecutionId) -> Packed:
        wanted = await self._engine.read_note(execution, WANTED) or b"[]"
        try:
            pairs = msgspec.json.decode(wanted, type=list[tuple[str, str]])
        except msgspec.MsgspecError:
            return Packed(note="what was to be kept is unreadable: the device lost power")
        work = await self._engine.prepare(execution)
        partial = self._store.partial()
        owner = self._engine.user.uid if self._engine.user is not None else None

        def work_off() -> Packed:
            packed = pack(work, pairs, partial, RESULT_BYTES_MAX, owner)
            if packed.digest:
                self._store.adopt(partial, packed.digest)
            return packed

        return await trio.to_thread.run_sync(work_off, limiter=self._limiter)

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
            raise ArchiveError("its result files are no longer here: they are kept for a week")
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

    async def _from(self, peer: PeerId, digest: str, offset: int) -> AsyncGenerator[bytes, None]:
        stream = await self._dial(peer)
        try:
            await stream.write_frame(encode_message(ArchiveRequest(digest, offset)))
            answer = decode_as(await stream.read_frame(), ArchiveAnswer)
            if answer.error:
                raise ArchiveError(f"the peer that ran it says that it {answer.error}")
            left = answer.size - offset
            while left > 0:
                chunk = await stream.receive_some(min(left, CHUNK_BYTES))
                if not chunk:
                    raise EOFError("it broke off")
                left -= len(chunk)
                yield chunk
        finally:
            await stream.aclose()
