"""The docker engine without docker: what is kept when it does not answer, and live output."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from agent.engines.container import ContainerLaunch
from agent.engines.directories import Directories
from agent.engines.docker import DockerEngine
from agent.engines.docker_client import EngineFailed, NotAnswering, Seen
from agent.engines.engine import Engines
from agent.engines.presence import Presence
from agent.engines.process import ProcessEngine
from agent.engines.supervisor import boot_id
from agent.engines.task import ExitReason
from tests.agent.engines.test_docker_log import NOW, frame
from tests.agent.whole import until

PEER = "12D3KooWTestPeer"


def unreachable(socket: Path, owner: str) -> Any:
    raise NotAnswering("docker cannot be reached: refused")


async def test_a_start_that_docker_did_not_answer_is_found_by_the_next_life(
    tmp_path: Path,
) -> None:
    root = tmp_path / "containers"
    root.mkdir()
    it = DockerEngine(root, tmp_path / "d.sock", PEER, unreachable)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.directories.prepare("e1")  # it has inputs
        await it.start(ContainerLaunch("e1", "busybox"))
        assert (await it.wait("e1")).reason is ExitReason.START_FAILED
        nursery.cancel_scope.cancel()
    again = DockerEngine(root, tmp_path / "d.sock", PEER, unreachable)
    found = await again.adopt()  # FileNotFoundError: .../e1/spec
    assert [each.exit.reason for each in found if each.exit] == [ExitReason.START_FAILED]


async def test_and_without_inputs_its_engine_is_still_docker(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()
    it = DockerEngine(root, tmp_path / "d.sock", PEER, unreachable)
    process = ProcessEngine(tmp_path / "executions", None)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.start(ContainerLaunch("e1", "busybox"))
        engine = Engines(process, it).of("e1")
        nursery.cancel_scope.cancel()
    process.close()
    # Tasks asks this one, which raises KeyError: "its directory is gone: 'e1'" is what people see.
    assert engine is it


class Stream:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self.closed.wait(20)
        yield from ()

    def close(self) -> None:
        self.closed.set()


class Paced:
    """Frames in batches: the next is given when all of the one before has been taken."""

    def __init__(self, *batches: list[bytes]) -> None:
        self.batches = batches
        self.next = [threading.Event() for _ in batches]

    def __iter__(self) -> Iterator[bytes]:
        for batch, turn in zip(self.batches, self.next, strict=True):
            turn.wait(20)
            yield from batch

    def close(self) -> None:
        for turn in self.next:
            turn.set()


class Client:
    live_restore = False
    log_driver = "local"

    def __init__(self, frames: Paced) -> None:
        self.frames = frames

    def events(self) -> Stream:
        return Stream()

    def all(self) -> dict[str, str]:
        return {"e1": "running"}

    def volume_name(self, volume: str) -> str:
        return volume

    def create(self, *args: Any) -> None: ...
    def start(self, *args: Any) -> None: ...
    def close(self) -> None: ...

    def log(self, *args: Any) -> Any:
        return iter(self.frames), self.frames


async def lived(tmp_path: Path, tail: int, expected: bytes, *batches: list[bytes]) -> bytes:
    """What a reader gets of these batches, the second given when the first has been taken."""
    root = tmp_path / "containers"
    root.mkdir()
    paced = Paced(*batches)
    it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_: cast(Any, Client(paced)))
    found: list[bytes] = []

    async def take() -> None:
        async with aclosing(it.log("e1", "stdout", 0, tail, True)) as chunks:
            async for chunk in chunks:
                found.append(chunk.data)

    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.start(ContainerLaunch("e1", "busybox"))
        nursery.start_soon(take)
        paced.next[0].set()
        await until(lambda: found)
        for turn in paced.next[1:]:
            turn.set()
        with trio.move_on_after(5):
            await until(lambda: len(b"".join(found)) >= len(expected))
        nursery.cancel_scope.cancel()
    return b"".join(found)


async def test_a_line_of_more_than_4_mib_is_whole_live(tmp_path: Path) -> None:
    piece = b"x" * 100
    one, two = [frame(NOW, piece)] * 300, [frame(NOW, piece)] * 50
    assert await lived(tmp_path, -1, piece * 350, one, two) == piece * 350


async def test_a_tail_whose_first_moment_comes_in_two_batches_is_whole(tmp_path: Path) -> None:
    one, two = [frame(NOW, b"begins ")], [frame(NOW, b"ends\n")]
    assert await lived(tmp_path, 2, b"begins ends\n", one, two) == b"begins ends\n"


# ---- docker says no ------------------------------------------------------------------------------


class Troubled(Client):
    """Two containers of an earlier life have ended, and asking about the first one fails."""

    def __init__(self) -> None:
        super().__init__(Paced())
        self.failing = True
        self.removed: list[str] = []

    def all(self) -> dict[str, str]:
        return {name: "exited" for name in ("e1", "e2") if name not in self.removed}

    def inspect(self, name: str) -> Seen:
        if self.failing and name == "e1":
            raise EngineFailed("driver failed: device or resource busy")
        return Seen(name, "exited", exit_code=3, started=1.0, finished=2.0)

    def remove(self, name: str) -> None:
        self.removed.append(name)


def of_earlier_life(root: Path, *names: str) -> None:
    directories = Directories(root, None)
    for name in names:
        directory = directories.of(name)
        directory.create(None)
        directory.write_spec(b"boot=%s\0arg=busybox\0" % boot_id().encode())


async def test_one_that_docker_cannot_tell_of_keeps_the_agent_and_the_others_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engines.docker.PRESENCE_S", 0.02)
    monkeypatch.setattr("agent.engines.docker_link.LATE_S", 0.02)

    async def there(presence: Presence) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Presence, "look", there)
    root = tmp_path / "containers"
    of_earlier_life(root, "e1", "e2")
    client = Troubled()
    it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_: cast(Any, client))
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        found = {each.execution_id: each.exit for each in await it.adopt()}
        assert found["e1"] is None, "it runs for all we know"
        assert found["e2"] is not None and found["e2"].code == 3
        client.failing = False
        with trio.fail_after(20):
            assert (await it.wait("e1")).code == 3, "it is asked about again"
        nursery.cancel_scope.cancel()


async def test_a_start_that_docker_did_not_answer_may_begin_yet(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()

    class Hangs(Client):
        def start(self, *args: Any) -> None:
            raise NotAnswering("docker did not answer within 60 s")

    class Refuses(Client):
        def start(self, *args: Any) -> None:
            raise EngineFailed("no such command")

    for client, may_begin in ((Hangs(Paced()), True), (Refuses(Paced()), False)):
        it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_, c=client: cast(Any, c))
        async with trio.open_nursery() as nursery:
            await nursery.start(it.run)
            name = f"e{may_begin}"
            await it.start(ContainerLaunch(name, "busybox"))
            ended = await it.wait(name)
            assert (ended.reason, ended.may_begin) == (ExitReason.START_FAILED, may_begin)
            nursery.cancel_scope.cancel()


class Ends(Client):
    """A container of an earlier life ends just after docker was asked, before it is held."""

    def __init__(self) -> None:
        super().__init__(Paced())
        self.asked = 0

    def all(self) -> dict[str, str]:
        self.asked += 1
        return {"e1": "running" if self.asked <= 2 else "exited"}

    def inspect(self, name: str) -> Seen:
        return Seen(name, "exited", exit_code=3, started=1.0, finished=2.0)


async def test_one_that_ends_while_it_is_adopted_is_asked_about_again(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    of_earlier_life(root, "e1")
    client = Ends()
    it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_: cast(Any, client))
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it._link.client()
        await until(lambda: client.asked == 1)  # the look at the opening of the events
        assert [each.exit for each in await it.adopt()] == [None]
        with trio.fail_after(20):
            assert (await it.wait("e1")).code == 3
        nursery.cancel_scope.cancel()


async def test_events_that_make_no_sense_are_listened_to_anew(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()
    opened: list[int] = []

    class Garbled(Client):
        def events(self) -> Stream:
            opened.append(1)
            if len(opened) == 1:
                raise KeyError("Action")
            return Stream()

    client = Garbled(Paced())
    it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_: cast(Any, client))
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        with trio.fail_after(20):
            await it._link.client()
        assert len(opened) == 2
        nursery.cancel_scope.cancel()


async def test_a_docker_that_was_away_is_connected_to_anew(tmp_path: Path) -> None:
    """Its version may be another, with which the old client has no API in common."""
    root = tmp_path / "containers"
    root.mkdir()
    made: list[Client] = []

    class Away(Client):
        closed = False

        def events(self) -> Stream:
            stream = Stream()
            if self is made[0]:
                stream.close()
            return stream

        def close(self) -> None:
            self.closed = True

    def connect(*_: Any) -> Any:
        made.append(Away(Paced()))
        return made[-1]

    it = DockerEngine(root, tmp_path / "d.sock", PEER, connect)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it._link.client()
        await until(lambda: len(made) == 2)
        assert await it._link.client() is cast(Any, made[1])
        nursery.cancel_scope.cancel()
    assert all(cast(Away, client).closed for client in made) and len(made) == 2


async def test_who_waits_for_a_docker_that_hangs_waits_once(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()
    asked = 0
    answers = threading.Event()

    def connect(*_: Any) -> Any:
        nonlocal asked
        asked += 1
        answers.wait(20)
        raise NotAnswering("docker did not answer within 60 s")

    it = DockerEngine(root, tmp_path / "d.sock", PEER, connect)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        for number in range(8):
            nursery.start_soon(it.start, ContainerLaunch(f"e{number}", "busybox"))
        await until(lambda: asked == 1)
        await trio.testing.wait_all_tasks_blocked(0.05)
        answers.set()
        for number in range(8):
            await until(lambda number=number: f"e{number}" in it._held)
            assert (await it.wait(f"e{number}")).reason is ExitReason.START_FAILED
        assert asked < 8, "none but those that came later, to discard it"
        nursery.cancel_scope.cancel()


async def test_what_was_restarted_through_docker_ends_of_its_own_accord(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()

    class Restarted(Client):
        status = "running"

        def inspect(self, name: str) -> Seen:
            return Seen(name, self.status, exit_code=3, started=1.0, finished=2.0)

    client = Restarted(Paced())
    it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_: cast(Any, client))
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.start(ContainerLaunch("e1", "busybox"))
        it._on_event("e1", "kill")
        it._on_event("e1", "die")  # and it runs again by the time that is looked at
        await trio.testing.wait_all_tasks_blocked(0.05)
        client.status = "exited"
        it._on_event("e1", "die")
        with trio.fail_after(20):
            assert (await it.wait("e1")).code == 3
        nursery.cancel_scope.cancel()


async def test_what_docker_tells_while_the_agent_stops_begins_nothing(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()
    it = DockerEngine(root, tmp_path / "d.sock", PEER, unreachable)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        nursery.cancel_scope.cancel()
    it._link.spawn(it._look_at_all)


async def test_a_stop_that_comes_as_it_starts_is_not_lost(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()
    started = trio.Event()

    class Slow(Client):
        def create(self, *args: Any) -> None:
            trio.from_thread.run(started.wait)

        def inspect(self, name: str) -> Seen:
            return Seen(name, "exited", exit_code=143, started=1.0, finished=2.0)

        def kill(self, name: str, signal: str) -> None:
            asked.append(signal)

    asked: list[str] = []
    client = Slow(Paced())
    it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_: cast(Any, client))
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        nursery.start_soon(it.start, ContainerLaunch("e1", "busybox"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(it.stop, "e1")
        await trio.testing.wait_all_tasks_blocked(0.01)
        started.set()
        await until(lambda: asked)
        assert asked == ["SIGTERM"]
        nursery.cancel_scope.cancel()


class CutsOff(Client):
    """Docker ends what is followed without the last line, as it does now and then where the
    container ends at that moment (seen with 20.10)."""

    def __init__(self) -> None:
        super().__init__(Paced([frame(NOW, b"one\n")]))
        self.over = threading.Event()

    def inspect(self, name: str) -> Seen:
        return Seen(name, "exited", exit_code=0, started=1.0, finished=2.0)

    def log(self, *args: Any) -> Any:
        *_, follow = args
        if not follow:
            both = Paced([frame(NOW, b"one\n"), frame(NOW + 100, b"end")])
            both.close()
            return iter(both), both
        return self._cut(), self.frames

    def _cut(self) -> Iterator[bytes]:
        yield from self.frames
        self.over.wait(20)


async def test_the_last_line_comes_where_docker_ends_the_output_without_it(tmp_path: Path) -> None:
    root = tmp_path / "containers"
    root.mkdir()
    client = CutsOff()
    it = DockerEngine(root, tmp_path / "d.sock", PEER, lambda *_: cast(Any, client))
    found: list[bytes] = []

    async def take() -> None:
        async with aclosing(it.log("e1", "stdout", 0, -1, True)) as read:
            found.extend([chunk.data async for chunk in read])

    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.start(ContainerLaunch("e1", "busybox"))
        async with trio.open_nursery() as reading:
            reading.start_soon(take)
            client.frames.close()
            it._on_event("e1", "die")
            with trio.fail_after(20):
                await it.wait("e1")
            client.over.set()
        nursery.cancel_scope.cancel()
    assert b"".join(found) == b"one\nend"
