"""How much supervisors have written: of what runs by its logs, of what has ended by its exit."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from agent.engines import outputs
from agent.engines.execution_dir import ExecutionDir
from agent.engines.outputs import Outputs, Written
from agent.engines.task import ExitReason, TaskExit
from agent.engines.task_log import Stream


def execution(root: Path, name: str = "e1") -> ExecutionDir:
    (root / name).mkdir()
    return ExecutionDir(root / name)


def wrote(directory: ExecutionDir, stream: Stream, start: int, size: int) -> None:
    """A segment, as supervise.c names it."""
    (directory.path / f"{stream}.{start:020d}").write_bytes(bytes(size))


def ended(output_bytes: tuple[int, int] | None) -> TaskExit:
    return TaskExit(0, None, ExitReason.EXITED, 0.0, 1.0, output_bytes=output_bytes)


def test_what_runs_is_counted_as_far_as_it_is_and_what_has_ended_by_its_exit(
    tmp_path: Path,
) -> None:
    counted, directory = Outputs(), execution(tmp_path)
    counted.begin(directory, fresh=True)
    assert counted.look() == Written()
    wrote(directory, "stdout", 0, 100)
    wrote(directory, "stderr", 0, 10)
    assert counted.look() == counted.look() == Written(110, 0)
    counted.end(directory, ended((400, 10)))
    assert counted.look() == Written(410, 4), "an exit, a directory, and two streams"


def test_what_its_bound_has_cost_was_written_too(tmp_path: Path) -> None:
    counted, directory = Outputs(), execution(tmp_path)
    counted.begin(directory, fresh=True)
    wrote(directory, "stdout", 5000, 100)
    assert counted.look().bytes == 5100


def test_what_was_written_before_it_was_found_is_an_earlier_life_s(tmp_path: Path) -> None:
    counted, directory = Outputs(), execution(tmp_path)
    wrote(directory, "stdout", 0, 100)
    counted.begin(directory)
    counted.begin(directory)
    wrote(directory, "stdout", 100, 7)
    assert counted.look() == Written(7, 0)
    counted.end(directory, ended((110, 0)))
    assert counted.look() == Written(10, 3)


def test_an_end_counts_once_and_one_that_was_not_begun_never(tmp_path: Path) -> None:
    counted, directory = Outputs(), execution(tmp_path)
    counted.end(directory, ended((100, 0)))
    assert counted.look() == Written()
    counted.begin(directory, fresh=True)
    counted.end(directory, ended((100, 0)))
    counted.end(directory, ended((100, 0)))
    assert counted.look() == Written(100, 3)


def test_of_one_whose_supervisor_was_killed_what_was_seen_counts(tmp_path: Path) -> None:
    counted, directory = Outputs(), execution(tmp_path)
    counted.begin(directory, fresh=True)
    wrote(directory, "stdout", 0, 100)
    counted.look()
    counted.end(directory, ended(None))
    assert counted.look() == Written(100, 0)


def test_one_that_is_removed_takes_nothing_back(tmp_path: Path) -> None:
    counted, directory = Outputs(), execution(tmp_path)
    counted.begin(directory, fresh=True)
    wrote(directory, "stdout", 0, 100)
    assert counted.look().bytes == 100
    (directory.path / f"stdout.{0:020d}").unlink()
    directory.path.rmdir()
    assert counted.look().bytes == 100


def test_a_disk_that_hangs_keeps_nobody_from_ending_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, directory = Outputs(), execution(tmp_path)
    counted.begin(directory, fresh=True)
    looking, released = threading.Event(), threading.Event()

    def hang(path: Path, stream: Stream) -> int:
        looking.set()
        assert released.wait(60)
        return 100

    monkeypatch.setattr(outputs, "end_offset", hang)
    found: list[Written] = []
    thread = threading.Thread(target=lambda: found.append(counted.look()))
    thread.start()
    assert looking.wait(60)
    counted.end(directory, ended((300, 0)))
    released.set()
    thread.join(60)
    assert found == [Written(300, 3)], "its end had counted what was looked at as well"
