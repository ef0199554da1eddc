"""Links: the one long-lived message stream to a connected member, with a bounded outbox.

A new stream for each message costs 4 ms of CPU and a second round trip; this one costs neither.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from agent.transport.admission import Member, parting, read_parting
from agent.transport.connection import Connection
from agent.transport.counters import Counters
from agent.transport.settings import TransportSettings
from agent.transport.streams import Stream, Unframer, framed
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import Goodbye
from protocol.wire import FRAME_BYTES_MAX

BATCH_BYTES = 32 * 1024  # of queued frames that leave in one write


class Link:
    """Frames to and from one member over one connection.

    `send` never waits. Reading waits for whoever takes the frames, and so does then the remote,
    whose window fills: backpressure reaches that one stream and nothing else.
    """

    def __init__(
        self,
        connection: Connection,
        stream: Stream,
        member: Member,
        settings: TransportSettings,
        counters: Counters,
    ) -> None:
        self.connection = connection
        self.peer: PeerId = connection.peer
        self.member = member
        self.since = trio.current_time()
        self.goodbye: Goodbye | None = None  # the remote's last words
        self.violation = ""  # what it did wrong, if that ended the link
        self.closed_by_us = False
        self._stream = stream
        self._settings = settings
        self._counters = counters
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._writing = False  # a write waits half way: nothing may go in between
        self._queued = trio.lowlevel.ParkingLot()

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False where it was dropped, and counted."""
        if len(frame) > FRAME_BYTES_MAX:
            self._counters.count("drop.frame-too-long")
            return False
        return self._queue(framed(frame))

    def _queue(self, data: bytes) -> bool:
        try:
            if not (self._outbox or self._writing) and self._stream.muxed.try_write(data):
                self._counters.frames_out += 1
                self._counters.frame_bytes_out += len(data)
                return True
        except MuxedStreamError:
            self._counters.count("drop.link-closed")
            return False
        if (
            len(self._outbox) >= self._settings.outbox_frames_max
            or self._outbox_bytes + len(data) > self._settings.outbox_bytes_max
        ):
            self._counters.count("drop.outbox-full")
            return False
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        self._queued.unpark_all()
        return True

    def take_over(self, former: Link) -> None:
        """Queue what the link that this one replaces did not send."""
        for data in former._outbox:
            self._queue(data)
        former._outbox.clear()

    async def run(self, deliver: Callable[[bytes], Awaitable[None]]) -> None:
        """Read and write until the stream ends, for whatever reason of the remote's making."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            try:
                await self._read(deliver)
            except RemoteProtocolError as error:
                self.violation = str(error)
            finally:
                nursery.cancel_scope.cancel()

    async def _read(self, deliver: Callable[[bytes], Awaitable[None]]) -> None:
        unframer = Unframer()
        unframer.feed(bytes(self._stream.leftover))
        while True:
            while (frame := unframer.next()) is not None:
                self._counters.frames_in += 1
                self._counters.frame_bytes_in += len(frame)
                if (goodbye := read_parting(frame)) is not None:
                    self.goodbye = goodbye
                    return
                await deliver(frame)
            try:
                unframer.feed(await self._stream.muxed.read())
            except (MuxedStreamEOF, MuxedStreamError):
                return

    async def _write(self) -> None:
        """Write what did not fit at once. Waits for the remote's window as long as it takes: the
        outbox is bounded, and a remote that is gone is found by others' means."""
        while True:
            while not self._outbox:
                await self._queued.park()
            batch = [self._outbox.popleft()]
            size = len(batch[0])
            while self._outbox and size + len(self._outbox[0]) <= BATCH_BYTES:
                batch.append(self._outbox.popleft())
                size += len(batch[-1])
            self._outbox_bytes -= size
            self._writing = True
            try:
                await self._stream.muxed.write(b"".join(batch))
            except MuxedStreamError:
                return
            self._writing = False
            self._counters.frames_out += len(batch)
            self._counters.frame_bytes_out += size

    def say_goodbye(self, code: str, text: str) -> None:
        """The last frame, if it fits; the caller closes the connection."""
        self.closed_by_us = True
        try:
            if not self._writing:
                self._stream.muxed.try_write(framed(parting(code, text)))
            self._stream.muxed.end()
        except MuxedStreamError:
            pass  # it has heard already
