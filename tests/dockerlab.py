"""One life of the docker engine in a test, its containers, and what they say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from agent.engines.container import ContainerLaunch
from agent.engines.docker import DockerEngine
from agent.engines.task import TaskExit
from agent.engines.task_log import Stream
from tests.agent.whole import until
from tests.dockerhost import IMAGE, PEER, DockerHost
from tests.dockerproxy import DockerProxy, Request

START = rb"^POST \S*/start"


@asynccontextmanager
async def engine(
    root: Path, docker: DockerHost, peer: str = PEER, socket: Path | None = None
) -> AsyncIterator[DockerEngine]:
    """One life of the engine. Its containers go on when it ends."""
    it = DockerEngine(root, socket or docker.socket, peer)
    async with trio.open_nursery() as nursery:
        await nursery.start(it.run)
        yield it
        nursery.cancel_scope.cancel()


async def until_asked_to_start(
    root: Path, docker: DockerHost, proxy: DockerProxy, start: Request, launch: ContainerLaunch
) -> None:
    """A life of the agent that ends while its request is on its way to docker."""
    async with engine(root, docker, socket=proxy.path) as it, trio.open_nursery() as nursery:
        nursery.start_soon(it.start, launch)
        await until(start.sent.is_set)
        nursery.cancel_scope.cancel()


def shell(script: str, name: str = "e1", **more: Any) -> ContainerLaunch:
    return ContainerLaunch(name, IMAGE, parameters=("sh", "-c", script), **more)


async def ended(it: DockerEngine, launch: ContainerLaunch) -> TaskExit:
    await it.start(launch)
    with trio.fail_after(60):
        return await it.wait(launch.execution_id)


async def said(it: DockerEngine, name: str = "e1", stream: Stream = "stdout") -> bytes:
    return b"".join([chunk.data async for chunk in it.log(name, stream, 0, -1, False)])


async def until_said(it: DockerEngine, name: str, text: bytes) -> None:
    with trio.fail_after(60):
        while await said(it, name) != text:  # noqa: ASYNC110 -- docker tells of no line
            await trio.sleep(0.05)


def detail(docker: DockerHost, name: str = "e1") -> dict[str, Any]:
    found: dict[str, Any] = docker.api.inspect_container(f"shoal-{PEER[-8:]}-{name}")
    return found


def volumes(docker: DockerHost) -> list[str]:
    found = docker.api.volumes(filters={"label": "shoal.job"})["Volumes"] or []
    return sorted(volume["Labels"]["shoal.job"] for volume in found)
