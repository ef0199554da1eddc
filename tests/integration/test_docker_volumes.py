"""Volumes of containers: they outlive these, and go when nobody wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from agent.engines.container import ContainerLaunch
from tests.dockerhost import DockerHost
from tests.dockerlab import ended, engine, said, shell, until_said, volumes
from tests.dockerproxy import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


async def test_a_volume_outlives_its_containers_and_goes_when_nobody_wants_it(
    root: Path, docker: DockerHost
) -> None:
    kept: dict[str, Any] = {"volumes": (("v1", "/data", True),), "job": "j1", "standing": True}
    async with engine(root, docker) as it:
        first = await ended(it, shell("echo one >> /data/log", **kept))
        assert first.code == 0
        await it.clear("e1")
        assert docker.ours() == []
        again = shell("echo two >> /data/log; cat /data/log; sleep 100", "e2", **kept)
        await it.start(again)
        await until_said(it, "e2", b"one\ntwo\n")
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == ["j1"], "a container has it"
        await it.stop("e2", 0)
        await it.wait("e2")
        await it.clear("e2")
        asked: list[tuple[str, bool]] = []
        await it.prune_volumes(lambda *each: not asked.append(each))
        assert (asked, volumes(docker)) == ([("j1", True)], ["j1"])
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == []


async def test_whoever_a_container_runs_as_may_write_to_its_volume(
    root: Path, docker: DockerHost
) -> None:
    kept: dict[str, Any] = {"volumes": (("v2", "/data/in", True),), "job": "j2"}
    async with engine(root, docker) as it:
        first = await ended(it, shell("touch /data/in/a", user="1000", **kept))
        assert first.code == 0, await said(it, stream="stderr")
        listed = await ended(it, shell("stat -c %u:%a /data/in; ls /data/in", "e2", **kept))
        assert (listed.code, await said(it, "e2")) == (0, b"0:777\na\n")
        reader = (("v2", "/data/in", False),)
        refused = await ended(it, shell("touch /data/in/b", "e3", volumes=reader, job="j2"))
        assert refused.code == 1 and b"Read-only file system" in await said(it, "e3", "stderr")
        for name in ("e1", "e2", "e3"):
            await it.clear(name)
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == []


async def test_what_an_image_has_at_the_place_of_a_volume_stays_as_the_image_has_it(
    root: Path, docker: DockerHost
) -> None:
    docker.make_image("seeded:1", {"data/seed": b"of the image"})
    async with engine(root, docker) as it:
        kept: dict[str, Any] = {"volumes": (("v3", "/data", True),), "job": "j3"}
        launch = ContainerLaunch(
            "e1", "seeded:1", parameters=("sh", "-c", "cat /data/seed; stat -c %a /data"), **kept
        )
        await ended(it, launch)
        assert await said(it) == b"of the image755\n"
        await it.clear("e1")
        await it.prune_volumes(lambda job, standing: False)


async def test_two_agents_on_one_docker_have_volumes_of_their_own(
    root: Path, docker: DockerHost
) -> None:
    kept: dict[str, Any] = {"volumes": (("v4", "/data", True),), "job": "j4"}
    other = root.parent / "other"
    other.mkdir()
    async with engine(root, docker) as it, engine(other, docker, "12D3KooWAnother1") as its:
        await ended(it, shell("echo mine > /data/a", **kept))
        await its.start(shell("ls /data", **kept))
        with trio.fail_after(60):
            await its.wait("e1")
        assert await said(its) == b""
        await its.clear("e1")
        await its.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == ["j4"]
        await it.clear("e1")
        await it.prune_volumes(lambda job, standing: False)
        assert volumes(docker) == []
