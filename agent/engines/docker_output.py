"""Output of containers that docker has: read, followed, and kept before the container goes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from agent.engines.directories import Directories
from agent.engines.docker_client import EngineFailed, NotAnswering, NotAsked, NotThere
from agent.engines.docker_flood import POLL_S, Flooded, Flow, Readings, flood_of, pieces, size_of
from agent.engines.docker_held import Held
from agent.engines.docker_link import AGAIN_S, DockerLink
from agent.engines.docker_live import READERS_MAX, check_place, live
from agent.engines.docker_log import (
    Places,
    before_last,
    chunks,
    has_dropped,
    keep_logs,
    second_of,
)
from agent.engines.docker_repeats import Repeats, tells_lines_apart
from agent.engines.engine import Crowded
from agent.engines.task_log import STREAMS, LogChunk, Stream
from agent.threads import abandonable

KNOWN_BYTES_MAX: Final = 64 << 10  # of an execution, held from its end until it is kept


class DockerOutput:
    """Of what is held. Raises KeyError for what is not."""

    def __init__(
        self, directories: Directories, link: DockerLink, held: Mapping[str, Held]
    ) -> None:
        """`held`: by id; whoever starts executions and removes them changes it."""
        self._directories = directories
        self._link = link
        self._held = held
        self.readers = trio.CapacityLimiter(READERS_MAX)  # of those who follow

    async def last_lines(
        self, execution_id: str, count: int, found: dict[Stream, Iterable[bytes]]
    ) -> None:
        """Into `found`, as it comes. Where that is all, it is remembered for when the container
        goes: a question to docker is as much work for a small device as most of the agent's own."""
        held, client = self._held[execution_id], await self._link.client()
        over = held.told

        async def ask(streams: Sequence[Stream], tail: int) -> bool:
            # Nobody who follows, for hours perhaps, keeps this waiting.
            work = partial(client.last_lines, execution_id, streams, tail, count)
            try:
                last, whole = await abandonable(work)
            except NotAnswering:
                self._link.doubt()
                raise
            found.update(last)
            size = sum(len(frame) for frames in last.values() for frame in frames)
            # So little of what docker keeps that it has dropped none.
            few = size <= min(KNOWN_BYTES_MAX, held.output_bytes // 4 or KNOWN_BYTES_MAX)
            if over and whole and few and streams == STREAMS and not held.clearing:
                held.output = last
            return whole

        if not await ask(STREAMS, count):
            for stream in STREAMS:  # docker has counted the lines of both
                if sum(1 for _ in found[stream]) < count:
                    await ask((stream,), -1)

    async def keep(
        self, execution_id: str, known: Mapping[Stream, Iterable[bytes]] | None = None
    ) -> None:
        """Beside its container, once. Raises EngineFailed."""
        held, directory = self._held[execution_id], self._directories.of(execution_id)
        if held.kept:
            return
        client, bytes_max = await self._link.client(), held.output_bytes
        lost = await self._link.ask(lambda: keep_logs(client, directory, known, bytes_max))
        held.lost_output, held.kept = lost or held.lost_output, True

    async def read(
        self,
        execution_id: str,
        stream: Stream,
        offset: int,
        lines: int,
        follow: bool,
        single: bool,
    ) -> AsyncGenerator[LogChunk, None]:
        """Until it is the directory's, or without `follow` to its end for now."""
        directory, gap, ended = self._directories.of(execution_id), False, False
        flood: Readings | None = None
        while not ended:
            held = self._held[execution_id]
            over = held.exit is not None
            follows = follow and not over and flood is None
            size, pause_s = 0, AGAIN_S
            if flood is not None:
                flood.begin()
            # Docker may end what is followed without the last lines where the container ends at
            # that moment, so once its end is known it is read once more, up to where it is now.
            try:
                if lines > 0:
                    offset = await self._before_last(execution_id, stream, lines, follow)
                    lines = -1
                gap = single and offset == 0 and await self._has_dropped(execution_id, follow)
                read = self._live(execution_id, stream, offset, lines, follows, single)
                async with aclosing(read) as found:
                    async for chunk in found:
                        came = trio.current_time()
                        yield replace(chunk, gap=True) if gap else chunk
                        offset, lines, gap = max(offset, chunk.end), -1, False
                        if flood is not None:
                            size += size_of(chunk.data)
                            flood.lent_s += trio.current_time() - came
            except Flooded:
                flood, pause_s = Readings(flood_of(held.log_bytes)), POLL_S
            except NotThere:
                if over or not follow:
                    raise
            except NotAsked as error:
                raise Crowded(f"that output cannot be read: {error}") from None
            except EngineFailed:
                if not follow:
                    raise
            else:
                if over or not follow:
                    break
                if flood is not None:
                    pause_s, flood = (0.0, None) if flood.calm(size) else (flood.pause_s(), flood)
            if over:  # docker is away
                await trio.sleep(AGAIN_S)
            with trio.move_on_after(pause_s):  # its end is about to be heard of
                await held.ended.wait()
            ended = directory.read_exit() is not None

    async def _has_dropped(self, execution_id: str, follow: bool) -> bool:
        """As by _before_last, all of the output is read for it."""
        limiter, client = self._limiter(follow), await self._link.client()
        return await abandonable(partial(has_dropped, client, execution_id), limiter)

    async def _before_last(
        self, execution_id: str, stream: Stream, lines: int, follow: bool
    ) -> int:
        """Docker's own tail counts the lines of both streams: mostly it has enough of this one, and
        else all of it is read. That may take long, and must keep nobody from a start or a stop; nor
        is it held in memory."""
        limiter, client = self._limiter(follow), await self._link.client()
        for tail in (2 * lines + 1, -1):
            frames, source = await self._link.ask(
                partial(client.log, execution_id, stream, 0, tail, False)
            )
            try:
                found = await abandonable(partial(before_last, frames, lines, tail > 0), limiter)
            finally:
                with contextlib.suppress(Exception):  # the socket under it may be gone
                    source.close()
            if found:
                break
        return found

    async def _live(
        self,
        execution_id: str,
        stream: Stream,
        offset: int,
        lines: int,
        follow: bool,
        single: bool,
    ) -> AsyncGenerator[LogChunk, None]:
        """To the end, or to where docker breaks off. Raises Flooded where it is followed."""
        limiter, since_s = self._limiter(follow), second_of(offset)
        log_bytes = self._held[execution_id].log_bytes
        client = await self._link.client()
        frames, source = await self._link.ask(
            lambda: client.log(execution_id, stream, since_s, lines, follow)
        )
        places = Places(lines >= 0, Repeats() if follow else None)
        flow = None
        if follow and client.dates_exactly and tells_lines_apart():
            flow = Flow(flood_of(log_bytes), offset)
        async with aclosing(live(frames, source, limiter, self._link.spawn)) as batches:
            began = trio.current_time()
            async for batch in batches:
                if flow is not None:
                    flow.waited(trio.current_time() - began)
                for piece in pieces(batch) if flow is not None else (batch,):
                    for chunk in chunks(piece, offset, places, single):
                        yield chunk
                        if flow is not None:
                            flow.came(size_of(chunk.data), chunk.end)
                began = trio.current_time()

    def _limiter(self, follow: bool) -> trio.CapacityLimiter:
        """For the thread that reads. Those who follow, for hours perhaps, keep nobody waiting who
        does not. Raises Crowded."""
        if not follow:
            return trio.CapacityLimiter(1)
        check_place(self.readers)
        return self.readers
