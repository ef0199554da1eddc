"""Archives: kept by what they hold, fetched from whoever has them, unpacked with suspicion."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tarfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from agent import archives
from agent.archives import (
    ARCHIVE_BYTES_MAX,
    FILES_MAX,
    UNPACKED_BYTES_MAX,
    ArchiveError,
    Archives,
    ByteStream,
    serve,
    unpack,
)
from agent.transport.errors import NotReachable
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.messages import ArchiveAnswer, ArchiveRequest
from protocol.wire import decode_as, encode_message

A, B, C = PeerId("peer-a"), PeerId("peer-b"), PeerId("peer-c")
DATA = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


async def pieces(data: bytes, size: int = 1000) -> AsyncGenerator[bytes, None]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


class Framed:
    """Frames and bytes over one of trio's stream pairs, as a transport's stream has them."""

    def __init__(self, stream: trio.StapledStream) -> None:  # type: ignore[type-arg]
        self._stream = stream
        self.send_all = stream.send_all
        self.aclose = stream.aclose

    async def receive_some(self, n: int = 65536, timeout_s: float = 30.0) -> bytes:
        with trio.fail_after(timeout_s):
            return bytes(await self._stream.receive_some(n))

    async def write_frame(self, frame: bytes) -> None:
        await self._stream.send_all(len(frame).to_bytes(4, "big") + frame)

    async def read_frame(self) -> bytes:
        size = int.from_bytes(await self._exactly(4), "big")
        return await self._exactly(size)

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._stream.receive_some(size - len(data))
            if not more:
                raise EOFError
            data += more
        return data


def pair() -> tuple[Framed, Framed]:
    ours, theirs = trio.testing.memory_stream_pair()
    return Framed(ours), Framed(theirs)


class Peers:
    """Who serves what; dials are remembered."""

    def __init__(self, nursery: trio.Nursery, **serving: Archives) -> None:
        self.nursery = nursery
        self.serving = {PeerId(f"peer-{name}"): one for name, one in serving.items()}
        self.dialled: list[PeerId] = []

    async def __call__(self, peer: PeerId) -> ByteStream:
        self.dialled.append(peer)
        await trio.lowlevel.checkpoint()
        if peer not in self.serving:
            raise NotReachable(f"no way to {peer}")
        ours, theirs = pair()
        self.nursery.start_soon(serve, theirs, (self.serving[peer],))
        return ours


# ---- keeping ----------------------------------------------------------------------------------


async def test_it_is_kept_by_the_digest_of_what_came(tmp_path: Path) -> None:
    kept = Archives(tmp_path)
    assert await kept.put(pieces(DATA)) == (DIGEST, len(DATA))
    assert kept.holds(DIGEST) and kept.path(DIGEST).read_bytes() == DATA
    assert await kept.put(pieces(DATA)) == (DIGEST, len(DATA)), "again is the same"
    assert os.listdir(tmp_path) == [DIGEST]


async def test_one_that_is_too_long_or_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    kept = Archives(tmp_path)
    async with aclosing(pieces(bytes(ARCHIVE_BYTES_MAX + 1), 1 << 20)) as long:
        with pytest.raises(ArchiveError, match="more than 16 MiB"):
            await kept.put(long)

    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"begin"
        raise RemoteProtocolError("gone")

    with pytest.raises(RemoteProtocolError):
        await kept.put(broken())
    assert os.listdir(tmp_path) == []


async def test_what_a_crash_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / "0123.part").write_bytes(b"half")
    Archives(tmp_path)
    assert os.listdir(tmp_path) == []


async def test_the_longest_unused_go_first_over_the_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Archives(tmp_path, quota_bytes=2500)
    monkeypatch.setattr(archives, "KEEP_S", 1e12)
    digests = []
    for number in range(4):
        digest, _ = await kept.put(pieces(bytes([number]) * 1000))
        os.utime(kept.path(digest), (1e9 + number, 1e9 + number))
        digests.append(digest)
    kept.prune()
    assert [kept.holds(digest) for digest in digests] == [False, False, True, True]
    monkeypatch.setattr(archives, "KEEP_S", time.time() - 1e9 - 2.5)
    kept.prune()
    assert [kept.holds(digest) for digest in digests] == [False, False, False, True]


async def test_so_they_do_where_they_are_small_and_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "KEEP_S", 1e12)
    monkeypatch.setattr(archives, "KEPT_MAX", 2)
    kept, digests = Archives(tmp_path), []
    for number in range(4):
        digest, _ = await kept.put(pieces(bytes([number])))
        os.utime(kept.path(digest), (1e9 + number, 1e9 + number))
        digests.append(digest)
    kept.prune()
    assert [kept.holds(digest) for digest in digests] == [False, False, True, True]
    os.utime(kept.path(digests[3]), (1e8, 1e8))
    fresh, _ = await kept.put(pieces(b"fresh"))
    assert [kept.holds(digest) for digest in (*digests[2:], fresh)] == [True, False, True]
    kept._spared = lambda: frozenset(digests[2:3])
    monkeypatch.setattr(archives, "KEPT_MAX", 1)
    kept.prune(fresh)
    assert kept.digests() == {digests[2], fresh}, "what is spared or fresh stays nevertheless"


# ---- fetching ---------------------------------------------------------------------------------


async def test_it_is_fetched_from_the_first_that_has_it(tmp_path: Path) -> None:
    mine, empty, full = (Archives(tmp_path / name) for name in ("mine", "empty", "full"))
    await full.put(pieces(DATA))
    async with trio.open_nursery() as nursery:
        dial = Peers(nursery, b=empty, c=full)
        path = await mine.fetch(DIGEST, len(DATA), (A, B, C), dial)
        assert path.read_bytes() == DATA and dial.dialled == [A, B, C]
        await mine.fetch(DIGEST, len(DATA), (A, B, C), dial)
        assert dial.dialled == [A, B, C], "it is here now"


async def test_two_who_need_it_fetch_it_once(tmp_path: Path) -> None:
    mine, full = Archives(tmp_path / "mine"), Archives(tmp_path / "full")
    await full.put(pieces(DATA))
    async with trio.open_nursery() as outer:
        dial = Peers(outer, c=full)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(mine.fetch, DIGEST, len(DATA), (C,), dial)
        assert dial.dialled == [C]
    assert mine._fetching == {}


async def test_where_nobody_has_it_each_ones_word_is_told(tmp_path: Path) -> None:
    mine, empty = Archives(tmp_path / "mine"), Archives(tmp_path / "empty")
    async with trio.open_nursery() as nursery:
        with pytest.raises(ArchiveError, match=r"peer-a: no way to peer-a; peer-b: is not here"):
            await mine.fetch(DIGEST, len(DATA), (A, B), Peers(nursery, b=empty))
        with pytest.raises(ArchiveError, match="no peer is known to have them"):
            await mine.fetch(DIGEST, len(DATA), (), Peers(nursery))
    with pytest.raises(ArchiveError, match="over 16 MiB"):
        await mine.fetch(DIGEST, ARCHIVE_BYTES_MAX + 1, (A,), Peers(nursery))


@pytest.mark.parametrize(
    ("size", "data", "said"),
    [
        (len(DATA), DATA[:-5], "ended early"),
        (len(DATA), DATA[:-1] + b"x", "other bytes than the digest names"),
        (7, DATA, "has 7 bytes under this digest"),
    ],
)
async def test_a_source_that_lies_is_found_out(
    tmp_path: Path, size: int, data: bytes, said: str
) -> None:
    mine = Archives(tmp_path)
    ours, theirs = pair()

    async def liar() -> None:
        await theirs.read_frame()
        await theirs.write_frame(encode_message(ArchiveAnswer(size)))
        with trio.move_on_after(5):
            try:
                await theirs.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
        await theirs.aclose()

    async def dial(peer: PeerId) -> ByteStream:
        return ours

    async with trio.open_nursery() as nursery:
        nursery.start_soon(liar)
        with pytest.raises(ArchiveError, match=said):
            await mine.fetch(DIGEST, len(DATA), (A,), dial)
    assert os.listdir(tmp_path) == []


async def test_it_serves_what_it_has_from_an_offset_and_no_other_file(tmp_path: Path) -> None:
    empty, full = Archives(tmp_path / "empty"), Archives(tmp_path / "archives")
    await full.put(pieces(DATA))
    (tmp_path / "secret").write_text("secret")
    for digest, offset, size in ((DIGEST, len(DATA) - 3, len(DATA)), (DIGEST, 10**9, len(DATA))):
        ours, theirs = pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs, (empty, full))
            await ours.write_frame(encode_message(ArchiveRequest(digest, offset)))
            answer = decode_as(await ours.read_frame(), ArchiveAnswer)
            assert answer.size == size and not answer.error
            rest = b""
            while more := await ours.receive_some(100):
                rest += more
            assert rest == DATA[offset:]
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, (empty, full))
        await ours.write_frame(encode_message(ArchiveRequest("f" * 64, 0)))
        assert decode_as(await ours.read_frame(), ArchiveAnswer).error == "is not here"
    for name in ("../secret", "", DIGEST.upper()):
        ours, theirs = pair()
        await ours.write_frame(encode_message(ArchiveRequest(name, 0)))
        with pytest.raises(RemoteProtocolError):
            await serve(theirs, (empty, full))
        with pytest.raises(ArchiveError, match="not a SHA-256"):
            full.path(name)


# ---- unpacking --------------------------------------------------------------------------------


def packed(*entries: tuple[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def unpacked(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "packed").write_bytes(data)
    into = tmp_path / "into"
    into.mkdir(exist_ok=True)
    unpack(tmp_path / "packed", into)
    return into


def test_files_and_directories_are_unpacked(tmp_path: Path) -> None:
    into = unpacked(tmp_path, packed(("a", b"1"), ("deep/er/b", b"2")))
    assert (into / "a").read_bytes() == b"1" and (into / "deep/er/b").read_bytes() == b"2"


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    entries = [(f"f{n}", b"") for n in range(FILES_MAX + 1)]
    with pytest.raises(ArchiveError, match="too many"):
        unpacked(tmp_path, packed(*entries))


def test_what_is_said_to_be_huge_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("huge")
    info.size = UNPACKED_BYTES_MAX + 1
    with pytest.raises(ArchiveError, match="too large"):
        unpacked(tmp_path, gzip.compress(info.tobuf()))


def test_damaged_bytes_of_any_kind_are_one_kind_of_error(tmp_path: Path) -> None:
    """gzip, zlib and tarfile raise a dozen; one that got through would end the agent."""
    whole = packed(("a", random.Random(1).randbytes(30_000)), ("b", b"x" * 5000))
    rng = random.Random(2)
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            unpacked(tmp_path, bytes(data[: rng.randrange(len(data))]))
        except ArchiveError as error:
            assert "cannot be unpacked" in str(error) or "shipped" in str(error)
    inner = bytearray(gzip.decompress(whole))
    for _ in range(300):
        data = bytearray(inner)
        for _ in range(3):
            data[rng.randrange(600)] = rng.randrange(256)
        with suppress(ArchiveError):
            unpacked(tmp_path, gzip.compress(bytes(data), 0))
    assert sorted(os.listdir(tmp_path)) == ["into", "packed"]
