"""Searching for who has an archive: what slow peers, wrong ones and many of them cost."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import trio
import trio.testing

from agent.archives import Archives, ByteStream, serve
from agent.inputs.holders import ASK_S, ASKED_MAX, AT_A_TIME, SAID_MAX, SEARCH_S, Search
from agent.transport.errors import NotReachable
from protocol.ids import PeerId
from tests.agent.test_archives import pair

DIGEST = "ab" * 32
SLOW, ABSENT, SHORT = PeerId("slow"), PeerId("absent"), PeerId("short")


class Around:
    """Some say nothing, some are not there, and the rest have what is in their store."""

    def __init__(self, nursery: trio.Nursery, root: Path) -> None:
        self.nursery = nursery
        self.stores = {peer: Archives(root / peer) for peer in (SHORT, PeerId("has"))}
        self.stores[SHORT].path(DIGEST).write_bytes(b"x")
        self.stores[PeerId("has")].path(DIGEST).write_bytes(b"four")
        self.empty = Archives(root / "empty")
        self.dialled: list[PeerId] = []

    async def dial(self, peer: PeerId) -> ByteStream:
        self.dialled.append(peer)
        if peer.startswith(SLOW):
            await trio.sleep_forever()
        if peer == ABSENT:
            raise NotReachable("no way to it")
        ours, theirs = pair()
        self.nursery.start_soon(serve, theirs, (self.stores.get(peer, self.empty),))
        return ours


async def found(search: Search, peers: list[PeerId]) -> list[PeerId]:
    async with aclosing(search.holders(peers)) as holders:
        return [peer async for some in holders for peer in some]


async def test_who_has_another_size_or_nothing_is_no_holder_and_is_told_of(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    around = Around(nursery, tmp_path)
    search = Search(DIGEST, 4, around.dial)
    peers = [ABSENT, SHORT, PeerId("none"), PeerId("has")]
    assert await found(search, peers) == [PeerId("has")]
    assert sorted(search.said) == [
        "absent: no way to it",
        "none: is not here",
        "short: has 1 bytes under this digest, not 4",
    ]
    assert "none of 4 devices has them: " in search.told()


async def test_one_that_says_nothing_costs_its_time_and_no_other_an_answer(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    around = Around(nursery, tmp_path)
    search = Search(DIGEST, 4, around.dial)
    assert await found(search, [SLOW, PeerId("has")]) == [PeerId("has")]
    assert trio.current_time() <= ASK_S + 1
    assert search.said == ["slow: TooSlowError"]


async def test_a_search_ends_in_time_however_many_say_nothing(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    around = Around(nursery, tmp_path)
    search = Search(DIGEST, 4, around.dial)
    started = trio.current_time()
    assert await found(search, [PeerId(f"slow{number}") for number in range(ASKED_MAX)]) == []
    assert trio.current_time() - started <= SEARCH_S + 2 * ASK_S
    assert AT_A_TIME < search.asked < ASKED_MAX
    assert search.told().endswith(f"; and {search.asked - SAID_MAX} more")


async def test_no_more_are_asked_than_there_is_reason_to(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    around = Around(nursery, tmp_path)
    peers = [ABSENT] * ASKED_MAX + [PeerId("has")]
    assert await found(Search(DIGEST, 4, around.dial), peers) == []
    assert len(around.dialled) == ASKED_MAX


def test_alone_there_is_nobody_to_ask() -> None:
    async def dial(peer: PeerId) -> ByteStream:
        raise NotReachable(peer)

    assert "no other device is here" in Search(DIGEST, 4, dial).told()
