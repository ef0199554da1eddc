"""One agent per data directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.datalock import LOCK_FILE, DataLock, DataLocked
from tests.programs import started


def test_a_second_agent_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    with pytest.raises(DataLocked, match=rf"process {os.getpid()}\) already works on"):
        DataLock(tmp_path)
    lock.release()
    lock.release()
    DataLock(tmp_path).release()


def test_the_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from agent.datalock import DataLock\n"
        "lock = DataLock(pathlib.Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None and child.stdin is not None
    with child.stdout, child.stdin:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(DataLocked, match=f"process {child.pid}"):
            DataLock(tmp_path)
        child.kill()
        child.wait(60)
    DataLock(tmp_path).release()


def test_a_task_that_outlives_the_agent_does_not_keep_the_next_one_out(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    with started(["cat"], stdin=subprocess.PIPE, close_fds=False) as task:
        lock.release()
        DataLock(tmp_path).release()
        assert task.stdin is not None
        task.stdin.close()


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataLocked, match="cannot be written"):
        DataLock(tmp_path / "file" / "data")
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(DataLocked, match="cannot be written"):
        DataLock(tmp_path)
