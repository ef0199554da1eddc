"""Streams: what the transport hands out, with framing, bounds and deadlines.

A frame is a 4-byte big-endian length and that many bytes, at most `wire.FRAME_BYTES_MAX`, on every
protocol of ours; what an archive or log sends after its frames is raw bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from agent.transport.errors import StreamFailed
from agent.transport.yamux import YamuxStream
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.wire import FRAME_BYTES_MAX

LENGTH_BYTES: Final = 4
DEADLINE_S: Final = 30.0
_MULTISTREAM: Final = "/multistream/1.0.0"
_ANSWER_BYTES_MAX: Final = 1024


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(LENGTH_BYTES, "big") + frame


class Unframer:
    """Cuts a stream's bytes into frames, holding no more than one frame beyond what it was fed."""

    def __init__(self, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.bytes_max = bytes_max
        self.buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self.buffer += data

    def next(self) -> bytes | None:
        """The next whole frame, or None. Raises RemoteProtocolError for one that is too long."""
        if len(self.buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self.buffer[:LENGTH_BYTES], "big")
        if length > self.bytes_max:
            raise RemoteProtocolError(f"a frame of {length} bytes, {self.bytes_max} is the limit")
        end = LENGTH_BYTES + length
        if len(self.buffer) < end:
            return None
        frame = bytes(self.buffer[LENGTH_BYTES:end])
        del self.buffer[:end]
        return frame


class Stream:
    """A stream to `peer` on which a protocol was agreed. Every call has a deadline in seconds.

    All raise StreamFailed where stream or connection are gone or the deadline passed. A call that
    was cancelled or failed may have gone half way: close or abort the stream then.
    """

    def __init__(self, muxed: YamuxStream, peer: PeerId) -> None:
        self.muxed = muxed
        self._peer = peer
        self._unframer = Unframer()

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def source(self) -> str:
        """The remote's IP address, for limits by source."""
        remote = self.muxed.get_remote_address()
        return remote[0] if remote else ""

    @property
    def leftover(self) -> bytearray:
        """What was read beyond the last frame."""
        return self._unframer.buffer

    async def read_frame(
        self, bytes_max: int = FRAME_BYTES_MAX, timeout_s: float = DEADLINE_S
    ) -> bytes:
        """Raises RemoteProtocolError for a longer frame, EOFError at a clean end."""
        self._unframer.bytes_max = bytes_max
        with _deadline(timeout_s):
            while (frame := self._unframer.next()) is None:
                try:
                    self._unframer.feed(await self.muxed.read())
                except MuxedStreamEOF:
                    if self._unframer.buffer:
                        raise StreamFailed("ended within a frame") from None
                    raise EOFError from None
                except MuxedStreamError as error:
                    raise StreamFailed(f"stream broken: {error}") from None
        return frame

    async def write_frame(self, frame: bytes, timeout_s: float = DEADLINE_S) -> None:
        if len(frame) > FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {len(frame)} bytes, {FRAME_BYTES_MAX} is the limit")
        await self.send_all(framed(frame), timeout_s)

    async def receive_some(self, n: int = 65536, timeout_s: float = DEADLINE_S) -> bytes:
        """At least one byte, or b"" at the end."""
        if self._unframer.buffer:
            data = bytes(self._unframer.buffer[:n])
            del self._unframer.buffer[:n]
            return data
        with _deadline(timeout_s):
            try:
                return await self.muxed.read(n)
            except MuxedStreamEOF:
                return b""
            except MuxedStreamError as error:
                raise StreamFailed(f"stream broken: {error}") from None

    async def send_all(self, data: bytes, timeout_s: float = DEADLINE_S) -> None:
        with _deadline(timeout_s):
            try:
                await self.muxed.write(data)
            except MuxedStreamError as error:
                raise StreamFailed(f"stream broken: {error}") from None

    async def aclose(self) -> None:
        """End our side; what was written still arrives."""
        self.muxed.end()

    def abort(self) -> None:
        """End both sides at once."""
        self.muxed.abort()


@contextmanager
def _deadline(timeout_s: float) -> Iterator[None]:
    try:
        with trio.fail_after(timeout_s):
            yield
    except trio.TooSlowError:
        raise StreamFailed(f"nothing moved for {timeout_s:g} s") from None


async def negotiate(muxed: YamuxStream, protocol: str, first: bytes = b"") -> None:
    """Agree on `protocol` for a stream that we opened, in one round trip: header, protocol and the
    `first` bytes of it leave together (multistream-select allows it; py-libp2p takes two).

    Raises StreamFailed where the other side does not speak it. The caller sets the deadline.
    """
    try:
        await muxed.write(_delimited(_MULTISTREAM) + _delimited(protocol) + first)
        for expected in (_MULTISTREAM, protocol):
            answer = await _read_delimited(muxed)
            if answer != expected:
                raise StreamFailed(f"the other side does not speak {protocol}: {answer[:64]!r}")
    except MuxedStreamError as error:
        raise StreamFailed(f"stream broken: {error}") from None


def _delimited(text: str) -> bytes:
    raw = text.encode() + b"\n"
    assert len(raw) < 128, "a length of one byte"
    return bytes([len(raw)]) + raw


async def _read_delimited(muxed: YamuxStream) -> str:
    length = shift = 0
    while True:  # an unsigned varint, byte by byte: what follows belongs to the protocol
        byte = (await muxed.read(1))[0]
        length |= (byte & 127) << shift
        shift += 7
        if length > _ANSWER_BYTES_MAX or shift > 14:
            raise StreamFailed("an answer that is too long")
        if byte < 128:
            break
    raw = b""
    while len(raw) < length:
        raw += await muxed.read(length - len(raw))
    return raw.rstrip(b"\n").decode("utf-8", "replace")
