"""Containers where docker hangs: given up in time, and asked again once it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.engines import docker as docker_module
from agent.engines import docker_client, docker_ends
from agent.engines.engine import Engines
from agent.engines.task import ExitReason
from protocol.events import TaskEnded, TaskFound
from protocol.tree import Plain
from tests.agent.test_tasks import running, task
from tests.agent.whole import open_directory, until
from tests.dockerhost import IMAGE, DockerHost
from tests.dockerlab import ended, engine, said, shell
from tests.dockerproxy import LEAVES_SOCKETS, DockerProxy

pytestmark = LEAVES_SOCKETS


async def test_a_docker_that_hangs_is_given_up_and_what_it_ran_is_ended_later(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(docker_ends, "GIVE_UP_S", 2.0)
    monkeypatch.setattr(docker_ends, "KILL_S", 0.5)
    monkeypatch.setattr(docker_module, "PRESENCE_S", 0.5)
    async with engine(root, docker) as it:
        await it.start(shell("sleep 1000", timeout_s=0.5, stop_grace_s=0.1))
        docker.freeze()
        try:
            with trio.fail_after(60):
                exit = await it.wait("e1")
            assert exit.reason is ExitReason.LOST and "docker does not answer" in exit.detail
            assert [chunk.data for chunk in await it.tails("e1", 5)] == [b"", b""]
            with pytest.raises(OSError, match="did not answer"):
                await it.clear("e1")
            late = await ended(it, shell("sleep 1000", "e2"))
            assert late.reason is ExitReason.START_FAILED
        finally:
            docker.thaw()
        await until(lambda: docker.ours() == [])


async def test_results_are_asked_for_again_where_docker_hangs_in_the_middle_of_them(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 3.0)
    async with engine(root, docker, socket=proxy.path) as it:
        script = "head -c 3000000 /dev/zero > /o/x"
        await ended(it, shell(script, results=("/o",)))
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                with proxy.hanging(rb"GET .*/archive", 1_000_000):
                    nursery.start_soon(it.collect, "e1", ["/o"])
                    await trio.to_thread.run_sync(proxy.hung.wait, 60)
                    proxy.hung.clear()
                    await trio.to_thread.run_sync(proxy.hung.wait, 60)
            monkeypatch.setattr(docker_module, "GIVE_UP_S", 0.1)
            stops = proxy.hanging(rb"GET .*/archive", 1_000_000)
            with stops, pytest.raises(OSError, match="docker"):
                await it.collect("e1", ["/o"])
        out = await it.collect("e1", ["/o"])
        assert (out / "o/x").stat().st_size == 3_000_000


async def test_output_is_kept_once_docker_hangs_in_the_middle_of_it_no_more(
    root: Path, docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 3.0)
    monkeypatch.setattr(docker_module, "PRESENCE_S", 0.5)
    async with engine(root, docker, socket=proxy.path) as it:
        await ended(it, shell("yes | head -n 50000"))
        with trio.fail_after(60), proxy.hanging(rb"GET .*/logs", 20_000):
            with pytest.raises(OSError, match="docker"):
                await said(it)
            with pytest.raises(OSError, match="docker"):
                await it.clear("e1")
        await until(lambda: docker.ours() == [])
        await until(lambda: it.directories.of("e1").read_exit() is not None)
        assert await said(it) == b"y\n" * 50_000


async def test_output_that_is_published_is_whole_though_docker_hangs_at_the_end(
    docker: DockerHost, proxy: DockerProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_client, "TIMEOUT_S", 2.0)
    monkeypatch.setattr(docker_module, "TAILS_S", 0.1)
    device = open_directory()
    try:
        (device / "docker").mkdir()
        async with running(device) as it, engine(device / "docker", docker, socket=proxy.path) as e:
            tasks = it.tasks_of(Engines(it.engine, e), device, "")
            tasks.publishes = lambda key: True
            async with trio.open_nursery() as nursery:
                await nursery.start(tasks.run)
                params: dict[str, Plain] = {"Image": IMAGE, "Parameters": ["echo", "whole"]}
                network: dict[str, Plain] = {"Type": "none"}
                start = task("true", Engine={"Type": "docker", "Params": params}, Network=network)
                with proxy.hanging(rb"GET .*/logs"):
                    tasks.start(start)
                    await until(lambda: proxy.held > 1)  # one was of the last lines
                told = await it.until(TaskEnded)
                await until(lambda: docker.ours() == [])  # the next test has the same names
                nursery.cancel_scope.cancel()
            assert (told.exit_code, told.stdout) == (0, b"whole\n"), told
    finally:
        shutil.rmtree(device)


async def test_output_of_all_that_ended_while_no_agent_ran_is_waited_for_once(
    docker: DockerHost, proxy: DockerProxy
) -> None:
    device = open_directory()
    names = [f"e{number}" for number in range(5)]
    try:
        (device / "docker").mkdir()
        async with engine(device / "docker", docker) as e:
            for name in names:
                assert (await ended(e, shell(f"echo {name}", name))).code == 0
        async with running(device) as it, engine(device / "docker", docker, socket=proxy.path) as e:
            tasks = it.tasks_of(Engines(it.engine, e), device, "")
            tasks.publishes = lambda key: True
            found: list[TaskFound] = []

            async def find() -> None:
                found.extend(await tasks.found())

            async with trio.open_nursery() as nursery:
                await nursery.start(tasks.run)
                async with trio.open_nursery() as finding:
                    with proxy.hanging(rb"GET .*/logs"):
                        finding.start_soon(find)
                        await until(lambda: proxy.held == len(names))  # and none is given up
                await until(lambda: docker.ours() == [])  # the next test has the same names
                nursery.cancel_scope.cancel()
            told = [(each.execution, each.exit_code, each.stdout) for each in found]
            assert told == [(name, 0, f"{name}\n".encode()) for name in names]
    finally:
        shutil.rmtree(device)


async def test_an_agent_ends_in_time_though_docker_hangs(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        await it.start(shell("sleep 2; exit 4"))
        docker.freeze()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(it.stop, "e1")
                nursery.start_soon(it.collect, "e1", ["/outputs"])
                await trio.testing.wait_all_tasks_blocked(0.1)
                began = trio.current_time()
                nursery.cancel_scope.cancel()
            took = trio.current_time() - began
        except BaseException:
            docker.thaw()
            raise
    assert took < docker_client.TIMEOUT_S / 2, took
    docker.thaw()
    async with engine(root, docker) as it:
        found = await it.adopt()
        assert [each.execution_id for each in found] == ["e1"]
        with trio.fail_after(60):
            assert (await it.wait("e1")).reason in (ExitReason.EXITED, ExitReason.INTERRUPTED)
