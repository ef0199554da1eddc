"""Logs: the output of executions, read here or at the peer that runs them."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, Self, cast

import trio

from agent.archives import ByteStream, Dialler
from agent.control.backend import FINAL_STATES, Lines, LogQuery, RequestError, View
from agent.engines.engine import Engines
from agent.shortfall import (
    BUSY_TEXT,
    GONE_TEXT,
    SLOW,
    Cause,
    Shortfall,
    cause_of,
    has_begun,
    of_broken_off,
    of_ended,
    of_replaced,
    of_running,
    remains_of,
    said,
)
from protocol.bounds import clipped
from protocol.errors import ShoalError
from protocol.ids import ExecutionId, PeerId
from protocol.messages import LogChunk, LogRequest
from protocol.wire import decode_as, encode_message

StreamName = Literal["stdout", "stderr"]
BOTH: Final[tuple[StreamName, StreamName]] = ("stdout", "stderr")
CHUNK_BYTES: Final = 32 * 1024
SLOW_S: Final = 5.0  # people begin to wonder; whoever refuses is given up before
LOOKS_MAX: Final = 30  # in vain, one after the other
LOOK_S: Final = 1.0  # between looks at a job that another peer coordinates
TRIES_MAX: Final = 4  # to reach an executor again, within a few seconds
STEADY_S: Final = 10.0  # what broke off after as long had been reached
SERVED_MAX: Final = 96  # followers of this device's executions
READ_MAX: Final = 16  # streams at a time of what is read, not followed; a peer takes 48 of us
BEAT_S: Final = 10.0  # a third of what a reader, or whoever relays, waits for the next word
_log = logging.getLogger("shoal.logs")


class Logs:
    """Serves this device's logs to members, and collects a job's from wherever it ran."""

    def __init__(self, engines: Engines, dial: Dialler, me: PeerId) -> None:
        self._engines = engines
        self._dial = dial
        self._me = me
        self._served = 0

    async def serve(self, stream: ByteStream) -> None:
        """Answer one LogRequest with chunks; a slow reader slows nobody but itself."""
        request = decode_as(await stream.read_frame(), LogRequest)
        if self._served >= SERVED_MAX or request.stream not in BOTH:
            await _fail(stream, BUSY_TEXT)
            return
        self._served += 1
        try:
            await self._serve(stream, request)
        except (KeyError, ValueError):
            await _fail(stream, GONE_TEXT)
        except OSError as error:  # docker is away, or the disk was full as it ended
            await _fail(stream, clipped(said(error)))
        finally:
            self._served -= 1
        await stream.aclose()

    async def _serve(self, stream: ByteStream, request: LogRequest) -> None:
        """Until its end, or until the reader goes: a task that says nothing would not show that."""
        failure: Exception | None = None
        served = _Served(stream, request.offset)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.until_left, nursery.cancel_scope)
            nursery.start_soon(served.beat)
            try:
                name = cast(StreamName, request.stream)
                await self._read_here(
                    request.execution, name, request.offset, request, served.write
                )
            except (KeyError, ValueError, OSError, ShoalError) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _read_here(
        self,
        execution: ExecutionId,
        stream: StreamName,
        offset: int,
        request: LogRequest,
        write: Callable[[LogChunk], Awaitable[None]],
    ) -> None:
        """Hand on what is there, and with `follow` what comes, until the execution's end.

        Raises KeyError for an unknown execution.
        """
        engine = self._engines.of(execution)
        if not engine.directories.has(execution):
            raise KeyError(execution)
        tail, since_ms = request.tail, request.since_ms
        read = engine.log(execution, stream, offset, tail, request.follow, since_ms)
        async with aclosing(read) as chunks:
            async for chunk in chunks:
                await write(LogChunk(chunk.offset, chunk.data, False))
                offset = chunk.next_offset
        await write(LogChunk(offset, b"", True))

    async def read(
        self,
        execution: ExecutionId,
        peer: PeerId,
        stream: StreamName,
        wanted: LogQuery,
        write: Callable[[LogChunk], Awaitable[None]],
        offset: int = 0,
        reached: Callable[[], None] = lambda: None,
    ) -> None:
        """One execution's stream from this device or another, from an offset that was given before;
        tries again from where it broke off, and gives up where that leads to nothing. `reached` is
        told once the device is.

        Raises ShoalError or KeyError when it cannot be had.
        """
        if peer == self._me:
            reached()
            request = _asked(execution, stream, offset, wanted)
            await self._read_here(execution, stream, offset, request, write)
            return
        failures = 0
        while failures < TRIES_MAX:
            if failures:
                await trio.sleep(0.3 * 2**failures)
            reached_at, before = math.inf, offset
            try:
                async with aclosing(await self._dial(peer)) as remote:
                    request = _asked(execution, stream, offset, wanted)
                    await remote.write_frame(encode_message(request))
                    reached_at = trio.current_time()
                    reached()
                    while True:
                        chunk = decode_as(await remote.read_frame(), LogChunk)
                        if chunk.error:
                            raise RequestError(404, chunk.error)
                        if chunk.data:
                            await write(chunk)
                            offset = chunk.offset + len(chunk.data)
                        if chunk.end:
                            return
            except (ShoalError, EOFError, OSError) as error:
                _log.debug("log of %s at %s: %r", execution, peer, error)
            # Earlier versions say nothing while the task does.
            silent = wanted.follow and trio.current_time() - reached_at > STEADY_S
            went_on = offset != before or silent
            failures = 1 if went_on else failures + 1
        raise ShoalError("the peer that ran it cannot be reached")


@dataclass(slots=True)
class _Served:
    """One reader elsewhere."""

    stream: ByteStream
    offset: int
    _turn: trio.Lock = field(default_factory=trio.Lock)

    async def write(self, chunk: LogChunk) -> None:
        async with self._turn:
            await self.stream.write_frame(encode_message(chunk))
            self.offset = chunk.offset + len(chunk.data)

    async def beat(self) -> None:
        """Say that there is nothing to say: to the reader and to whoever relays it, a stream that
        is silent for long is one that broke."""
        while True:
            await trio.sleep(BEAT_S)
            with suppress(ShoalError):  # whoever writes next hears of it
                await self.write(LogChunk(self.offset, b"", False))

    async def until_left(self, scope: trio.CancelScope) -> None:
        with suppress(ShoalError):
            while await self.stream.receive_some(timeout_s=math.inf):
                pass
        scope.cancel()


async def _fail(stream: ByteStream, error: str) -> None:
    await stream.write_frame(encode_message(LogChunk(0, b"", True, error)))


class JobLogs:
    """The output of a job's executions as lines for one reader, see backend.Backend.logs.

    Its work is done in `nursery`, which outlives it; `aclose` ends it.
    """

    def __init__(
        self,
        logs: Logs,
        look: Callable[[], Awaitable[View]],
        events: Lines,
        wanted: LogQuery,
        nursery: trio.Nursery,
    ) -> None:
        self._logs = logs
        self._look = look
        self._events = events
        self._wanted = wanted
        self._streams = BOTH if wanted.stream == "both" else (cast("StreamName", wanted.stream),)
        self._follow = wanted.follow
        self._turns = trio.CapacityLimiter(math.inf if wanted.follow else READ_MAX)
        self._scope = trio.CancelScope()
        self._send, self._receive = trio.open_memory_channel[View](0)  # the reader sets the pace
        self._seen: dict[str, View] = {}  # executions, as the latest look that has them shows them
        self._begun: set[str] = set()  # of those, what was ever seen to have
        self._present: set[str] = set()  # what the latest look shows: a slot may be placed again
        self._read: set[tuple[str, StreamName]] = set()
        self._given: dict[tuple[str, StreamName], int] = {}  # the offset behind what was given
        self._told: dict[tuple[str, StreamName], str] = {}  # what was told last, and still holds
        self._short: dict[tuple[str, StreamName], Exception] = {}  # what is to be asked again
        self._ended = False
        self._failure: RequestError | None = None
        nursery.start_soon(self._run)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> View:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if (failure := self._failure) is not None:
                self._failure = None
                raise failure from None
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        self._scope.cancel()
        await self._receive.aclose()

    async def _run(self) -> None:
        with self._scope:
            async with self._send:
                try:
                    async with trio.open_nursery() as nursery:
                        await self._watch(nursery)
                except* RequestError as group:  # nobody answers for the job any more
                    self._failure = _first(group)
                except* trio.BrokenResourceError as group:
                    _log.debug("logs end: %r", group.exceptions)
        with trio.CancelScope(shield=True):
            await self._events.aclose()

    async def _watch(self, nursery: trio.Nursery) -> None:
        """Begin with each execution as it becomes known, until the job has ended."""
        failed = 0
        while True:
            try:
                view = await self._look()
                failed = 0
            except RequestError:  # its coordinator may have died, and another takes over
                failed += 1
                if not self._follow or failed == LOOKS_MAX:
                    raise
                await trio.sleep(LOOK_S)
                continue
            self._ended = view["state"] in FINAL_STATES
            executions = _executions(view, self._wanted)
            self._present = {str(execution["id"]) for execution in executions}
            for execution in executions:
                id = str(execution["id"])
                self._seen[id] = execution
                self._begun |= {id} if has_begun(execution) else set()
                for stream in self._streams:
                    if (id, stream) not in self._read and execution["peer"]:
                        self._begin(nursery, execution, stream)
            if self._ended:
                await self._settle(nursery)
            if self._ended or not self._follow:
                return
            with trio.move_on_after(LOOK_S):
                await anext(self._events)

    def _begin(self, nursery: trio.Nursery, execution: View, stream: StreamName) -> None:
        key = (str(execution["id"]), stream)
        self._read.add(key)
        self._short.pop(key, None)
        nursery.start_soon(self._one, nursery, execution, stream)

    async def _settle(self, nursery: trio.Nursery) -> None:
        """The job has ended: what fell short of executions that no look shows any more is asked for
        once more, but not of a device that did not answer: of that it takes a minute to be sure."""
        for (id, stream), error in list(self._short.items()):
            if cause_of(error)[0] is Cause.UNREACHABLE:
                await self._fall_short(self._seen[id], stream, error)
            else:
                self._begin(nursery, self._seen[id], stream)

    async def _one(self, nursery: trio.Nursery, execution: View, stream: StreamName) -> None:
        write = partial(self._write, execution, stream)
        peer, key = PeerId(str(execution["peer"])), (str(execution["id"]), stream)
        offset, id, reached = self._given.get(key, 0), ExecutionId(execution["id"]), trio.Event()
        try:
            async with self._turns:
                nursery.start_soon(self._tell_if_slow, execution, stream, reached)
                await self._logs.read(id, peer, stream, self._wanted, write, offset, reached.set)
        except (ShoalError, KeyError, ValueError, RequestError, OSError) as error:
            _log.debug("log of %s: %s", execution["id"], error)
            reached.set()
            await self._fall_short(self._seen[key[0]], stream, error)

    async def _tell_if_slow(self, execution: View, stream: StreamName, reached: trio.Event) -> None:
        """A device that was switched off answers nobody, and that takes a minute to be sure of."""
        with trio.move_on_after(SLOW_S):
            await reached.wait()
        if not reached.is_set() and (str(execution["id"]), stream) not in self._told:
            await self._tell(execution, stream, SLOW)

    async def _fall_short(self, execution: View, stream: StreamName, error: Exception) -> None:
        """Say so, and give what came with the result; while it runs the next look tries again."""
        key = (str(execution["id"]), stream)
        # Who follows hears from a slot that has ended until its job has: it may be placed again.
        over = self._ended or (not self._follow and bool(execution.get("ended_ms")))
        if not over:
            self._read.discard(key)
            self._short[key] = error
        short: Shortfall | None
        if over and key[0] not in self._present:
            given = any((key[0], each) in self._given for each in self._streams)
            short = of_replaced(error, given, key[0] in self._begun)
        elif key in self._given and (over or not self._follow):
            short = of_broken_off(error)
        elif over:
            remains = remains_of(execution, stream, self._wanted)
            await self._write(execution, stream, LogChunk(0, remains.data, True))
            short = of_ended(error, execution, self._streams, self._wanted)
        else:
            short = of_running(error, execution, self._follow)
        if short is not None and self._told.get(key) != short.text:
            await self._tell(execution, stream, short)

    async def _tell(self, execution: View, stream: StreamName, short: Shortfall) -> None:
        self._told[(str(execution["id"]), stream)] = short.text
        told = {"note": short.text, "cause": short.cause.value, "missing": short.missing}
        await self._send.send(_line(execution, stream, b"") | told)

    async def _write(self, execution: View, stream: StreamName, chunk: LogChunk) -> None:
        if not chunk.data:
            return
        self._given[(str(execution["id"]), stream)] = chunk.offset + len(chunk.data)
        self._told.pop((str(execution["id"]), stream), None)
        await self._send.send(_line(execution, stream, chunk.data))


def _line(execution: View, stream: StreamName, data: bytes) -> dict[str, Any]:
    return {
        "slot": execution["slot"],
        "peer": execution["peer"],
        "peer_name": execution["peer_name"],
        "stream": stream,
        "data": data,
        "execution": execution["id"],
    }


def _first(group: BaseExceptionGroup[RequestError]) -> RequestError:
    while True:
        first = group.exceptions[0]
        if not isinstance(first, BaseExceptionGroup):
            return first
        group = first


def _asked(execution: ExecutionId, stream: StreamName, offset: int, wanted: LogQuery) -> LogRequest:
    """From the beginning as it is wanted; from where it broke off, all."""
    if offset:
        return LogRequest(execution, stream, offset, -1, wanted.follow)
    return LogRequest(execution, stream, 0, wanted.tail, wanted.follow, wanted.since_ms)


def _executions(view: View, wanted: LogQuery) -> list[View]:
    """Each slot's present execution, with the tails of its result where it has one; of a service
    that waits for its next start, the one before."""
    found: list[View] = []
    for place in view["slots"]:
        if view.get("type") == "service" and not place.get("started_ms"):
            found.extend(_last_start(view, place, wanted))
        here = wanted.peer in ("", place["executor"], place["executor_name"])
        if place["execution"] and here and wanted.slot in (None, place["slot"]):
            found.append(
                {
                    **place,
                    "id": place["execution"],
                    "peer": place["executor"],
                    "peer_name": place["executor_name"],
                }
            )
    return found


def _last_start(view: View, place: View, wanted: LogQuery) -> list[View]:
    """The latest start of a slot of a service: why it ended stands in its output."""
    begun = [e for e in view["executions"] if e["slot"] == place["slot"] and e["started_ms"]]
    last = max(begun, key=lambda execution: int(execution["started_ms"]), default=None)
    if last is None or wanted.slot not in (None, place["slot"]):
        return []
    if last["id"] == place["execution"]:  # which is read anyway
        return []
    return [last] if wanted.peer in ("", last["peer"], last["peer_name"]) else []
