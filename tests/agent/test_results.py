"""Results: archives of what tasks left, read from here or from the peer that has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from agent.archives import ArchiveError, Archives, ByteStream
from agent.engines.engine import Engines
from agent.engines.process import ProcessEngine
from agent.results import GONE, TRIES_MAX, Results
from agent.transport.errors import NotReachable
from protocol.ids import PeerId
from protocol.messages import ArchiveAnswer, ArchiveRequest
from protocol.wire import decode_as, encode_message
from tests.agent.test_archives import DATA, DIGEST, A, Peers, pair, pieces

ME = PeerId("me")


def results(root: Path, dial: object) -> Results:
    engine = ProcessEngine(root / "executions")
    return Results(Archives(root / "results"), Engines(engine), dial, ME)  # type: ignore[arg-type]


async def read(it: Results, offset: int = 0, peer: PeerId = A) -> bytes:
    got: list[bytes] = []

    async def write(chunk: bytes) -> None:
        got.append(chunk)

    await it.read(DIGEST, offset, peer, write)
    return b"".join(got)


async def test_what_is_here_is_read_from_here(tmp_path: Path) -> None:
    it = results(tmp_path, None)
    await it._store.put(pieces(DATA))
    assert await read(it) == DATA and await read(it, 5, ME) == DATA[5:]


async def test_what_a_peer_has_is_read_from_there_and_not_kept(tmp_path: Path) -> None:
    full = Archives(tmp_path / "full")
    await full.put(pieces(DATA))
    async with trio.open_nursery() as nursery:
        it = results(tmp_path, Peers(nursery, a=full))
        assert await read(it, 1000) == DATA[1000:]
        assert not it._store.holds(DIGEST), "each asks for it once, a card is small"


async def test_what_is_gone_says_so(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        it = results(tmp_path, Peers(nursery, a=Archives(tmp_path / "empty")))
        for peer in (A, ME):
            with pytest.raises(ArchiveError, match="no longer on the device that ran it: kept for"):
                await read(it, 0, peer)
            assert await it.missing(DIGEST, peer) == GONE


async def test_whether_it_is_there_is_known_without_fetching_it(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    full = Archives(tmp_path / "full")
    await full.put(pieces(DATA))
    silent: list[ByteStream] = []

    async def hanging(peer: PeerId) -> ByteStream:
        ours, theirs = pair()
        silent.append(theirs)
        return ours

    async with trio.open_nursery() as nursery:
        it = results(tmp_path / "it", Peers(nursery, a=full))
        assert await it.missing(DIGEST, A) == ""
        assert not it._store.holds(DIGEST)
        away = "cannot be reached just now"
        assert away in await it.missing(DIGEST, PeerId("nobody"))
        assert away in await results(tmp_path / "h", hanging).missing(DIGEST, A)
        assert "is not a SHA-256" in await it.missing("../full", A)
        await it._store.put(pieces(DATA))
        assert await it.missing(DIGEST, PeerId("nobody")) == ""


async def test_a_transfer_that_breaks_off_goes_on_from_there(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    offsets: list[int] = []

    async def dial(peer: PeerId) -> ByteStream:
        if len(offsets) == 1:
            offsets.append(-1)
            raise NotReachable("no way just now")
        ours, theirs = pair()
        nursery.start_soon(some, theirs)
        return ours

    async def some(stream: ByteStream) -> None:
        request = decode_as(await stream.read_frame(), ArchiveRequest)
        offsets.append(request.offset)
        await stream.write_frame(encode_message(ArchiveAnswer(len(DATA))))
        await stream.send_all(DATA[request.offset : request.offset + 100_000])
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        assert await read(results(tmp_path, dial)) == DATA
    assert offsets == [0, -1, 100_000, 200_000]


async def test_who_cannot_be_reached_is_given_up(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        dial = Peers(nursery)
        with pytest.raises(ArchiveError, match="cannot be reached: no way to peer-a"):
            await read(results(tmp_path, dial))
        assert len(dial.dialled) == TRIES_MAX
