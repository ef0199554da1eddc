"""Checks against real tasks, ports and pages: what is found is told once, until it changes."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from agent.checks import Checks
from agent.engines.engine import Engines
from agent.engines.process import ProcessEngine
from agent.engines.task import TaskLaunch, TaskUser
from protocol.check import CheckSpec
from protocol.effects import CheckTask
from protocol.events import HealthChanged
from protocol.ids import ExecutionId

E1 = ExecutionId("e1")
WITHIN_S = 60.0  # a bound for a loaded machine


@pytest.fixture
def root() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    made.chmod(0o711)
    yield made / "executions"
    shutil.rmtree(made)


async def until(holds: Callable[[], object]) -> None:
    with trio.fail_after(WITHIN_S):
        while not holds():  # noqa: ASYNC110 -- other processes have no event
            await trio.sleep(0.01)


class Bench:
    def __init__(self, engine: ProcessEngine) -> None:
        self.engine = engine
        self.found: list[HealthChanged] = []
        self.checks = Checks(Engines(engine), self.found.append)

    @property
    def work(self) -> Path:
        return self.engine.root / E1 / "work"

    async def until(self, count: int) -> HealthChanged:
        await until(lambda: len(self.found) >= count)
        return self.found[count - 1]


@asynccontextmanager
async def checking(root: Path, **check: object) -> AsyncIterator[Bench]:
    """A task that runs until it is stopped, and its check, every second unless it says more."""
    engine = ProcessEngine(root, TaskUser.default())
    bench = Bench(engine)
    spec = CheckSpec(**{"every_s": 1, "timeout_s": 1, "failures": 2, **check})  # type: ignore[arg-type]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(bench.checks.run)
            await engine.start(TaskLaunch(E1, ("sleep", "1000"), {"MARK": "well"}))
            bench.checks.watch(CheckTask(E1, spec))
            bench.checks.watch(CheckTask(E1, spec))
            yield bench
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await engine.stop(E1, grace_s=0)
            await engine.wait(E1)
        engine.close()


async def test_a_command_runs_where_the_task_does_and_its_change_is_told_once(root: Path) -> None:
    command = ("sh", "-c", "echo no $MARK; test -e $MARK")
    async with checking(root, command=command) as bench:
        first = await bench.until(1)
        assert first == HealthChanged(E1, False, "sh ended with exit code 1: no well")
        mark = bench.work / "well"
        mark.touch()
        assert await bench.until(2) == HealthChanged(E1, True)
        mark.unlink()
        assert (await bench.until(3)).healthy is False


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_command_runs_as_the_tasks_user(root: Path) -> None:
    async with checking(root, command=("sh", "-c", "id -un; exit 1")) as bench:
        assert (await bench.until(1)).reason == "sh ended with exit code 1: nobody"


async def test_a_command_that_hangs_or_is_not_there_does_not_pass(root: Path) -> None:
    async with checking(root, command=("sleep", "1000"), failures=1) as bench:
        assert (await bench.until(1)).reason == "no answer within 1 s"
    shutil.rmtree(root)
    async with checking(root, command=("./nothing",), failures=1) as bench:
        assert "No such file" in (await bench.until(1)).reason


async def test_a_port_that_accepts_is_well(root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        async with checking(root, address=address) as bench:
            assert await bench.until(1) == HealthChanged(E1, True)
            server.close()
            assert address in (await bench.until(2)).reason


class Page(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""


async def test_a_page_is_well_below_400(root: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/health"
        Page.status = 204
        async with checking(root, url=url) as bench:
            assert await bench.until(1) == HealthChanged(E1, True)
            Page.status = 503
            assert (await bench.until(2)).reason == f"{url} answers 503 Service Unavailable"
        server.shutdown()
    shutil.rmtree(root)
    async with checking(root, url=url, failures=1) as bench:
        assert (await bench.until(1)).reason.startswith(f"{url}: ")


async def test_a_node_that_was_built_anew_is_told_again(root: Path) -> None:
    async with checking(root, command=("true",)) as bench:
        await bench.until(1)
        bench.checks.watch(CheckTask(E1, CheckSpec(command=("true",))))
        assert await bench.until(2) == HealthChanged(E1, True)


async def test_what_has_ended_is_not_asked_any_more(root: Path) -> None:
    async with checking(root, command=("true",)) as bench:
        await bench.until(1)
        await bench.engine.stop(E1, grace_s=0)
        await until(lambda: not bench.checks._watched)
        bench.checks.watch(CheckTask(ExecutionId("unknown"), CheckSpec(command=("true",))))
        await until(lambda: not bench.checks._watched)
