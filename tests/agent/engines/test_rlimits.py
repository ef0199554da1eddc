"""Rlimits where there are no control groups: what they come to, and whose processes count."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from agent.engines.cgroups import MEMORY_BYTES_MIN, PIDS_MAX
from agent.engines.rlimits import (
    DATA_BYTES_BESIDE,
    DATA_BYTES_PER_CORE,
    DATA_FACTOR,
    counted,
    limited,
    processes_more,
)
from agent.engines.task import TaskLimits

NOBODY_ELSE = 54_321  # nothing runs as this user


def test_memory_is_bounded_by_what_a_job_asks_for_and_what_runtimes_set_aside() -> None:
    beside = DATA_BYTES_BESIDE + DATA_BYTES_PER_CORE * (os.cpu_count() or 1)
    asked = TaskLimits(memory_bytes=1 << 30, open_files_max=7)
    found = limited(asked, NOBODY_ELSE)
    assert (found.data_bytes_max, found.open_files_max) == ((DATA_FACTOR << 30) + beside, 7)
    least = limited(TaskLimits(), NOBODY_ELSE).data_bytes_max
    assert least == DATA_FACTOR * MEMORY_BYTES_MIN + beside


def test_a_small_device_has_room_for_what_a_container_may_have_and_a_large_one_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads_max = tmp_path / "threads-max"
    monkeypatch.setattr("agent.engines.rlimits.THREADS_MAX", threads_max)
    assert processes_more() == PIDS_MAX, "it does not say"
    for text, more in (("7000\n", PIDS_MAX), ("128000\n", 4000), ("?", PIDS_MAX)):
        threads_max.write_text(text)
        assert processes_more() == more


def test_processes_of_a_user_come_on_top_of_those_that_run_already() -> None:
    assert limited(TaskLimits(), NOBODY_ELSE).processes_max == processes_more()
    before = counted(os.getuid())
    assert before >= 1, "ourselves"
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(40)]
    for thread in threads:
        thread.start()
    try:
        assert counted(os.getuid()) >= 40, "threads count one by one"
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_the_kernel_counts_none_of_root() -> None:
    assert limited(TaskLimits(), 0).processes_max is None
