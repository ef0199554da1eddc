"""Yamux: one secured connection carrying many streams (hashicorp/yamux spec, /yamux/1.0.0).

py-libp2p takes the muxer class as an option and 0.8.1 ignores it; its upgrader can be replaced, and
ours (security.py) builds this one. It is not upstream's Yamux, for what was measured of that one:
- a cancelled write desynchronises the Noise nonce, and the whole connection dies. Here one task
  writes, and callers only hand it bytes, so that whoever is cancelled touches no cipher;
- a cancelled `open_stream` leaks one of 256 slots, and the 257th call blocks silently. Here opening
  neither waits nor leaks, and too many is an error;
- a receiver that pauses for 5 s breaks the sender's stream; a sender polls every 10 ms. Here a full
  window waits, for as long as its reader pauses;
- a sender that ignores its window fills the receiver's memory (a warning is logged). Here it is a
  protocol error, and memory is bounded by window times streams;
- closing sleeps 0.2 s and waits for a frozen remote. Here `abort` is immediate.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

import trio
from libp2p.abc import IMuxedConn, IMuxedStream, ISecureConn
from libp2p.connection_types import ConnectionType
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from multiaddr import Multiaddr

PROTOCOL: Final = "/yamux/1.0.0"
WINDOW_BYTES: Final = 256 * 1024  # the spec's initial window, never grown: 5 MB/s at 50 ms
CHUNK_BYTES: Final = 32 * 1024  # one data frame: so that streams take turns
WRITE_BYTES: Final = 65_519 - 12  # one Noise message's plaintext, so one write is one packet
OUT_BYTES_HIGH: Final = 128 * 1024  # writers wait above this
OUT_BYTES_MAX: Final = 1024 * 1024  # pongs and window updates that the remote does not read
WRITE_STALL_S: Final = 15.0  # 64 KiB in 15 s is 4 KB/s: slower is no link
CLOSE_FLUSH_S: Final = 0.5
STREAMS_OUT_MAX: Final = 256
ACCEPT_QUEUE: Final = 64
LINGER_S: Final = 30.0  # a stream that we ended and the remote does not
TURNS: Final = 16  # reads that may come from a buffer, without waiting: then others run

_HEADER: Final = struct.Struct("!BBHII")  # version, type, flags, stream id, length
_DATA, _WINDOW, _PING, _GO_AWAY = range(4)
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8

logger = logging.getLogger(__name__)


class ProtocolViolation(Exception):
    """The remote sent what no correct Yamux sends: the connection ends."""


class YamuxStream(IMuxedStream):
    """One stream. One reader and one writer at a time; closing is safe beside both."""

    def __init__(self, stream_id: int, conn: Yamux) -> None:
        self.stream_id = stream_id
        self.muxed_conn: Yamux = conn
        self.ended_at: float | None = None  # our FIN went out
        self._buffer = bytearray()
        self._consumed = 0  # read, and not yet given back to the sender's window
        self._receivable = WINDOW_BYTES
        self._sendable = WINDOW_BYTES
        self._remote_ended = False
        self._ended = False
        self._reset = False
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()

    async def read(self, n: int | None = None) -> bytes:
        """At least one byte, at most `n` (all there is if None or negative).

        Raises MuxedStreamEOF at the end and MuxedStreamReset where the stream or connection broke.
        """
        while not self._buffer:
            if self._reset:
                raise MuxedStreamReset("reset")
            if self._remote_ended:
                raise MuxedStreamEOF("ended")
            await self._readers.park()
        if n is None or n < 0 or n >= len(self._buffer):
            taken = bytes(self._buffer)
            self._buffer.clear()
        else:
            taken = bytes(self._buffer[:n])
            del self._buffer[:n]
        self._consumed += len(taken)
        if self._consumed >= WINDOW_BYTES // 2 and not self._remote_ended:
            self.muxed_conn._control(_WINDOW, 0, self.stream_id, self._consumed)
            self._receivable += self._consumed
            self._consumed = 0
        return taken

    async def write(self, data: bytes) -> None:
        """Hand over all of `data`, waiting for the window. If cancelled, a part may have gone."""
        at = 0
        while at < len(data):
            await self.muxed_conn._room()
            self._raise_unless_writable()
            if self._sendable == 0:
                await self._writers.park()
                continue
            chunk = data[at : at + min(self._sendable, CHUNK_BYTES)]
            self._sendable -= len(chunk)
            self.muxed_conn.last_data = trio.current_time()
            at += len(chunk)
            self.muxed_conn._send(_HEADER.pack(0, _DATA, 0, self.stream_id, len(chunk)) + chunk)

    def try_write(self, data: bytes) -> bool:
        """Hand over all of `data` at once, or nothing: False where it would have to wait."""
        if len(data) > min(self._sendable, CHUNK_BYTES) or not self.muxed_conn._has_room():
            return False
        self._raise_unless_writable()
        self._sendable -= len(data)
        self.muxed_conn.last_data = trio.current_time()
        self.muxed_conn._send(_HEADER.pack(0, _DATA, 0, self.stream_id, len(data)) + data)
        return True

    def _raise_unless_writable(self) -> None:
        if self._reset:
            raise MuxedStreamReset("reset")
        if self._ended:
            raise MuxedStreamClosed("ended by this side")

    async def close(self) -> None:
        """End our side; the other may go on."""
        self.end()

    def end(self) -> None:
        if not (self._ended or self._reset):
            self._ended = True
            self.ended_at = trio.current_time()
            self.muxed_conn._control(_WINDOW, _FIN, self.stream_id, 0)
            self._writers.unpark_all()
            self._forget_if_over()

    async def reset(self) -> None:
        self.abort()

    def abort(self) -> None:
        """End both sides at once; what was buffered is gone."""
        if not self._reset:
            if not (self._ended and self._remote_ended):
                self.muxed_conn._control(_WINDOW, _RST, self.stream_id, 0)
            self._broken()

    def _broken(self) -> None:
        self._reset = True
        self._readers.unpark_all()
        self._writers.unpark_all()
        self.muxed_conn._forget(self)

    def _forget_if_over(self) -> None:
        if self._ended and self._remote_ended:
            self.muxed_conn._forget(self)

    def _on_data(self, data: bytes) -> None:
        self._receivable -= len(data)
        self.muxed_conn.last_data = trio.current_time()
        if self._receivable < 0:
            raise ProtocolViolation("more data than its window allows")
        self._buffer += data
        self._readers.unpark_all()

    def _on_flags(self, flags: int) -> None:
        if flags & _FIN:
            self._remote_ended = True
            self._readers.unpark_all()
            self._forget_if_over()
        if flags & _RST:
            self._broken()

    def _on_window(self, increment: int) -> None:
        self._sendable = min(self._sendable + increment, 1 << 32)
        self._writers.unpark_all()

    def set_deadline(self, ttl: int) -> None:
        raise NotImplementedError("deadlines are the caller's cancel scopes")

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> YamuxStream:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.end()


class Yamux(IMuxedConn):
    """The connection: a reader and a writer task, both inside `start`."""

    def __init__(self, conn: ISecureConn, peer_id: ID) -> None:
        self.peer_id = peer_id
        self.streams_in_max = 16  # raised for members
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None  # set by SwarmConn
        self.when_ended: Callable[[], None] = lambda: None
        self._conn = conn
        self._initiator = conn.is_initiator
        self._next_id = 1 if self._initiator else 2
        self._highest_seen = 0
        self._streams: dict[int, YamuxStream] = {}
        self._accept_send, self._accept_receive = trio.open_memory_channel[YamuxStream](
            ACCEPT_QUEUE
        )
        self._out = bytearray()
        self._writer_idle = trio.lowlevel.ParkingLot()
        self._waiting_for_room = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._closing = False
        self._pings: dict[int, trio.Event] = {}
        self._ping_id = 0
        self.last_data = trio.current_time()  # either way, on any stream
        self.violation = ""  # what the remote did wrong, if that ended the connection

    # ---- life ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run until the connection ends, however it does. Raises nothing: libp2p's swarm runs this,
        and an exception would end the host."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_writer)
                    nursery.start_soon(self._run_reader)
                    self.event_started.set()
        except* ProtocolViolation as group:
            self.violation = str(group.exceptions[0])
        except* Exception as group:
            logger.debug("connection to %s ended: %s", self.peer_id, group.exceptions)
        finally:
            await self._ended()

    async def _ended(self) -> None:
        self._closing = True
        self.event_started.set()
        self.event_closed.set()
        self.when_ended()
        self._accept_send.close()
        for stream in list(self._streams.values()):
            stream._on_flags(_RST)
        self._streams.clear()
        self._waiting_for_room.unpark_all()
        for event in self._pings.values():
            event.set()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            try:
                await self._conn.close()
            except Exception as error:
                logger.debug("closing %s: %r", self.peer_id, error)

    def abort(self) -> None:
        """Close the socket now, without a word: a frozen remote reads none."""
        self._closing = True
        self._scope.cancel()
        if not self.event_started.is_set():  # never run: nobody else will close it
            self.event_closed.set()

    async def close(self) -> None:
        """Send what is queued, say that we go, and close: half a second at most."""
        if not self._closing:
            self._control(_GO_AWAY, 0, 0, 0)
            self._closing = True
            with trio.move_on_after(CLOSE_FLUSH_S):
                await self._flushed()
        self.abort()
        if self.event_started.is_set():
            await self.event_closed.wait()
        else:
            await self._ended()

    @property
    def is_closed(self) -> bool:
        return self.event_closed.is_set()

    @property
    def is_established(self) -> bool:
        return self.event_started.is_set() and not self._closing

    @property
    def is_initiator(self) -> bool:
        return self._initiator

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._conn.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._conn.get_connection_type()

    # ---- streams ---------------------------------------------------------------------------

    async def open_stream(self) -> YamuxStream:
        """Raises MuxedStreamError where the connection is closing or has too many streams."""
        return self.open()

    def open(self) -> YamuxStream:
        self._expire()
        mine = sum(1 for stream_id in self._streams if stream_id % 2 == self._next_id % 2)
        if self._closing or mine >= STREAMS_OUT_MAX:
            raise MuxedStreamError("closing" if self._closing else "too many streams")
        stream = YamuxStream(self._next_id, self)
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        self._control(_WINDOW, _SYN, stream.stream_id, 0)
        return stream

    async def accept_stream(self) -> YamuxStream:
        """Raises MuxedConnUnavailable when the connection has ended."""
        try:
            return await self._accept_receive.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable("connection closed") from None

    def _forget(self, stream: YamuxStream) -> None:
        self._streams.pop(stream.stream_id, None)

    def _expire(self) -> None:
        """Break what we ended long ago and the remote never did."""
        horizon = trio.current_time() - LINGER_S
        for stream in list(self._streams.values()):
            if stream.ended_at is not None and stream.ended_at < horizon:
                stream.abort()

    async def ping(self, timeout_s: float) -> float | None:
        """Round trip in seconds, through the remote's process; None without an answer in time."""
        if self._closing:
            return None
        self._ping_id = (self._ping_id + 1) & 0xFFFFFFFF
        number, event, begun = self._ping_id, trio.Event(), trio.current_time()
        self._pings[number] = event
        self._control(_PING, _SYN, 0, number)
        try:
            with trio.move_on_after(timeout_s):
                await event.wait()
                return None if self._closing else trio.current_time() - begun
            return None
        finally:
            del self._pings[number]

    # ---- writing ---------------------------------------------------------------------------

    def _control(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if len(self._out) > OUT_BYTES_MAX:  # it makes us answer and does not read the answers
            self.abort()
        else:
            self._send(_HEADER.pack(0, kind, flags, stream_id, value))

    def _send(self, frame: bytes) -> None:
        if not self._closing:
            self._out += frame
            self._writer_idle.unpark_all()

    def _has_room(self) -> bool:
        return len(self._out) <= OUT_BYTES_HIGH

    async def _room(self) -> None:
        while not (self._has_room() or self._closing):
            await self._waiting_for_room.park()

    async def _flushed(self) -> None:
        while self._out and not self.event_closed.is_set():
            await self._waiting_for_room.park()

    async def _run_writer(self) -> None:
        while True:
            while not self._out:
                await self._writer_idle.park()
            chunk = bytes(self._out[:WRITE_BYTES])
            with trio.move_on_after(WRITE_STALL_S) as scope:
                await self._conn.write(chunk)
            if scope.cancelled_caught:
                raise ConnectionClosedError(f"nothing could be written for {WRITE_STALL_S:g} s")
            del self._out[: len(chunk)]
            self._waiting_for_room.unpark_all()

    # ---- reading ---------------------------------------------------------------------------

    async def _run_reader(self) -> None:
        buffer = bytearray()
        turns = 0
        try:
            while True:
                buffer += await self._conn.read()
                turns += 1
                if turns % TURNS == 0:
                    await trio.lowlevel.checkpoint()
                at = 0
                while len(buffer) - at >= _HEADER.size:
                    version, kind, flags, stream_id, length = _HEADER.unpack_from(buffer, at)
                    end = at + _HEADER.size
                    if kind == _DATA:
                        if length > WINDOW_BYTES:
                            raise ProtocolViolation("a frame larger than any window")
                        if len(buffer) < end + length:
                            break
                        end += length
                    if version != 0:
                        raise ProtocolViolation(f"version {version}")
                    self._on_frame(kind, flags, stream_id, length, bytes(buffer[at + 12 : end]))
                    at = end
                del buffer[:at]
        finally:
            self._scope.cancel()  # the writer has nobody left to write to

    def _on_frame(self, kind: int, flags: int, stream_id: int, length: int, data: bytes) -> None:
        if kind in (_DATA, _WINDOW):
            if flags & _SYN:
                self._on_syn(stream_id)
            stream = self._streams.get(stream_id)
            if stream is None:
                return  # reset by us while this was on its way
            if kind == _DATA:
                stream._on_data(data)
            else:
                stream._on_window(length)
            stream._on_flags(flags)
        elif kind == _PING:
            if flags & _SYN:
                self._control(_PING, _ACK, 0, length)
            elif length in self._pings:
                self._pings[length].set()
        elif kind == _GO_AWAY:
            raise ConnectionClosedError(f"the remote goes away (code {length})")
        else:
            raise ProtocolViolation(f"frame type {kind}")

    def _on_syn(self, stream_id: int) -> None:
        if stream_id % 2 == self._next_id % 2 or stream_id <= self._highest_seen:
            raise ProtocolViolation(f"stream id {stream_id}")
        self._highest_seen = stream_id
        self._expire()
        theirs = sum(1 for one in self._streams if one % 2 == stream_id % 2)
        stream = YamuxStream(stream_id, self)
        try:
            if theirs >= self.streams_in_max:
                raise trio.WouldBlock
            self._accept_send.send_nowait(stream)
        except (trio.WouldBlock, trio.BrokenResourceError):
            self._control(_WINDOW, _RST, stream_id, 0)
            return
        self._streams[stream_id] = stream
        self._control(_WINDOW, _ACK, stream_id, 0)
