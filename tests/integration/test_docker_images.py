"""Images of the docker engine: fetched, replaced, and removed when they are not used."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import trio

from agent.engines import docker_client, images
from agent.engines.container import ContainerLaunch
from agent.engines.task import ExitReason
from protocol.container import ContainerParams, full_name
from tests.dockerhost import IMAGE, DockerHost
from tests.dockerlab import ended, engine, said
from tests.dockerproxy import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


async def test_a_missing_image_says_so(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        with pytest.raises(docker_client.EngineFailed, match="Pull: never"):
            await it.images.fetch(ContainerParams(image="nowhere:1", pull="never"))
        with pytest.raises(
            docker_client.EngineFailed, match="image 127.0.0.1:1/x:1 cannot be".replace(".", "[.]")
        ):
            await it.images.fetch(ContainerParams(image="127.0.0.1:1/x:1"))
        exit = await ended(it, ContainerLaunch("e1", "nowhere:1"))
        assert exit.reason is ExitReason.START_FAILED and "nowhere:1" in exit.detail
        await it.images.fetch(ContainerParams(image=IMAGE))
        await it.images.fetch(ContainerParams(image=IMAGE, pull="never"))


async def test_an_image_is_fetched_from_its_registry_and_removed_when_unused(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker.registry("far/tool:1") as image:
        async with engine(root, docker) as it:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(it.images.fetch, ContainerParams(image=image))
            assert full_name(image) in it.presence.images
            launch = ContainerLaunch("e1", image, parameters=("echo", "fetched"))
            await ended(it, launch)
            assert await said(it) == b"fetched\n"
            await it.clear("e1")
            await it.images.prune()
            assert full_name(image) in it.presence.images, "it was used a moment ago"
        monkeypatch.setattr(images, "KEEP_S", 0.0)
        async with engine(root, docker) as it:
            it.images.standing = lambda: frozenset({full_name(image)})
            await it.images.prune()
            assert full_name(image) in it.presence.images, "a standing job has it"
            it.images.standing = frozenset
            await it.images.prune()
            assert full_name(image) not in it.presence.images
            assert full_name(IMAGE) in it.presence.images, "nobody of us fetched that"


async def test_an_image_that_is_replaced_by_a_later_one_goes(
    root: Path, docker: DockerHost
) -> None:
    with docker.registry("far/moving:1") as image:
        async with engine(root, docker) as it:
            always = ContainerParams(image=image, pull="always")
            await it.images.fetch(always)
            first = docker.api.inspect_image(image)["Id"]
            await it.start(ContainerLaunch("e1", image, parameters=("sleep", "1000")))
            docker.move(image, {"second": b""})
            await it.images.fetch(always)
            second = docker.api.inspect_image(image)["Id"]
            assert first in _images(docker), "a container has it"
            await it.start(ContainerLaunch("e2", image, parameters=("true",)))
            await it.wait("e2")
            await it.clear("e2")
            docker.move(image, {"third": b""})
            await it.images.fetch(always)
            assert first in _images(docker) and second not in _images(docker)
            await it.stop("e1", 0)
            await it.wait("e1")
            await it.clear("e1")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(images, "KEEP_S", 0.0)
                it.images.standing = lambda: frozenset({full_name(image)})
                await it.images.prune()
            assert first not in _images(docker) and full_name(image) in it.presence.images


def _images(docker: DockerHost) -> set[str]:
    return {each["Id"] for each in docker.api.images()}


async def test_a_disk_that_is_nearly_full_costs_unused_images(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with docker.registry("far/other:1") as image:
        async with engine(root, docker) as it:
            await it.images.fetch(ContainerParams(image=image))
            monkeypatch.setattr(images, "FREE_BYTES_MIN", 1 << 60)
            monkeypatch.setattr(images, "YOUNG_S", 0.0)
            await it.start(ContainerLaunch("e1", image, parameters=("sleep", "100")))
            await it.images.prune()
            assert full_name(image) in it.presence.images, "a container runs of it"
            await it.stop("e1", 0)
            await it.wait("e1")
            await it.clear("e1")
            await it.images.prune()
            assert full_name(image) not in it.presence.images


async def test_a_pull_says_how_far_it_is(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.engines.pulling.SAY_S", 0.0)
    large = {"large": os.urandom(40_000_000)}
    with docker.registry("large:1", files=large) as image:
        async with engine(root, docker) as it:
            said: list[str] = []
            await it.images.fetch(ContainerParams(image=image), said.append)
            assert said[0] == f"pulling {image}"
            assert any(re.fullmatch(rf"pulling {image}: [0-9.]+ of 4\d MB", text) for text in said)
        docker.api.remove_image(image)


async def test_a_pull_that_is_cut_off_says_so_and_the_next_one_goes_through(
    root: Path, docker: DockerHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = {"big": os.urandom(48 << 20)}
    with docker.registry("far/big:1", files=big) as image:
        async with engine(root, docker) as it:
            monkeypatch.setattr(images, "PULL_S", 0.05)
            with pytest.raises(docker_client.EngineFailed, match="was not fetched within 0 s"):
                await it.images.fetch(ContainerParams(image=image))
            monkeypatch.setattr(images, "PULL_S", 60.0)
            await it.images.fetch(ContainerParams(image=image))
            assert full_name(image) in it.presence.images
            docker.api.remove_image(image)
            assert docker.registry_process is not None
            docker.registry_process.kill()
            docker.registry_process.wait()
            await it.presence.look()
            with pytest.raises(
                docker_client.EngineFailed, match=f"image {image} cannot be fetched"
            ):
                await it.images.fetch(ContainerParams(image=image))
