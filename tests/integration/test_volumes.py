"""Volumes where there is a docker, which is asked for what it has only where it has some."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from agent.engines import removal
from agent.volumes import DOCKER, Volumes
from tests.agent.test_volumes import place, start
from tests.dockerhost import DockerHost
from tests.dockerlab import ended, engine, shell, volumes
from tests.dockerproxy import DockerProxy

ASKED = rb"^GET \S*/volumes"


async def test_docker_is_asked_only_once_it_has_some(
    root: Path, docker: DockerHost, proxy: DockerProxy, tmp_path: Path
) -> None:
    async with engine(root, docker, socket=proxy.path) as e:
        it = Volumes(tmp_path / "volumes", None, e)
        await it.prune()
        assert len(proxy.asked) == 1, "whether it is there"
        await it.prepare(start("j", engine="docker"), place(tmp_path, "a"))
        assert os.listdir(tmp_path / "a") == [], "docker mounts it"
        mount = (("v1", "/deep/kept", True),)
        assert (await ended(e, shell("true", volumes=mount, job="j"))).code == 0
        await e.clear("e1")
        for volumes_of in (it, Volumes(tmp_path / "volumes", None, e)):
            await volumes_of.prune()
        assert (proxy.count(ASKED), volumes(docker)) == (2, ["j"])
        it.keeps = lambda job, standing: False
        await it.prune()
        assert volumes(docker) == []


async def test_one_that_cannot_be_removed_keeps_the_others_from_nothing_and_is_said_once(
    root: Path,
    docker: DockerHost,
    proxy: DockerProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    removed = removal.remove_tree

    def stubborn(path: Path) -> None:
        if path.name.startswith(".removed-standing-b"):
            raise PermissionError(1, "immutable")
        removed(path)

    async with engine(root, docker, socket=proxy.path) as e:
        it = Volumes(tmp_path / "volumes", None, e)
        it.keeps = lambda job, standing: False
        for job in ("a", "b", "c"):
            await it.prepare(start(job, "daemon"), place(tmp_path, job))
        monkeypatch.setattr("agent.volumes.remove_tree", stubborn)
        await trio.Path(tmp_path / "volumes" / DOCKER).touch()
        for _ in range(2):
            await it.prune()
    (left,) = [name for name in os.listdir(tmp_path / "volumes") if name != DOCKER]
    assert "standing-b" in left and proxy.count(ASKED) == 2
    assert len([each for each in caplog.messages if "immutable" in each]) == 1
