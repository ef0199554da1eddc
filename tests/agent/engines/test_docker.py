"""The docker engine where there is no docker: what is kept of what it was to start.

With one it is in tests/integration/test_docker*.py, with one that fails in test_docker_faults.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from agent.engines.container import ContainerLaunch
from agent.engines.docker import DockerEngine
from agent.engines.engine import Engines
from agent.engines.process import ProcessEngine
from agent.engines.task import ExitReason
from tests.dockerproxy import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS
PEER = "12D3KooWTestPeer"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "containers"
    path.mkdir()
    yield path
    gc.collect()  # what is collected later is another test's failure


def nowhere(root: Path) -> DockerEngine:
    """Nobody listens at its socket."""
    return DockerEngine(root, root.parent / "d.sock", PEER)


async def test_a_start_that_docker_did_not_answer_is_found_by_the_next_life(root: Path) -> None:
    it = nowhere(root)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.directories.prepare("e1")  # it has inputs
        await it.start(ContainerLaunch("e1", "busybox"))
        exit = await it.wait("e1")
        assert exit.reason is ExitReason.START_FAILED
        assert exit.detail.startswith("it could not be started: docker cannot be reached: ")
        nursery.cancel_scope.cancel()
    found = await nowhere(root).adopt()  # FileNotFoundError: .../e1/spec
    assert [each.exit.reason for each in found if each.exit] == [ExitReason.START_FAILED]


async def test_and_without_inputs_its_engine_is_still_docker(root: Path) -> None:
    it, process = nowhere(root), ProcessEngine(root.parent / "executions", None)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.start(ContainerLaunch("e1", "busybox"))
        engine = Engines(process, it).of("e1")
        nursery.cancel_scope.cancel()
    process.close()
    # Tasks asks this one, which raises KeyError: "its directory is gone: 'e1'" is what people see.
    assert engine is it


async def test_what_docker_tells_while_the_agent_stops_begins_nothing(root: Path) -> None:
    it = nowhere(root)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        await it.start(ContainerLaunch("e1", "busybox"))
        nursery.cancel_scope.cancel()
    it._link.spawn(it._look_at_all)
    it._on_event("e1", "die")  # "coroutine was never awaited" is said as it is collected
