"""What one life of the agent notes of a container's execution, and another reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.engines import docker_held
from agent.engines.container import ContainerLaunch
from agent.engines.docker_held import note_start, read_start
from agent.engines.execution_dir import ExecutionDir
from agent.engines.supervisor import boot_id


@pytest.fixture
def directory(tmp_path: Path) -> ExecutionDir:
    return ExecutionDir(tmp_path / "e1")


def test_what_is_noted_is_held_by_the_next_life(directory: ExecutionDir) -> None:
    note_start(directory, ContainerLaunch("e1", "busybox", stop_grace_s=2.5, memory_bytes=7 << 20))
    held, left_s = read_start(directory)
    assert (held.grace_s, held.memory_bytes, held.boot) == (2.5, 7 << 20, boot_id())
    assert (held.started, held.exit, left_s) == (True, None, None)
    assert held.log_bytes == 2 * ContainerLaunch("e1", "busybox").log_bytes_max
    assert directory.unfinished() and directory.of_this_boot()


@pytest.mark.parametrize(("ran_ms", "left"), [(0, 60.0), (20_500, 39.5), (90_000, 0.0)])
def test_its_time_goes_on_while_no_agent_runs(
    directory: ExecutionDir, monkeypatch: pytest.MonkeyPatch, ran_ms: int, left: float
) -> None:
    monkeypatch.setattr(docker_held, "_uptime_ms", lambda: 5_000)
    note_start(directory, ContainerLaunch("e1", "busybox", timeout_s=60.0))
    monkeypatch.setattr(docker_held, "_uptime_ms", lambda: 5_000 + ran_ms)
    assert read_start(directory)[1] == left


def test_one_whose_end_alone_found_room_on_the_disk_is_held_too(directory: ExecutionDir) -> None:
    directory.path.mkdir()
    held, left_s = read_start(directory)
    assert (held.grace_s, held.memory_bytes, held.boot, left_s) == (10.0, 0, "", None)
