"""Many who follow the output of containers, on a real docker: each has it, or is told that not."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import pytest
import trio

from agent.control.backend import LogQuery, RequestError
from agent.engines.docker import DockerEngine
from agent.engines.engine import Crowded, Engines
from agent.engines.process import ProcessEngine
from agent.logs import Logs
from protocol.ids import ExecutionId, PeerId
from protocol.messages import LogChunk
from tests.agent.test_logs import nowhere, served_by
from tests.agent.whole import until
from tests.dockerhost import DockerHost
from tests.dockerlab import engine, shell
from tests.dockerproxy import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
WITHIN_S = 120.0
FOLLOWERS = 100  # of one container; more than the 64 that there were places for
E1 = ExecutionId("e" * 32)
TALKS = "echo begun; while ! test -e /go; do sleep 0.1; done; echo went; exec sleep 600"


async def go(docker: DockerHost) -> None:
    (container,) = docker.ours()
    made = docker.api.exec_create(container["Id"], ["touch", "/go"])
    await trio.to_thread.run_sync(docker.api.exec_start, made["Id"])


async def test_a_hundred_who_follow_hear_all_of_it(root: Path, docker: DockerHost) -> None:
    heard = [b""] * FOLLOWERS
    async with engine(root, docker) as it:
        await it.start(shell(TALKS, E1))

        async def follow(number: int) -> None:
            async with aclosing(it.log(E1, "stdout", 0, -1, True)) as chunks:
                async for chunk in chunks:
                    heard[number] += chunk.data

        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as nursery:
                for number in range(FOLLOWERS):
                    nursery.start_soon(follow, number)
                await until(lambda: heard == [b"begun\n"] * FOLLOWERS)
                await go(docker)
                await until(lambda: heard == [b"begun\nwent\n"] * FOLLOWERS)
                await it.stop(E1, 0)
        await it.clear(E1)


async def follow_one(it: DockerEngine, came: trio.Event) -> None:
    async with aclosing(it.log(E1, "stdout", 0, -1, True)) as chunks:
        async for _ in chunks:
            came.set()


@pytest.mark.parametrize("tail", [-1, 1])
async def test_who_finds_no_place_is_told_so_and_has_one_later(
    root: Path, tmp_path: Path, docker: DockerHost, tail: int
) -> None:
    processes = ProcessEngine(tmp_path / "processes", None)
    found = b""

    async def write(chunk: LogChunk) -> None:
        nonlocal found
        found += chunk.data

    async with engine(root, docker) as it, trio.open_nursery() as nursery:
        it._output.readers = trio.CapacityLimiter(1)
        await it.start(shell(TALKS, E1))
        near = Logs(Engines(processes, it), nowhere, PeerId("me"))
        far = Logs(Engines(processes), served_by(near, nursery), PeerId("other"))

        async def read(at: Logs, follow: bool = True) -> None:
            asked = LogQuery(follow=follow, tail=tail)
            await at.read(E1, PeerId("me"), "stdout", asked, write)

        with trio.fail_after(WITHIN_S):
            async with trio.open_nursery() as first:
                came = trio.Event()
                first.start_soon(follow_one, it, came)
                await came.wait()
                with pytest.raises(Crowded, match="1 follow the output of containers there"):
                    await read(near)
                with pytest.raises(RequestError, match="1 follow the output of containers there"):
                    await read(far)
                assert found == b""
                await read(far, follow=False)
                assert found == b"begun\n", "who does not follow needs no place"
                first.cancel_scope.cancel()
            await until(lambda: not it._output.readers.borrowed_tokens)
            async with trio.open_nursery() as second:
                second.start_soon(read, far)
                await until(lambda: found == b"begun\nbegun\n")
                second.cancel_scope.cancel()
        await it.stop(E1, 0)
        await it.wait(E1)
        await it.clear(E1)
    processes.close()


async def test_lines_that_find_no_place_are_told_so_and_wait_for_nobody(
    root: Path, docker: DockerHost
) -> None:
    """Also where docker is to be asked first what it may have dropped of them."""
    async with engine(root, docker) as it, trio.open_nursery() as nursery:
        it._output.readers = trio.CapacityLimiter(1)
        await it.start(shell(TALKS, E1))
        came = trio.Event()
        nursery.start_soon(follow_one, it, came)
        with trio.fail_after(WITHIN_S):
            await came.wait()
            async with aclosing(it.log(E1, "stdout", 0, -1, True, single=True)) as chunks:
                with pytest.raises(Crowded, match="1 follow the output of containers there"):
                    await anext(chunks)
            await it.stop(E1, 0)
            await it.wait(E1)
            await it.clear(E1)
        nursery.cancel_scope.cancel()
