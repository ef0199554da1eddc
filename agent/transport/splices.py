"""Splices: streams to peers that cannot be dialled, joined by a neighbour connected to both.

What is read over them a member may read anyhow, so that the neighbour learns nothing that it could
not ask for itself: archives are checked by their digest, output is not signed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import trio

from agent.transport.counters import Counters
from agent.transport.errors import StreamFailed
from agent.transport.link import Link
from agent.transport.link_table import LinkTable
from agent.transport.network import Network
from agent.transport.settings import (
    ARCHIVE_PROTOCOL,
    LOG_PROTOCOL,
    SPLICE_PROTOCOL,
    TransportSettings,
)
from agent.transport.streams import Stream
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import SpliceAnswer, SpliceRequest
from protocol.wire import decode_as, encode_message

JOINED: Final = (ARCHIVE_PROTOCOL, LOG_PROTOCOL)  # what is relayed; messages go as letters
REQUEST_BYTES_MAX: Final = 512
ANSWER_BYTES_MAX: Final = 8 * 1024
ANSWER_S: Final = 10.0  # the relay opens a stream of its own first
CHUNK_BYTES: Final = 32 * 1024


class Splices:
    """Asks neighbours to join streams, and joins them for neighbours, within bounds."""

    def __init__(
        self, table: LinkTable, network: Network, settings: TransportSettings, counters: Counters
    ) -> None:
        self._table = table
        self._network = network
        self._settings = settings
        self._counters = counters
        self._open = 0

    # ---- asking ------------------------------------------------------------------------------

    async def ask(
        self, target: PeerId, protocol_id: str, neighbours: Sequence[PeerId]
    ) -> Stream | None:
        """A stream to `target` through the first of `neighbours` that joins one, if any does."""
        for neighbour in neighbours:
            link = self._table.get(neighbour)
            if link is None or neighbour == target:
                continue
            try:
                stream = await self._network.open(link.connection, SPLICE_PROTOCOL)
            except StreamFailed:
                continue
            if await self._agreed(stream, SpliceRequest(target, protocol_id)):
                return stream
            stream.abort()
        return None

    async def _agreed(self, stream: Stream, request: SpliceRequest) -> bool:
        try:
            await stream.write_frame(encode_message(request))
            frame = await stream.read_frame(ANSWER_BYTES_MAX, ANSWER_S)
            return not decode_as(frame, SpliceAnswer).error
        except (StreamFailed, RemoteProtocolError, EOFError):
            return False
        except BaseException:
            stream.abort()
            raise

    # ---- joining -----------------------------------------------------------------------------

    async def serve(self, stream: Stream) -> None:
        """Join a member's stream to one to the peer that it names, until either ends."""
        request = decode_as(await stream.read_frame(REQUEST_BYTES_MAX), SpliceRequest)
        link = self._table.get(request.target)
        if request.protocol not in JOINED:
            await _refuse(stream, f"{request.protocol} is not relayed")
        elif link is None or request.target == stream.peer:
            await _refuse(stream, "not connected to it")
        elif self._open >= self._settings.splices_max:
            self._counters.count("refused.splices-max")
            await _refuse(stream, "too many streams are relayed here just now")
        else:
            self._open += 1
            try:
                await self._join(stream, link, request.protocol)
            finally:
                self._open -= 1

    async def _join(self, stream: Stream, link: Link, protocol_id: str) -> None:
        try:
            other = await self._network.open(link.connection, protocol_id)
        except StreamFailed as error:
            await _refuse(stream, f"it does not answer: {error}"[:200])
            return
        try:
            await stream.write_frame(encode_message(SpliceAnswer()))
            # Of both ways together: whoever asked has said all, and the answer takes its time.
            with trio.move_on_after(self._settings.splice_idle_s) as idle:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, stream, other, idle)
                    await self._pump(other, stream, idle)
                    nursery.cancel_scope.cancel()  # the answer is over, whatever the question
            if idle.cancelled_caught:
                stream.abort()
        finally:
            other.abort()

    async def _pump(self, source: Stream, sink: Stream, idle: trio.CancelScope) -> None:
        """Carry bytes one way, no faster than is allowed; a slow reader is waited for."""
        try:
            while data := await source.receive_some(CHUNK_BYTES, math.inf):
                self._counters.relayed_bytes += len(data)
                self._moved(idle)
                await sink.send_all(data, math.inf)
                self._moved(idle)
                await trio.sleep(len(data) / self._settings.splice_bytes_s)
            await sink.aclose()
        except StreamFailed:
            sink.abort()

    def _moved(self, idle: trio.CancelScope) -> None:
        idle.deadline = trio.current_time() + self._settings.splice_idle_s


async def _refuse(stream: Stream, error: str) -> None:
    await stream.write_frame(encode_message(SpliceAnswer(error)))
