"""Live output: bounded between the thread and its reader, and over when either of them is."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest
import trio
import trio.testing

from agent.engines.docker_client import NotAnswering
from agent.engines.docker_live import QUEUED_BYTES, READERS_MAX, Follower, live
from agent.engines.engine import Crowded
from agent.logs import SERVED_MAX
from protocol.streams import STREAMS_MAX
from tests.agent.test_threads import no_threads

WITHIN_S = 20.0
SIZE = 64 << 10


def nothing() -> None:
    pass


class Full(threading.Condition):
    """A lock that tells when the thread waits for room."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.release()
        return super().wait(timeout)


class Counted:
    """Frames of one size, and how many of them were asked for."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self.given == self.count:
            raise StopIteration
        self.given += 1
        return bytes([self.given]) * SIZE


class Sent:
    """Frames as a test sends them; closed, it breaks as a socket does."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data = self.sent.get()
        if data is None:
            raise StopIteration
        if data == b"broken":
            raise OSError("closed under us")
        return data

    def close(self) -> None:
        self.closed += 1
        self.sent.put(b"broken")


@pytest.fixture
def full() -> Full:
    return Full()


def begun(follower: Follower) -> threading.Thread:
    thread = threading.Thread(target=follower.run, daemon=True)
    thread.start()
    return thread


def joined(thread: threading.Thread) -> bool:
    thread.join(WITHIN_S)
    return not thread.is_alive()


# ---- the follower ------------------------------------------------------------------------------


def test_what_came_is_taken_once_and_its_end_told() -> None:
    woken: list[int] = []
    follower = Follower(iter([b"a", b"b"]), lambda: woken.append(1))
    follower.run()
    assert len(woken) == 2, "for the first frame, and for the end"
    assert follower.take() == ([b"a", b"b"], True)
    assert follower.take() == ([], True)


def test_no_output_is_an_end_that_wakes() -> None:
    woken: list[int] = []
    follower = Follower(iter([]), lambda: woken.append(1))
    follower.run()
    assert (woken, follower.take()) == ([1], ([], True))


def test_frames_that_break_off_end_it_with_what_came_before() -> None:
    def breaking() -> Iterator[bytes]:
        yield b"a"
        raise OSError("the socket is gone")

    follower = Follower(breaking(), nothing)
    follower.run()
    assert follower.take() == ([b"a"], True)


def test_no_more_is_read_ahead_than_is_allowed(full: Full) -> None:
    frames = Counted(12)
    held = QUEUED_BYTES // SIZE + 1
    follower = Follower(frames, nothing, full)
    thread = begun(follower)
    assert full.waits.acquire(timeout=WITHIN_S)
    assert frames.given == held + 1, "one more is on its way"
    taken, ended = follower.take()
    assert ([len(data) for data in taken], ended) == ([SIZE] * held, False)
    assert full.waits.acquire(timeout=WITHIN_S)
    assert frames.given == 2 * held + 1
    while not ended:
        more, ended = follower.take()
        taken += more
    assert joined(thread)
    assert [data[0] for data in taken] == list(range(1, 13))


def test_a_frame_in_an_empty_queue_wakes_and_those_behind_it_do_not(full: Full) -> None:
    woken: list[int] = []
    follower = Follower(Counted(12), lambda: woken.append(1), full)
    thread = begun(follower)
    assert full.waits.acquire(timeout=WITHIN_S)
    assert len(woken) == 1
    follower.take()
    assert full.waits.acquire(timeout=WITHIN_S)
    assert len(woken) == 2
    follower.close()
    assert joined(thread)


def test_closed_while_it_waits_for_room_the_thread_ends(full: Full) -> None:
    frames = Counted(1000)
    follower = Follower(frames, nothing, full)
    thread = begun(follower)
    assert full.waits.acquire(timeout=WITHIN_S)
    follower.close()
    assert joined(thread)
    assert frames.given == QUEUED_BYTES // SIZE + 2
    assert follower.take()[1] is True


def test_closed_before_it_began_it_reads_no_further() -> None:
    frames = Counted(1000)
    follower = Follower(frames, nothing)
    follower.close()
    follower.run()
    assert frames.given == 1
    assert follower.take() == ([], True)


# ---- a reader ----------------------------------------------------------------------------------


class Reading:
    """A nursery of the engine, and readers in it."""

    def __init__(self, nursery: trio.Nursery, readers_max: int) -> None:
        self.limiter = trio.CapacityLimiter(readers_max)
        self.nursery = nursery

    @asynccontextmanager
    async def of(
        self, frames: Iterator[bytes], source: object
    ) -> AsyncIterator[AsyncIterator[list[bytes]]]:
        read = live(frames, source, self.limiter, self.nursery.start_soon)
        async with aclosing(read) as batches:
            yield batches


@asynccontextmanager
async def reading(readers_max: int = 4) -> AsyncIterator[Reading]:
    """It ends when the threads have."""
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            yield Reading(nursery, readers_max)


async def test_all_frames_come_in_order_and_then_the_end() -> None:
    source = Sent()
    frames = [b"%d\n" % number for number in range(5000)]
    async with reading() as it, it.of(iter(frames), source) as batches:
        found = [data async for batch in batches for data in batch]
    assert found == frames
    assert source.closed == 1


async def test_a_flood_is_read_to_its_end() -> None:
    async with reading() as it, it.of(iter(Counted(60)), Sent()) as batches:
        found = [data[0] async for batch in batches for data in batch]
    assert found == list(range(1, 61))


async def test_without_output_there_is_no_batch() -> None:
    async with reading() as it, it.of(iter([]), Sent()) as batches:
        assert [batch async for batch in batches] == []


async def test_frames_come_as_they_are_written() -> None:
    frames = Sent()
    async with reading() as it, it.of(frames, frames) as batches:
        for data in (b"a\n", b"b\n"):
            frames.sent.put(data)
            assert await anext(batches) == [data]
        frames.sent.put(None)
        assert [batch async for batch in batches] == []


async def test_frames_that_break_off_are_an_end() -> None:
    frames = Sent()
    async with reading() as it, it.of(frames, frames) as batches:
        frames.sent.put(b"a\n")
        assert await anext(batches) == [b"a\n"]
        frames.sent.put(b"broken")
        assert [batch async for batch in batches] == []


async def test_a_docker_that_does_not_answer_is_no_end() -> None:
    def frames() -> Iterator[bytes]:
        yield b"a\n"
        raise NotAnswering("docker did not answer within 60 s")

    async with reading() as it, it.of(frames(), Sent()) as batches:
        with pytest.raises(NotAnswering):
            assert [batch async for batch in batches] == [[b"a\n"]]


async def test_a_reader_that_goes_ends_what_it_read_from() -> None:
    frames = Sent()
    async with reading() as it:
        async with it.of(frames, frames) as batches:
            frames.sent.put(b"a\n")
            await anext(batches)
        assert frames.closed == 1
    assert it.limiter.borrowed_tokens == 0


async def test_a_reader_that_goes_ends_a_thread_that_waits_for_room() -> None:
    frames, source = Counted(1000), Sent()
    async with reading() as it, it.of(iter(frames), source) as batches:
        await anext(batches)
    assert it.limiter.borrowed_tokens == 0
    assert frames.given < 100 and source.closed == 1


async def test_a_source_that_cannot_be_closed_any_more_says_nothing() -> None:
    class Gone:
        def close(self) -> None:
            raise AttributeError("there is no socket")

    async with reading() as it, it.of(iter([b"a"]), Gone()) as batches:
        assert [batch async for batch in batches] == [[b"a"]]


async def test_more_readers_than_may_are_refused_in_words_until_one_goes() -> None:
    first, second = Sent(), Sent()
    second.sent.put(b"2")
    async with reading(readers_max=1) as it:
        async with it.of(first, first) as batches:
            first.sent.put(b"1")
            assert await anext(batches) == [b"1"]
            async with it.of(second, second) as refused:
                with pytest.raises(Crowded, match=r"^1 follow the output of containers there"):
                    await anext(refused)
            assert second.closed == 1 and second.sent.qsize() == 2, "nobody reads it"
        with trio.fail_after(WITHIN_S):
            while it.limiter.borrowed_tokens:  # its thread has not ended yet
                await trio.testing.wait_all_tasks_blocked(0.01)
        third = Sent()
        third.sent.put(b"3")
        async with it.of(third, third) as batches:
            assert await anext(batches) == [b"3"]


async def test_a_device_that_can_begin_no_thread_says_so_and_keeps_the_place_free() -> None:
    frames, later = Sent(), Sent()
    later.sent.put(b"a\n")
    async with reading(readers_max=1) as it:
        with no_threads():
            async with it.of(frames, frames) as batches:
                with pytest.raises(Crowded, match=r"no thread .*: can't start new thread$"):
                    await anext(batches)
        assert (frames.closed, it.limiter.borrowed_tokens) == (1, 0)
        async with it.of(later, later) as batches:
            assert await anext(batches) == [b"a\n"]


async def test_there_is_a_place_for_all_that_is_promised() -> None:
    """To begin at once, however many begin together."""
    promised = STREAMS_MAX + SERVED_MAX
    assert promised < READERS_MAX
    sources = [Sent() for _ in range(promised)]
    found: list[bytes] = []
    async with reading(READERS_MAX) as it:

        async def read(source: Sent) -> None:
            async with it.of(source, source) as batches:
                found.extend(await anext(batches))

        async with trio.open_nursery() as nursery:
            for source in sources:
                nursery.start_soon(read, source)
            await trio.testing.wait_all_tasks_blocked()
            assert it.limiter.borrowed_tokens == promised
            for number, source in enumerate(sources):
                source.sent.put(b"%d" % number)
    assert sorted(found, key=int) == [b"%d" % number for number in range(promised)]
    assert it.limiter.borrowed_tokens == 0


async def test_an_agent_that_ends_does_not_wait_for_output() -> None:
    frames, source = Sent(), Sent()
    async with reading() as it, it.of(frames, source) as batches:
        frames.sent.put(b"a")
        await anext(batches)
        it.nursery.cancel_scope.cancel()
    assert source.closed == 1
    frames.sent.put(None)
