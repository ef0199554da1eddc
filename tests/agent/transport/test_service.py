"""Services: what members and strangers may open, and how much of it."""

from __future__ import annotations

import pytest
import trio

from agent.transport import LOG_PROTOCOL, Stream
from agent.transport.errors import StreamFailed
from agent.transport.service import MEMBER_STREAMS_MAX
from tests.agent.transport.peers import connect, member, running

SLOTS = 20  # of one job on one device, whose two streams each somebody follows


async def test_a_member_follows_all_slots_of_a_device_and_no_more_than_there_are_places() -> None:
    assert MEMBER_STREAMS_MAX >= 2 * SLOTS
    a, b = member("a"), member("b")

    async def following(stream: Stream) -> None:
        await stream.write_frame(b"begun")
        await stream.receive_some(timeout_s=600)

    b.transport.serve(LOG_PROTOCOL, following, members_only=True)
    async with running(a, b):
        await connect(a, b)
        streams = []
        for _ in range(MEMBER_STREAMS_MAX):
            stream = await a.transport.open_stream(b.id, LOG_PROTOCOL)
            assert await stream.read_frame() == b"begun"
            streams.append(stream)
        one_more = await a.transport.open_stream(b.id, LOG_PROTOCOL)
        with pytest.raises(StreamFailed):
            await one_more.read_frame()
        assert b.count("refused.streams-max") == 1
        streams[0].abort()
        with trio.fail_after(60):
            while True:
                stream = await a.transport.open_stream(b.id, LOG_PROTOCOL)
                try:
                    assert await stream.read_frame() == b"begun"
                    break
                except StreamFailed:
                    await trio.lowlevel.checkpoint()
