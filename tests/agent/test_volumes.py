"""Volumes: directories of processes here; docker's are in tests/integration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from agent.engines import removal
from agent.engines.docker import DockerEngine
from agent.volumes import Volumes
from protocol.effects import StartTask
from protocol.ids import ExecutionId, JobId
from protocol.job import JobSpec


def start(job: str, kind: str = "batch", engine: str = "process", slot: int = 0) -> StartTask:
    params = {"process": {"Command": ["true"]}, "docker": {"Image": "busybox"}}[engine]
    volumes = [{"Name": "data", "Target": "/deep/kept"}]
    task = {"Engine": {"Type": engine, "Params": params}, "Volumes": volumes}
    spec = JobSpec.from_plain({"Name": "job", "Type": kind, "Tasks": [task]})
    return StartTask(ExecutionId("e"), JobId(job), spec, {}, None, (), slot)


@pytest.fixture
def made(tmp_path: Path) -> Callable[[], Volumes]:
    (tmp_path / "containers").mkdir()
    docker = DockerEngine(tmp_path / "containers", tmp_path / "no.sock", "me")
    return lambda: Volumes(tmp_path / "volumes", None, docker)


def place(tmp_path: Path, name: str) -> Path:
    work = tmp_path / name
    work.mkdir()
    return work


async def test_each_start_of_a_slot_finds_the_same_and_other_slots_another(
    tmp_path: Path, made: Callable[[], Volumes]
) -> None:
    it = made()
    links = []
    for name, slot in (("first", 0), ("again", 0), ("other", 1)):
        work = place(tmp_path, name)
        await it.prepare(start("j", slot=slot), work)
        links.append(os.readlink(work / "deep/kept"))
    assert links[0] == links[1] != links[2]


async def test_what_is_wanted_stays(tmp_path: Path, made: Callable[[], Volumes]) -> None:
    it, asked = made(), []
    await it.prepare(start("one"), place(tmp_path, "a"))
    await it.prepare(start("two", "daemon"), place(tmp_path, "b"))

    def keeps(job: JobId, standing: bool) -> bool:
        asked.append((job, standing))
        return standing

    it.keeps = keeps
    await it.prune()
    assert sorted(asked) == [("one", False), ("two", True)]
    assert sorted(os.listdir(tmp_path / "volumes")) == ["standing-two"]
    it.keeps = lambda job, standing: False
    await made().prune()
    assert os.listdir(tmp_path / "volumes") == ["standing-two"], "without a word all is kept"
    await it.prune()
    assert os.listdir(tmp_path / "volumes") == []


async def test_one_that_is_run_again_meanwhile_begins_anew_and_loses_nothing(
    tmp_path: Path, made: Callable[[], Volumes], monkeypatch: pytest.MonkeyPatch
) -> None:
    it, wanted = made(), [False]
    it.keeps = lambda job, standing: wanted[0]
    await it.prepare(start("j", "daemon"), place(tmp_path, "old"))
    (tmp_path / "old/deep/kept/file").write_text("old")
    removed = removal.remove_tree

    def slowly(path: Path) -> None:  # the job is run again while its old directory is removed
        wanted[0] = True
        trio.from_thread.run(it.prepare, start("j", "daemon"), place(tmp_path, "new"))
        (tmp_path / "new/deep/kept/file").write_text("new")
        removed(path)

    monkeypatch.setattr("agent.volumes.remove_tree", slowly)
    await it.prune()
    assert (tmp_path / "new/deep/kept/file").read_text() == "new"
    assert len(os.listdir(tmp_path / "volumes")) == 1
