"""Control groups: their files in trees of both versions, and real limits where we may set them."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from agent.engines.cgroups import MEMORY_BYTES_MIN, Cgroups, memory_bytes_max
from agent.engines.process import ProcessEngine
from agent.engines.task import ExitReason, TaskExit, TaskLaunch, TaskLimits, TaskUser
from tests.agent.whole import open_directory, until

LIMITS = TaskLimits(memory_bytes=512 << 20, cpu_m=500)


def with_settings(group: Path, *names: str) -> None:
    """As the kernel makes them with the group."""
    group.mkdir(parents=True)
    for name in names:
        (group / name).write_text("")


def unified(root: Path, controllers: str = "cpuset cpu io memory pids") -> Path:
    for where in (root, root / "shoal"):
        where.mkdir(exist_ok=True)
        (where / "cgroup.controllers").write_text(controllers)
        (where / "cgroup.subtree_control").write_text("")
    return root


def read(group: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in group.iterdir()}


# ---- what is written ---------------------------------------------------------------------------


def test_in_a_unified_tree_one_group_has_all_limits(tmp_path: Path) -> None:
    root = unified(tmp_path)
    it = Cgroups.find("peer", root)
    assert it is not None and it.version == 2
    settings = ("memory.max", "memory.swap.max", "cpu.weight", "pids.max")
    with_settings(root / "shoal/peer-e1", *settings)
    assert (root / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"
    assert it.create("e1", LIMITS) == (str(root / "shoal/peer-e1/cgroup.procs"),)
    assert read(root / "shoal/peer-e1") == {
        "memory.max": str(512 << 20),
        "memory.swap.max": "0",
        "cpu.weight": "50",
        "pids.max": "512",
    }


def test_in_split_trees_each_controller_has_its_group(tmp_path: Path) -> None:
    for name in ("memory", "cpu", "pids"):
        (tmp_path / name).mkdir()
    it = Cgroups.find("peer", tmp_path)
    assert it is not None and it.version == 1
    with_settings(tmp_path / "memory/shoal/peer-e1", "memory.limit_in_bytes")
    with_settings(tmp_path / "cpu/shoal/peer-e1", "cpu.shares")
    with_settings(tmp_path / "pids/shoal/peer-e1", "pids.max")
    assert it.create("e1", LIMITS) == tuple(
        str(tmp_path / name / "shoal/peer-e1/tasks") for name in ("memory", "cpu", "pids")
    )
    assert read(tmp_path / "memory/shoal/peer-e1")["memory.limit_in_bytes"] == str(512 << 20)
    assert read(tmp_path / "cpu/shoal/peer-e1") == {"cpu.shares": "512"}
    assert read(tmp_path / "pids/shoal/peer-e1") == {"pids.max": "512"}


def test_what_was_set_aside_by_default_is_no_trap() -> None:
    assert memory_bytes_max(TaskLimits(memory_bytes=64 << 20)) == MEMORY_BYTES_MIN
    assert memory_bytes_max(LIMITS) == 512 << 20


def test_where_no_memory_is_counted_there_are_none(tmp_path: Path) -> None:
    assert Cgroups.find("peer", unified(tmp_path, "cpu pids")) is None
    assert Cgroups.find("peer", tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("version", "file", "text", "out"),
    [
        (2, "memory.events", "low 0\nhigh 0\noom 1\noom_kill 1\n", True),
        (2, "memory.events", "oom 1\noom_kill 0\n", False),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
        (1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", False),
    ],
)
def test_running_out_is_what_the_kernel_counted(
    tmp_path: Path, version: int, file: str, text: str, out: bool
) -> None:
    it = Cgroups("peer", version, (tmp_path,))
    assert not it.ran_out("e1"), "there is no such group"
    (tmp_path / "peer-e1").mkdir()
    (tmp_path / "peer-e1" / file).write_text(text)
    assert it.ran_out("e1") is out


def test_groups_of_what_is_gone_are_swept_and_others_are_not(tmp_path: Path) -> None:
    for name in ("peer-e1", "peer-e2", "other-e3"):
        (tmp_path / name).mkdir()
    Cgroups("peer", 2, (tmp_path,)).sweep(["e1"])
    assert sorted(os.listdir(tmp_path)) == ["other-e3", "peer-e1"]


# ---- in fact -----------------------------------------------------------------------------------


@pytest.fixture
def root() -> Iterator[Path]:
    made = open_directory()
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def engine(root: Path) -> AsyncIterator[ProcessEngine]:
    cgroups = Cgroups.find(f"test{os.getpid()}")
    assert cgroups is not None, "run as root: only root may make control groups"
    made = ProcessEngine(root / "executions", TaskUser.default(), cgroups=cgroups)
    yield made
    made.close()
    cgroups.sweep([])


async def ended(engine: ProcessEngine, script: str, **more: object) -> TaskExit:
    await engine.start(TaskLaunch("e1", ("sh", "-c", script), **more))  # type: ignore[arg-type]
    with trio.fail_after(60):
        return await engine.wait("e1")


async def ended_as(engine: ProcessEngine, name: str, *argv: str) -> TaskExit:
    await engine.start(TaskLaunch(name, argv))
    with trio.fail_after(60):
        return await engine.wait(name)


def groups(engine: ProcessEngine) -> list[Path]:
    assert engine.cgroups is not None
    return [base / f"{engine.cgroups.owner}-e1" for base in engine.cgroups.bases]


async def test_a_task_is_born_in_its_group_of_a_unified_tree(root: Path, tree: Path) -> None:
    engine = ProcessEngine(root / "executions", cgroups=Cgroups("peer", 2, (tree,)))
    await engine.start(TaskLaunch("e1", ("sh", "-c", "sleep 60 & exec sleep 61"), stop_grace_s=0))
    procs = tree / "peer-e1/cgroup.procs"
    await until(lambda: len(procs.read_text().split()) == 2)
    await engine.stop("e1")
    assert (await engine.wait("e1")).reason is ExitReason.STOPPED
    bad = await ended_as(engine, "e2", "/no/such/command")
    assert bad.reason is ExitReason.START_FAILED and "/no/such/command" in bad.detail
    await engine.clear("e1")
    assert not (tree / "peer-e1").exists()
    engine.close()


async def test_a_group_that_is_gone_is_said(root: Path, tree: Path) -> None:
    class Gone(Cgroups):
        def create(self, name: str, limits: TaskLimits) -> tuple[str, ...]:
            return tuple(file + "x" for file in super().create(name, limits))

    engine = ProcessEngine(root / "executions", cgroups=Gone("peer", 2, (tree,)))
    failed = await ended_as(engine, "e1", "true")
    assert failed.reason is ExitReason.START_FAILED and "cgroup" in failed.detail
    engine.close()


GREEDY = "head -c 700000000 /dev/zero | tail -c 600000000 | wc -c"


@pytest.mark.parametrize("code", [137, 1, 0])
async def test_a_task_that_wants_too_much_memory_is_ended_and_says_so(
    engine: ProcessEngine, code: int
) -> None:
    """Whatever exit code it makes of that, but for success: it did without."""
    limits = TaskLimits(memory_bytes=64 << 20)
    exit = await ended(engine, f"{GREEDY}; exit {code}", limits=limits)
    assert (exit.reason, exit.code) == (ExitReason.EXITED, code)
    told = "out of memory: it may have 256 MiB, see Resources.Memory"
    assert exit.detail == (told if code else "")
    await engine.clear("e1")
    assert not any(group.exists() for group in groups(engine))


async def test_one_that_is_killed_by_somebody_is_not_out_of_memory(engine: ProcessEngine) -> None:
    exit = await ended(engine, "kill -KILL $$")
    assert (exit.reason, exit.detail) == (ExitReason.SIGNALLED, "")


async def test_a_fork_bomb_stops_at_the_limit_and_goes_with_its_task(
    engine: ProcessEngine,
) -> None:
    await engine.start(
        TaskLaunch("e1", ("sh", "-c", "b() { b | b & }; b; sleep 60"), stop_grace_s=0)
    )
    procs = groups(engine)[-1] / "cgroup.procs"
    await until(lambda: len(procs.read_text().split()) >= 100)
    assert len(procs.read_text().split()) <= 512
    await engine.stop("e1")
    with trio.fail_after(60):
        assert (await engine.wait("e1")).reason is ExitReason.STOPPED
    assert procs.read_text() == ""
