"""Yamux over a pipe: what the streams promise, and what a remote can and cannot do to us."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from agent.transport import yamux
from agent.transport.yamux import WINDOW_BYTES, Yamux, YamuxStream

PEER = ID.from_pubkey(create_new_key_pair(bytes(32)).public_key)
DATA, WINDOW, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


class PipeConn:
    """A secured connection, without the security."""

    def __init__(self, stream: trio.StapledStream, initiator: bool) -> None:
        self.stream = stream
        self.is_initiator = initiator
        self.blocked = False

    async def read(self, n: int | None = None) -> bytes:
        try:
            data = await self.stream.receive_some(65536)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error)) from error
        if not data:
            raise ConnectionClosedError("end")
        return bytes(data)

    async def write(self, data: bytes) -> None:
        if self.blocked:
            await trio.sleep_forever()
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(str(error)) from error

    async def close(self) -> None:
        await self.stream.aclose()

    def get_remote_address(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)


def frame(kind: int, flags: int, stream_id: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream_id, length) + data


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Yamux, Yamux]]:
    left, right = trio.testing.memory_stream_pair()
    a, b = Yamux(PipeConn(left, True), PEER), Yamux(PipeConn(right, False), PEER)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.start)
        nursery.start_soon(b.start)
        yield a, b
        a.abort()
        b.abort()


@asynccontextmanager
async def against_raw() -> AsyncIterator[tuple[Yamux, trio.StapledStream]]:
    """One Yamux (a responder) and the bare bytes of its remote."""
    left, right = trio.testing.memory_stream_pair()
    a = Yamux(PipeConn(left, False), PEER)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.start)
        yield a, right
        a.abort()


async def accepted(a: Yamux, b: Yamux) -> tuple[YamuxStream, YamuxStream]:
    stream = a.open()
    await stream.write(b"!")
    other = await b.accept_stream()
    assert await other.read() == b"!"
    return stream, other


async def read_all(stream: YamuxStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.read()
    except MuxedStreamEOF:
        return data


async def test_data_arrives_both_ways_and_each_side_ends_on_its_own() -> None:
    async with pair() as (a, b):
        stream, other = await accepted(a, b)
        payload = bytes(range(256)) * 8192  # eight windows
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await read_all(other))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await stream.write(payload)
            await stream.close()
        assert received == [payload]
        with pytest.raises(MuxedStreamClosed):
            await stream.write(b"x")
        await other.write(b"answer")
        await other.close()
        assert await read_all(stream) == b"answer"
        assert not a._streams and not b._streams


async def test_a_writer_waits_for_a_paused_reader_however_long(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pair() as (a, b):
        stream, other = await accepted(a, b)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.write, bytes(3 * WINDOW_BYTES))
            await trio.sleep(3600)
            assert len(other._buffer) <= WINDOW_BYTES
            size = 0
            while size < 3 * WINDOW_BYTES:
                size += len(await other.read())
        assert not stream.try_write(bytes(64 * 1024)), "more than one frame is not tried"


async def test_a_cancelled_write_harms_nothing_but_its_stream() -> None:
    """Upstream encrypts in the caller: cancelled there, the nonce is lost and the connection."""
    async with pair() as (a, b):
        stream, other = await accepted(a, b)
        with trio.move_on_after(0.05) as scope:
            await stream.write(bytes(2 * WINDOW_BYTES))
        assert scope.cancelled_caught
        stream.abort()
        again, _ = await accepted(a, b)
        await again.write(b"alive")
        with pytest.raises(MuxedStreamReset):
            while True:
                await other.read()


async def test_opening_streams_never_blocks_nor_leaks() -> None:
    """Upstream, the 257th waits for ever, and a cancelled one is never given back."""
    async with pair() as (a, b):
        for _ in range(1000):
            stream, other = await accepted(a, b)
            stream.abort()
            with pytest.raises(MuxedStreamReset):
                await other.read()
        b.streams_in_max = 1000
        opened = []
        with pytest.raises(MuxedStreamError, match="too many"):
            while True:
                opened.append(a.open())
        assert len(opened) == 256


async def test_more_streams_than_allowed_are_reset() -> None:
    async with pair() as (a, b):
        b.streams_in_max = 3
        streams = [a.open() for _ in range(5)]
        for _ in range(3):
            await b.accept_stream()
        for stream in streams[3:]:
            with pytest.raises(MuxedStreamReset):
                await stream.read()


async def test_pings_measure_and_time_out() -> None:
    async with pair() as (a, b):
        rtt = await a.ping(5)
        assert rtt is not None and 0 <= rtt < 5
        b._conn.blocked = True  # type: ignore[attr-defined]
        assert await a.ping(0.05) is None


async def test_the_end_of_the_connection_reaches_every_waiter_at_once() -> None:
    async with pair() as (a, b):
        stream, _ = await accepted(a, b)
        ended: list[str] = []

        async def reads() -> None:
            with pytest.raises(MuxedStreamReset):
                await stream.read()
            ended.append("read")

        async def writes() -> None:
            with pytest.raises(MuxedStreamReset):
                await stream.write(bytes(2 * WINDOW_BYTES))
            ended.append("write")

        async def accepts() -> None:
            with pytest.raises(MuxedConnUnavailable):
                await a.accept_stream()
            ended.append("accept")

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for task in (reads, writes, accepts):
                    nursery.start_soon(task)
                await trio.testing.wait_all_tasks_blocked()
                b.abort()
        assert sorted(ended) == ["accept", "read", "write"]
        assert a.is_closed
        with pytest.raises(MuxedStreamError):
            a.open()
        assert await a.ping(5) is None


async def test_close_sends_what_was_written_and_what_was_read_stays_readable() -> None:
    async with pair() as (a, b):
        stream, other = await accepted(a, b)
        await stream.write(b"last words")
        await a.close()
        assert await other.read() == b"last words"
        with pytest.raises(MuxedStreamReset):
            await other.read()


async def test_abort_does_not_wait_for_a_frozen_remote() -> None:
    async with pair() as (a, b):
        stream, _ = await accepted(a, b)
        a._conn.blocked = True  # type: ignore[attr-defined]
        await stream.write(b"x" * 1000)
        begun = trio.current_time()
        a.abort()
        await a.event_closed.wait()
        assert trio.current_time() - begun < 0.4


async def test_a_write_that_stalls_ends_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pair() as (a, b):
        stream, _ = await accepted(a, b)
        a._conn.blocked = True  # type: ignore[attr-defined]
        await stream.write(b"x")
        begun = trio.current_time()
        await a.event_closed.wait()
        assert trio.current_time() - begun == pytest.approx(yamux.WRITE_STALL_S)


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, SYN, 1, WINDOW_BYTES + 1),
        frame(DATA, SYN, 1, WINDOW_BYTES, bytes(WINDOW_BYTES)) + frame(DATA, 0, 1, 1, b"x"),
        frame(WINDOW, SYN, 2, 0),  # our own parity
        frame(WINDOW, SYN, 0, 0),
        frame(WINDOW, SYN, 3, 0) + frame(WINDOW, SYN, 1, 0),  # backwards
        frame(WINDOW, SYN, 1, 0) + frame(WINDOW, SYN, 1, 0),  # twice
        frame(7, 0, 0, 0),
        b"\x01" + frame(PING, SYN, 0, 0)[1:],
    ],
)
async def test_a_violation_ends_the_connection_and_is_named(data: bytes) -> None:
    async with against_raw() as (a, raw):
        await raw.send_all(data)
        with trio.fail_after(60):
            await a.event_closed.wait()
        assert a.violation


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, 0, 99, 3, b"abc"),  # a stream that was reset meanwhile
        frame(WINDOW, 0, 99, 7) + frame(WINDOW, FIN, 99, 0) + frame(WINDOW, RST, 99, 0),
        frame(PING, ACK, 0, 12345),
        frame(WINDOW, SYN, 1, 0) + frame(WINDOW, 0, 1, 0xFFFFFFFF) * 3,
        frame(DATA, SYN | FIN, 1, 3, b"abc"),
        frame(WINDOW, SYN | RST, 1, 0),
    ],
)
async def test_what_is_odd_but_allowed_is_borne(data: bytes) -> None:
    async with against_raw() as (a, raw):
        for byte in data:
            await raw.send_all(bytes([byte]))
        await raw.send_all(frame(PING, SYN, 0, 77))
        answer = b""
        with trio.fail_after(60):
            while not answer.endswith(frame(PING, ACK, 0, 77)):
                answer += await raw.receive_some(1000)
        assert not a.is_closed


async def test_answers_that_nobody_reads_are_bounded() -> None:
    async with against_raw() as (a, raw):
        a._conn.blocked = True  # type: ignore[attr-defined]
        with (
            trio.fail_after(60),
            pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)),
        ):
            while True:
                await raw.send_all(frame(PING, SYN, 0, 1) * 1000)
        assert a.is_closed and len(a._out) < 2 * yamux.OUT_BYTES_MAX


async def test_streams_that_the_remote_never_ends_are_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with pair() as (a, b):
        for _ in range(20):
            stream, _ = await accepted(a, b)
            stream.end()
            b.streams_in_max += 1
        assert len(a._streams) == 20
        await trio.sleep(yamux.LINGER_S + 1)
        a.open()
        assert len(a._streams) == 1
