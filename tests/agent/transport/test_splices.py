"""Streams through a neighbour: joined for members, within bounds, and ended with either end."""

from __future__ import annotations

import pytest
import trio

from agent.transport import ARCHIVE_PROTOCOL, LOG_PROTOCOL, NotReachable, Stream
from agent.transport.errors import StreamFailed
from agent.transport.settings import SPLICE_PROTOCOL
from protocol.messages import SpliceAnswer, SpliceRequest
from protocol.wire import decode_as, encode_message
from tests.agent.transport.peers import Peer, connect, member, running


async def _echo(stream: Stream) -> None:
    await stream.write_frame(b"seen " + await stream.read_frame())
    await stream.send_all(b"rest" * 50_000)
    await stream.aclose()


async def _line(a: Peer, relay: Peer, b: Peer) -> None:
    """a - relay - b: neither end knows where the other is."""
    await connect(a, relay)
    await connect(b, relay)


async def _read_all(stream: Stream) -> bytes:
    data = b""
    while part := await stream.receive_some():
        data += part
    return data


@pytest.mark.parametrize("told", [True, False])
async def test_a_stream_goes_through_a_common_neighbour(told: bool) -> None:
    a, relay, b = member("a"), member("relay"), member("b")
    b.transport.serve(LOG_PROTOCOL, _echo, members_only=True)
    async with running(a, relay, b):
        await _line(a, relay, b)
        through = (relay.id,) if told else ()
        stream = await a.transport.open_stream(b.id, LOG_PROTOCOL, through)
        await stream.write_frame(b"hello")
        assert await stream.read_frame() == b"seen hello"
        assert await _read_all(stream) == b"rest" * 50_000
        assert relay.transport.counters.relayed_bytes > 200_000
        assert a.transport.connected() == [relay.id]


async def test_an_answer_may_take_longer_than_who_asked_is_silent() -> None:
    idle_s = 0.5
    a, relay, b = member("a"), member("relay", splice_idle_s=idle_s), member("b")

    async def slow(stream: Stream) -> None:
        await stream.read_frame()
        end = trio.current_time() + 3 * idle_s
        while trio.current_time() < end:
            await stream.send_all(b".")
            await trio.sleep(idle_s / 10)
        await stream.aclose()

    b.transport.serve(ARCHIVE_PROTOCOL, slow, members_only=True)
    async with running(a, relay, b):
        await _line(a, relay, b)
        stream = await a.transport.open_stream(b.id, ARCHIVE_PROTOCOL, (relay.id,))
        await stream.write_frame(b"a gigabyte, please")
        assert await _read_all(stream)


async def test_a_stream_on_which_nothing_is_said_is_given_up() -> None:
    a, relay, b = member("a"), member("relay", splice_idle_s=0.2), member("b")

    async def silent(stream: Stream) -> None:
        await trio.sleep_forever()

    b.transport.serve(LOG_PROTOCOL, silent, members_only=True)
    async with running(a, relay, b):
        await _line(a, relay, b)
        stream = await a.transport.open_stream(b.id, LOG_PROTOCOL, (relay.id,))
        with trio.fail_after(60), pytest.raises(StreamFailed):
            await stream.receive_some(timeout_s=60)


async def test_a_neighbour_that_has_lost_the_peer_is_passed_over() -> None:
    a, empty, relay, b = member("a"), member("empty"), member("relay"), member("b")
    b.transport.serve(ARCHIVE_PROTOCOL, _echo, members_only=True)
    async with running(a, empty, relay, b):
        await _line(a, relay, b)
        await connect(a, empty)
        through = (empty.id, b.id, relay.id)
        stream = await a.transport.open_stream(b.id, ARCHIVE_PROTOCOL, through)
        await stream.write_frame(b"x")
        assert await stream.read_frame() == b"seen x"


async def test_nobody_who_is_connected_is_said() -> None:
    a, relay, b = member("a"), member("relay"), member("b")
    async with running(a, relay):
        await connect(a, relay)
        with pytest.raises(NotReachable, match="anybody"):
            await a.transport.open_stream(b.id, LOG_PROTOCOL, (relay.id,))


async def _asked(a: Peer, relay: Peer, request: SpliceRequest) -> str:
    stream = await a.transport.open_stream(relay.id, SPLICE_PROTOCOL)
    await stream.write_frame(encode_message(request))
    return decode_as(await stream.read_frame(), SpliceAnswer).error


async def test_only_logs_and_archives_are_relayed_and_not_back_to_who_asks() -> None:
    a, relay, b = member("a"), member("relay"), member("b")
    async with running(a, relay, b):
        await _line(a, relay, b)
        for protocol in (SPLICE_PROTOCOL, "/shoal/msg/1", "/shoal/join/1"):
            error = await _asked(a, relay, SpliceRequest(b.id, protocol))
            assert error == f"{protocol} is not relayed"
        assert "not connected" in await _asked(a, relay, SpliceRequest(a.id, LOG_PROTOCOL))
        # It is connected, and serves no such thing.
        assert "does not answer" in await _asked(a, relay, SpliceRequest(b.id, LOG_PROTOCOL))


async def test_the_number_of_relayed_streams_is_bounded() -> None:
    a, relay, b = member("a"), member("relay", splices_max=1), member("b")
    b.transport.serve(LOG_PROTOCOL, _echo, members_only=True)
    async with running(a, relay, b):
        await _line(a, relay, b)
        first = await a.transport.open_stream(b.id, LOG_PROTOCOL, (relay.id,))
        assert "too many" in await _asked(a, relay, SpliceRequest(b.id, LOG_PROTOCOL))
        first.abort()
        with trio.fail_after(60):
            while await _asked(a, relay, SpliceRequest(b.id, LOG_PROTOCOL)):
                await trio.lowlevel.checkpoint()
        assert relay.count("refused.splices-max") >= 1


async def test_a_stranger_cannot_have_anything_relayed() -> None:
    relay, b, stranger = member("relay"), member("b"), member("s")
    b.transport.serve(LOG_PROTOCOL, _echo, members_only=True)
    async with running(relay, b, stranger):
        await connect(b, relay)
        with pytest.raises(NotReachable):
            await stranger.transport.open_stream(b.id, LOG_PROTOCOL, (relay.id,))
