"""Rlimits where there are no control groups: what they come to, and whose processes count."""

from __future__ import annotations

import os
import threading

from agent.engines.cgroups import MEMORY_BYTES_MIN, PIDS_MAX
from agent.engines.rlimits import DATA_FACTOR, counted, limited
from agent.engines.task import TaskLimits

NOBODY_ELSE = 54_321  # nothing runs as this user


def test_memory_is_bounded_by_what_a_job_asks_for_and_never_below_what_all_may_have() -> None:
    asked = TaskLimits(memory_bytes=1 << 30, open_files_max=7)
    found = limited(asked, NOBODY_ELSE)
    assert (found.data_bytes_max, found.open_files_max) == (DATA_FACTOR << 30, 7)
    assert limited(TaskLimits(), NOBODY_ELSE).data_bytes_max == DATA_FACTOR * MEMORY_BYTES_MIN


def test_processes_of_a_user_come_on_top_of_those_that_run_already() -> None:
    assert limited(TaskLimits(), NOBODY_ELSE).processes_max == PIDS_MAX
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
