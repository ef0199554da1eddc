"""Logs: read here or over a stream, from the beginning or the end, while it runs and after."""

from __future__ import annotations

import errno
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio

from agent import logs
from agent.archives import ByteStream
from agent.control.backend import LogQuery, RequestError, View
from agent.control.feed import Feed
from agent.engines.engine import Engines
from agent.engines.process import ProcessEngine
from agent.engines.task import TaskLaunch, TaskUser
from agent.logs import JobLogs, Logs
from agent.transport.errors import NotReachable
from agent.transport.settings import TransportSettings
from agent.transport.streams import DEADLINE_S
from protocol.errors import ShoalError
from protocol.ids import ExecutionId, PeerId
from protocol.messages import LogChunk
from tests.agent.test_archives import pair
from tests.agent.test_threads import no_threads
from tests.agent.whole import WITHIN_S, open_directory, until

ME, OTHER = PeerId("me"), PeerId("other")
E1 = ExecutionId("e" * 32)


@pytest.fixture
def root() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def engine(root: Path) -> AsyncIterator[ProcessEngine]:
    made = ProcessEngine(root / "executions", TaskUser.default())
    yield made
    with trio.CancelScope(shield=True):
        for found in await made.adopt():
            await made.stop(found.execution_id, grace_s=0)
            await made.wait(found.execution_id)
    made.close()


async def run(engine: ProcessEngine, script: str, *, wait: bool = True) -> None:
    await engine.start(TaskLaunch(E1, ("sh", "-c", script)))
    if wait:
        await engine.wait(E1)


async def nowhere(peer: PeerId) -> NoReturn:
    raise NotReachable("nobody there")


def served_by(far: Logs, nursery: trio.Nursery) -> Callable[[PeerId], Awaitable[ByteStream]]:
    """A dialler whose streams the other device serves."""

    async def dial(peer: PeerId) -> ByteStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = pair()
        nursery.start_soon(far.serve, theirs)
        return ours

    return dial


class Reader:
    def __init__(self) -> None:
        self.data = b""
        self.came = trio.Event()

    async def write(self, chunk: LogChunk) -> None:
        self.data += chunk.data
        self.came.set()


# ---- one execution ----------------------------------------------------------------------------


async def test_output_is_the_same_here_and_from_another_device(engine: ProcessEngine) -> None:
    await run(engine, "seq 20000; echo err >&2")
    expected = b"".join(b"%d\n" % n for n in range(1, 20001))
    async with trio.open_nursery() as nursery:
        near = Logs(Engines(engine), nowhere, ME)
        far = Logs(Engines(engine), served_by(near, nursery), OTHER)
        for place in (near, far):
            for follow in (False, True):
                out, err = Reader(), Reader()
                await place.read(E1, ME, "stdout", LogQuery(follow=follow), out.write)
                await place.read(E1, ME, "stderr", LogQuery(follow=follow), err.write)
                assert (out.data, err.data) == (expected, b"err\n")
            last = Reader()
            await place.read(E1, ME, "stdout", LogQuery(tail=2), last.write)
            assert last.data == b"19999\n20000\n"


async def test_what_comes_is_followed_to_the_end(engine: ProcessEngine) -> None:
    await run(engine, "echo begin; sleep 0.3; echo end", wait=False)
    async with trio.open_nursery() as nursery:
        far = Logs(Engines(engine), served_by(Logs(Engines(engine), nowhere, ME), nursery), OTHER)
        reader = Reader()
        with trio.fail_after(WITHIN_S):
            await far.read(E1, ME, "stdout", LogQuery(follow=True), reader.write)
    assert reader.data == b"begin\nend\n"


async def test_what_was_written_since_a_moment_is_read_here_and_there(
    engine: ProcessEngine,
) -> None:
    await run(engine, "echo before; sleep 0.5; date +%s%3N; sleep 0.2; echo after")
    everything = Reader()
    async with trio.open_nursery() as nursery:
        near = Logs(Engines(engine), nowhere, ME)
        far = Logs(Engines(engine), served_by(near, nursery), OTHER)
        await near.read(E1, ME, "stdout", LogQuery(), everything.write)
        moment_ms = int(everything.data.split()[1])
        for place in (near, far):
            for since_ms, lines in ((1, 3), (moment_ms - 200, 2), (moment_ms + 100, 1)):
                reader = Reader()
                await place.read(E1, ME, "stdout", LogQuery(since_ms=since_ms), reader.write)
                assert len(reader.data.splitlines()) == lines, (since_ms, reader.data)
            late = Reader()
            await place.read(E1, ME, "stdout", LogQuery(since_ms=moment_ms + 10**9), late.write)
            assert late.data == b""


async def test_an_unknown_execution_is_an_error_in_words(engine: ProcessEngine) -> None:
    async with trio.open_nursery() as nursery:
        near = Logs(Engines(engine), nowhere, ME)
        far = Logs(Engines(engine), served_by(near, nursery), OTHER)
        for follow in (False, True):
            with pytest.raises(KeyError):
                await near.read(E1, ME, "stdout", LogQuery(follow=follow), Reader().write)
            with pytest.raises(RequestError, match="no longer here"):
                await far.read(E1, ME, "stdout", LogQuery(follow=follow), Reader().write)


async def test_a_device_that_can_begin_no_thread_says_so_here_and_there(
    engine: ProcessEngine,
) -> None:
    await run(engine, "echo said")
    async with trio.open_nursery() as nursery:
        near = Logs(Engines(engine), nowhere, ME)
        far = Logs(Engines(engine), served_by(near, nursery), OTHER)
        with no_threads():
            with pytest.raises(OSError, match="no thread could be begun"):
                await near.read(E1, ME, "stdout", LogQuery(), Reader().write)
            with pytest.raises(RequestError, match="no thread could be begun"):
                await far.read(E1, ME, "stdout", LogQuery(), Reader().write)
        reader = Reader()
        await far.read(E1, ME, "stdout", LogQuery(), reader.write)
        assert reader.data == b"said\n"


async def test_a_connection_that_breaks_off_is_taken_up_where_it_was(
    engine: ProcessEngine, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    asked: list[int] = []

    async def dial(peer: PeerId) -> ByteStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = pair()
        nursery.start_soon(flaky, theirs)
        return ours

    async def flaky(stream: Any) -> None:
        request = logs.decode_as(await stream.read_frame(), logs.LogRequest)
        asked.append(request.offset)
        if len(asked) == 2:
            await stream.aclose()
            return
        await stream.write_frame(
            logs.encode_message(LogChunk(request.offset, b"12345", len(asked) == 3))
        )
        await stream.aclose()

    reader = Reader()
    async with trio.open_nursery() as nursery:
        await Logs(Engines(engine), dial, ME).read(
            E1, OTHER, "stdout", LogQuery(tail=10, follow=True), reader.write
        )
    assert asked == [0, 5, 5] and reader.data == b"1234512345"


async def test_a_connection_that_breaks_off_again_and_again_is_followed_on(
    engine: ProcessEngine, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    breaks = 3 * logs.TRIES_MAX

    async def dial(peer: PeerId) -> ByteStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = pair()
        nursery.start_soon(flaky, theirs)
        return ours

    async def flaky(stream: Any) -> None:
        request = logs.decode_as(await stream.read_frame(), logs.LogRequest)
        chunk = LogChunk(request.offset, b"x", request.offset == breaks)
        await stream.write_frame(logs.encode_message(chunk))
        await stream.aclose()

    reader = Reader()
    async with trio.open_nursery() as nursery:
        await Logs(Engines(engine), dial, ME).read(
            E1, OTHER, "stdout", LogQuery(follow=True), reader.write
        )
    assert reader.data == b"x" * (breaks + 1)


async def test_a_task_that_says_nothing_is_no_stream_that_broke(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert min(DEADLINE_S, TransportSettings().splice_idle_s) > 2 * logs.BEAT_S
    monkeypatch.setattr(logs, "BEAT_S", 0.05)
    await run(engine, "echo begun; sleep 600", wait=False)
    ours, theirs = pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Logs(Engines(engine), nowhere, ME).serve, theirs)
        await ours.write_frame(logs.encode_message(logs.LogRequest(E1, "stdout", 0, -1, True)))
        with trio.fail_after(WITHIN_S):
            chunks = [logs.decode_as(await ours.read_frame(), LogChunk) for _ in range(4)]
        await ours.aclose()
    assert b"".join(chunk.data for chunk in chunks) == b"begun\n"
    assert chunks[-1] == LogChunk(6, b"", False)


async def test_a_reader_that_goes_frees_its_place_at_once(engine: ProcessEngine) -> None:
    await run(engine, "echo begun; sleep 600", wait=False)
    near = Logs(Engines(engine), nowhere, ME)
    async with trio.open_nursery() as nursery:
        far = Logs(Engines(engine), served_by(near, nursery), OTHER)
        for _ in range(3):
            reader = Reader()
            async with trio.open_nursery() as reading:
                reading.start_soon(far.read, E1, ME, "stdout", LogQuery(follow=True), reader.write)
                with trio.fail_after(WITHIN_S):
                    await reader.came.wait()
                reading.cancel_scope.cancel()
            await until(lambda: near._served == 0)


async def test_a_peer_that_cannot_be_reached_is_given_up(
    engine: ProcessEngine, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    with pytest.raises(ShoalError, match="cannot be reached"):
        await Logs(Engines(engine), nowhere, ME).read(
            E1, OTHER, "stdout", LogQuery(follow=True), Reader().write
        )


async def test_one_that_cannot_be_reached_for_long_is_given_up(
    engine: ProcessEngine, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    dialled = 0

    async def far_away(peer: PeerId) -> ByteStream:
        nonlocal dialled
        dialled += 1
        await trio.sleep(2 * logs.STEADY_S)
        raise NotReachable("nobody there")

    with pytest.raises(ShoalError, match="cannot be reached"):
        await Logs(Engines(engine), far_away, ME).read(
            E1, OTHER, "stdout", LogQuery(follow=True), Reader().write
        )
    assert dialled == logs.TRIES_MAX


async def test_readers_are_bounded(engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SERVED_MAX", 0)
    await run(engine, "echo x")
    async with trio.open_nursery() as nursery:
        far = Logs(Engines(engine), served_by(Logs(Engines(engine), nowhere, ME), nursery), OTHER)
        with pytest.raises(RequestError, match="too many"):
            await far.read(E1, ME, "stdout", LogQuery(), Reader().write)


# ---- a job ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LOOK_S", 0.05)


def view(state: str, execution: str = E1, /, **more: Any) -> View:
    slot = {"slot": 0, "execution": execution, "executor": ME, "executor_name": "me", **more}
    return {"id": "job", "state": state, "slots": [slot]}


class Job:
    """A job as it is seen over time; the last view stays."""

    def __init__(self, *views: View | RequestError) -> None:
        self.views = list(views)
        self.feed = Feed(lambda: 0)

    async def look(self) -> View:
        await trio.lowlevel.checkpoint()
        seen = self.views.pop(0) if len(self.views) > 1 else self.views[0]
        if isinstance(seen, RequestError):
            raise seen
        return seen

    async def lines(
        self, engine: ProcessEngine, follow: bool, wanted: LogQuery | None = None
    ) -> list[View]:
        events, wanted = self.feed.follow(0, "job"), wanted or LogQuery(follow=follow)
        place = Logs(Engines(engine), nowhere, ME)
        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                reader = JobLogs(place, self.look, events, wanted, nursery)
                found: list[View] = []
                try:
                    async for line in reader:
                        found.append(line)
                except RequestError as error:
                    found.append({"error": error.text})
                await reader.aclose()
        assert self.feed.followers == 0
        return found


async def test_a_jobs_lines_say_whose_they_are(engine: ProcessEngine) -> None:
    await run(engine, "echo out; echo err >&2")
    lines = await Job(view("completed")).lines(engine, False)
    assert {(line["stream"], line["data"]) for line in lines} == {
        ("stdout", b"out\n"),
        ("stderr", b"err\n"),
    }
    whose = {(line["slot"], line["peer_name"], line["execution"]) for line in lines}
    assert whose == {(0, "me", E1)}


async def test_an_execution_that_is_not_there_yet_is_looked_for_again(
    engine: ProcessEngine,
) -> None:
    await run(engine, "echo late")
    seen = (
        view("running", "e" * 31 + "2"),
        view("running", ""),
        view("running"),
        view("completed"),
    )
    lines = await Job(*seen).lines(engine, True)
    assert [line["data"] for line in lines] == [b"late\n"]


async def test_a_job_that_nobody_answers_for_just_now_is_asked_for_again(
    engine: ProcessEngine,
) -> None:
    """Its coordinator died, and the next one has not taken over yet."""
    await run(engine, "echo still here")
    lost = RequestError(404, "no job")
    lines = await Job(view("running"), lost, lost, view("completed")).lines(engine, True)
    assert [line["data"] for line in lines] == [b"still here\n"]
    assert await Job(lost).lines(engine, False) == [{"error": "no job"}]


async def test_a_job_that_nobody_answers_for_any_more_is_no_end_of_its_output(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "LOOKS_MAX", 3)
    await run(engine, "echo begun")
    lines = await Job(view("running"), RequestError(404, "no job")).lines(engine, True)
    assert [line.get("data") for line in lines[:-1]] == [b"begun\n"]
    assert lines[-1] == {"error": "no job"}


async def test_an_executor_that_is_back_is_followed_from_where_it_broke_off(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TRIES_MAX", 1)
    asked: list[int] = []
    running = {**view("running"), "slots": [{**view("running")["slots"][0], "executor": OTHER}]}

    async def dial(peer: PeerId) -> ByteStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = pair()
        nursery.start_soon(answer, theirs)
        return ours

    async def answer(stream: Any) -> None:
        request = logs.decode_as(await stream.read_frame(), logs.LogRequest)
        asked.append(request.offset)
        if len(asked) in (1, 4):
            chunk = LogChunk(request.offset, b"12345", len(asked) == 4)
            await stream.write_frame(logs.encode_message(chunk))
        await stream.aclose()

    async def look() -> View:
        await trio.lowlevel.checkpoint()
        return running if len(asked) < 4 else {**running, "state": "completed"}

    found: list[View] = []
    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            place = Logs(Engines(engine), dial, ME)
            events = Feed(lambda: 0).follow(0, "job")
            wanted = LogQuery(stream="stdout", follow=True)
            reader = JobLogs(place, look, events, wanted, nursery)
            found = [line async for line in reader]
            await reader.aclose()
    assert [line["data"] for line in found if line["data"]] == [b"12345", b"12345"]
    assert asked == [0, 5, 5, 5]


async def test_of_many_slots_some_are_read_at_a_time(engine: ProcessEngine) -> None:
    open_now, open_most = 0, 0

    async def dial(peer: PeerId) -> ByteStream:
        nonlocal open_now, open_most
        open_now += 1
        open_most = max(open_most, open_now)
        ours, theirs = pair()
        nursery.start_soon(answer, theirs)
        await trio.lowlevel.checkpoint()
        return ours

    async def answer(stream: Any) -> None:
        nonlocal open_now
        request = logs.decode_as(await stream.read_frame(), logs.LogRequest)
        await trio.testing.wait_all_tasks_blocked()
        open_now -= 1
        await stream.write_frame(logs.encode_message(LogChunk(request.offset, b"x", True)))

    slot = {**view("completed")["slots"][0], "executor": OTHER}
    ids = [chr(ord("a") + number // 6) * 26 + "234567"[number % 6] * 6 for number in range(40)]
    many = [{**slot, "slot": number, "execution": each} for number, each in enumerate(ids)]

    async def look() -> View:
        await trio.lowlevel.checkpoint()
        return {**view("completed"), "slots": many}

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            events = Feed(lambda: 0).follow(0, "job")
            reader = JobLogs(Logs(Engines(engine), dial, ME), look, events, LogQuery(), nursery)
            found = [line async for line in reader]
            await reader.aclose()
    assert len(found) == 80 and open_most == logs.READ_MAX


def noted(lines: list[View]) -> set[str]:
    """What is said of missing output, all of which has no data."""
    assert all(line["data"] == b"" for line in lines if "note" in line)
    return {line["note"] for line in lines if "note" in line}


@pytest.mark.parametrize("follow", [False, True])
async def test_output_that_is_gone_is_replaced_by_what_came_with_the_result_and_that_is_said(
    engine: ProcessEngine, follow: bool
) -> None:
    gone = view("completed", "e" * 31 + "3", stdout_tail="the end\n", stderr_tail="")
    lines = await Job(gone).lines(engine, follow)
    assert [line["data"] for line in lines if line["data"]] == [b"the end\n"]
    assert noted(lines) == {"is as it came with the result: none is kept there"}
    assert {(line["cause"], line["missing"]) for line in lines if "note" in line} == {
        ("gone", False)
    }


async def test_of_what_came_with_the_result_the_lines_are_given_that_were_asked_for(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TRIES_MAX", 1)
    tail = "".join(f"{number}\n" for number in range(40))
    away = view("completed", executor=OTHER, stdout_tail=tail, stderr_tail="", ended_ms=5_000)

    async def read(**wanted: Any) -> tuple[bytes, list[View]]:
        lines = await Job(away).lines(engine, False, LogQuery(**wanted))
        return b"".join(line["data"] for line in lines), [each for each in lines if "note" in each]

    data, notes = await read()
    assert data == tail.encode() and all(note["missing"] for note in notes)
    assert {note["stream"] for note in notes} == {"stdout", "stderr"}
    assert {note["peer"] for note in notes} == {OTHER}
    assert "may not be all: the device cannot be reached" in notes[0]["note"]
    data, notes = await read(tail=2)
    assert data == b"38\n39\n" and not any(note["missing"] for note in notes)
    assert await read(since_ms=5_001) == (b"", []), "nothing was written since"


@pytest.mark.parametrize("state", ["running", "starting"])
async def test_a_device_that_is_away_while_its_task_runs_is_no_silence(
    engine: ProcessEngine, state: str, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    lines = await Job(view("running", executor=OTHER, state=state)).lines(engine, False)
    assert [line["data"] for line in lines] == [b"", b""] and lines[0]["missing"]
    (note,) = noted(lines)
    assert note.startswith("cannot be had: the device cannot be reached; `shoal logs -f` waits")


async def test_who_follows_a_device_that_is_away_is_told_once_and_again_when_it_goes_again(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TRIES_MAX", 1)
    there, dialled = iter((0, 0, 0, 1, 0, 0, 0, 1)), 0

    async def dial(peer: PeerId) -> ByteStream:
        nonlocal dialled
        dialled += 1
        if not next(there):
            await nowhere(peer)
        await trio.lowlevel.checkpoint()
        ours, theirs = pair()
        nursery.start_soon(answer, theirs)
        return ours

    async def answer(stream: Any) -> None:
        request = logs.decode_as(await stream.read_frame(), logs.LogRequest)
        chunk = LogChunk(request.offset, b"12345", dialled == 8)
        await stream.write_frame(logs.encode_message(chunk))
        await stream.aclose()

    async def look() -> View:
        await trio.lowlevel.checkpoint()
        return view("running" if dialled < 8 else "completed", executor=OTHER)

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            events = Feed(lambda: 0).follow(0, "job")
            wanted = LogQuery(stream="stdout", follow=True)
            reader = JobLogs(Logs(Engines(engine), dial, ME), look, events, wanted, nursery)
            found = [line async for line in reader]
            await reader.aclose()
    assert [line["data"] for line in found] == [b"", b"12345", b"", b"12345"]
    assert len(noted(found)) == 1 and not found[0]["missing"] and "it is asked again" in str(found)


@pytest.mark.parametrize("follow", [False, True])
async def test_who_asks_a_device_that_does_not_answer_hears_of_it_before_it_is_given_up(
    engine: ProcessEngine, follow: bool, autojump_clock: trio.testing.MockClock
) -> None:
    begun, told = trio.current_time(), list[tuple[float, str]]()

    async def silent(peer: PeerId) -> ByteStream:
        await trio.sleep(10.0)
        return await nowhere(peer)

    async def look() -> View:
        await trio.lowlevel.checkpoint()
        return view("running", executor=OTHER)

    async with trio.open_nursery() as nursery:
        events = Feed(lambda: 0).follow(0, "job")
        wanted = LogQuery(stream="stdout", follow=follow)
        reader = JobLogs(Logs(Engines(engine), silent, ME), look, events, wanted, nursery)
        with trio.move_on_after(200.0):
            async for line in reader:
                told.append((trio.current_time() - begun, line["cause"]))
        await reader.aclose()
    assert [cause for _, cause in told] == ["waiting", "unreachable"], "each once"
    (first, _), (last, _) = told
    assert logs.SLOW_S <= first < logs.SLOW_S + 1 and last > 4 * 10.0


async def test_output_that_breaks_off_for_good_says_so(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TRIES_MAX", 1)

    async def dial(peer: PeerId) -> ByteStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = pair()
        nursery.start_soon(answer, theirs)
        return ours

    async def answer(stream: Any) -> None:
        await stream.read_frame()
        await stream.write_frame(logs.encode_message(LogChunk(0, b"12345", False)))
        await stream.aclose()

    async def look() -> View:
        await trio.lowlevel.checkpoint()
        return view("completed", executor=OTHER, stdout_tail="12345678\n")

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            events, wanted = Feed(lambda: 0).follow(0, "job"), LogQuery(stream="stdout")
            reader = JobLogs(Logs(Engines(engine), dial, ME), look, events, wanted, nursery)
            found = [line async for line in reader]
            await reader.aclose()
    assert [line["data"] for line in found] == [b"12345", b""] and found[1]["missing"]
    assert found[1]["note"].startswith("breaks off: the device cannot be reached; once it is back")


async def test_what_came_with_the_result_is_known_to_whoever_asked_before(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device goes as its task ends: what it was seen to be before has no result."""
    monkeypatch.setattr(logs, "TRIES_MAX", 1)
    ended, asked = trio.Event(), trio.Event()

    async def dial(peer: PeerId) -> ByteStream:
        asked.set()
        await ended.wait()
        return await nowhere(peer)

    async def look() -> View:
        await trio.lowlevel.checkpoint()
        if not asked.is_set():
            return view("running", executor=OTHER)
        ended.set()
        return view("completed", executor=OTHER, stdout_tail="the end\n")

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            events = Feed(lambda: 0).follow(0, "job")
            wanted = LogQuery(stream="stdout", follow=True)
            reader = JobLogs(Logs(Engines(engine), dial, ME), look, events, wanted, nursery)
            found = [line async for line in reader]
            await reader.aclose()
    assert [line["data"] for line in found] == [b"the end\n", b""]


async def test_a_device_that_fails_to_give_output_says_why_to_whoever_asks(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(engine, "echo x")

    async def no_disk(*_: object) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EIO, "Input/output error", "/data/executions/e1")
        yield

    monkeypatch.setattr(engine, "log", no_disk)
    async with trio.open_nursery() as nursery:
        far = Logs(Engines(engine), served_by(Logs(Engines(engine), nowhere, ME), nursery), OTHER)
        with pytest.raises(RequestError, match=r"^Input/output error$"):
            await far.read(E1, ME, "stdout", LogQuery(), Reader().write)


async def test_between_two_starts_of_a_service_the_output_of_the_one_that_ended_is_shown(
    engine: ProcessEngine,
) -> None:
    """While it waits to be started again is when people ask why it crashed."""
    await run(engine, "echo why it crashed")

    def service(slot: View, *executions: View) -> View:
        return {**slot, "type": "service", "executions": list(executions)}

    def start(execution: str, started_ms: int, state: str) -> View:
        at = {"id": execution, "slot": 0, "peer": ME, "peer_name": "me", "state": state}
        return {**at, "started_ms": started_ms}

    earlier = start("e" * 31 + "3", 5, "failed")
    last, next_one = start(E1, 10, "failed"), start("e" * 31 + "4", 0, "restarting")
    waits = view("pending", str(next_one["id"]), started_ms=0, state="restarting")
    moves = {**view("pending", ""), "slots": [{**view("", "")["slots"][0], "executor": ""}]}
    for seen in (waits, moves):
        lines = await Job(service(seen, last, earlier, next_one)).lines(engine, False)
        assert [line["data"] for line in lines] == [b"why it crashed\n"]
    gives_up = view("pending", E1, started_ms=0)
    lines = await Job(service(gives_up, last, earlier)).lines(engine, False)
    assert [line["data"] for line in lines] == [b"why it crashed\n"], "once"
    runs = view("running", str(next_one["id"]), started_ms=12)
    running = start(str(next_one["id"]), 12, "running")
    lines = await Job(service(runs, last, running)).lines(engine, False)
    assert [line["data"] for line in lines] == [b"", b""], "that of the present one is not here"


async def answered(
    engine: ProcessEngine, answer: Callable[[Any], Awaitable[None]], look: Callable[[], Any]
) -> list[View]:
    """The lines of stdout for who follows a job, of which `answer` serves what ran elsewhere."""

    async def dial(peer: PeerId) -> ByteStream:
        await trio.lowlevel.checkpoint()
        ours, theirs = pair()
        nursery.start_soon(answer, theirs)
        return ours

    async def seen() -> View:
        await trio.lowlevel.checkpoint()
        shown: View = look()
        return shown

    with trio.fail_after(WITHIN_S):
        async with trio.open_nursery() as nursery:
            events, place = Feed(lambda: 0).follow(0, "job"), Logs(Engines(engine), dial, ME)
            wanted = LogQuery(stream="stdout", follow=True)
            reader = JobLogs(place, seen, events, wanted, nursery)
            found = [line async for line in reader]
            await reader.aclose()
    return found


BEFORE = "e" * 31 + "2"  # an execution whose slot is placed again


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("given", [b"12345", b""])
async def test_output_of_a_device_that_died_in_mid_run_is_missing_though_another_ran_it_anew(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch, given: bytes, waits: bool
) -> None:
    monkeypatch.setattr(logs, "TRIES_MAX", 1)
    await run(engine, "echo anew")
    asked, looks = 0, 0

    async def answer(stream: Any) -> None:
        nonlocal asked
        asked += 1
        await stream.read_frame()
        if asked == 1 and given:
            await stream.write_frame(logs.encode_message(LogChunk(0, given, False)))
        await stream.aclose()

    def look() -> View:
        nonlocal looks
        looks += 1
        if asked < 3:
            state = "pending" if waits and asked else "running"  # until it is placed again
            return view("running", BEFORE, executor=OTHER, executor_name="other", state=state)
        return view("running" if looks < 10 else "completed")

    lines = await answered(engine, answer, look)
    assert b"".join(line["data"] for line in lines) == given + b"anew\n"
    missing = [line for line in lines if line.get("missing")]
    assert [(line["execution"], line["cause"]) for line in missing] == [(BEFORE, "unreachable")]
    how = "breaks off" if given else "cannot be had"
    assert (
        missing[0]["note"]
        == f"{how}: the device cannot be reached, and that execution no longer counts"
    )


async def test_a_reader_that_is_given_up_as_the_job_ends_knows_that_the_slot_was_placed_again(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TRIES_MAX", 1)
    await run(engine, "echo anew")
    begun, ended = trio.Event(), trio.Event()

    async def answer(stream: Any) -> None:
        await stream.read_frame()
        await stream.write_frame(logs.encode_message(LogChunk(0, b"12345", False)))
        begun.set()
        await ended.wait()
        await stream.aclose()

    def look() -> View:
        if not begun.is_set():
            return view("running", BEFORE, executor=OTHER, state="running")
        ended.set()
        return view("completed")

    missing = [line for line in await answered(engine, answer, look) if line.get("missing")]
    assert [line["note"] for line in missing] == [
        "breaks off: the device cannot be reached, and that execution no longer counts"
    ]


@pytest.mark.parametrize("error", ["", logs.GONE_TEXT])
async def test_a_slot_that_was_placed_again_before_it_began_lacks_nothing(
    engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    monkeypatch.setattr(logs, "TRIES_MAX", 1)
    await run(engine, "echo begun")
    asked = 0

    async def answer(stream: Any) -> None:
        nonlocal asked
        asked += 1
        await stream.read_frame()
        if error:
            await stream.write_frame(logs.encode_message(LogChunk(0, b"", True, error)))
        await stream.aclose()

    def look() -> View:
        if asked < 2:
            return view("pending", BEFORE, executor=OTHER, state="starting")
        return view("completed")

    lines = await answered(engine, answer, look)
    assert b"".join(line["data"] for line in lines) == b"begun\n"
    assert not any(line.get("missing") for line in lines)


async def test_of_a_device_that_was_busy_the_output_comes_though_the_slot_was_placed_again(
    engine: ProcessEngine,
) -> None:
    await run(engine, "echo anew")
    asked, looks = 0, 0

    async def answer(stream: Any) -> None:
        nonlocal asked
        asked += 1
        await stream.read_frame()
        busy = LogChunk(0, b"", True, logs.BUSY_TEXT)
        chunk = LogChunk(0, b"failed\n", True) if looks > 3 else busy
        await stream.write_frame(logs.encode_message(chunk))

    def look() -> View:
        nonlocal looks
        if not asked:
            return view("running", BEFORE, executor=OTHER, state="running")
        looks += 1
        return view("running" if looks < 4 else "completed")

    lines = await answered(engine, answer, look)
    assert sorted(line["data"] for line in lines if line["data"]) == [b"anew\n", b"failed\n"]
    assert not any(line.get("missing") for line in lines)
    assert asked == 2, "once more, at the end"
