"""Rlimits: what holds a task where no control group does, which is where the agent is not root.

They are each process' own and know nothing of the task as a whole. None of them bounds the memory
that is in use (RLIMIT_RSS has no effect since Linux 2.4.30, setrlimit(2)), so what may be written
to is bounded, used or not. RLIMIT_AS would count what programs merely reserve, which is gigabytes
for some (V8, wasmtime, Java).
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import Final

from agent.engines.cgroups import PIDS_MAX, memory_bytes_max
from agent.engines.task import TaskLimits

# Stacks of threads and arenas are set aside whole and used in part: half is a guess, by numpy's and
# node's VmData beside their VmRSS.
DATA_FACTOR: Final = 2


def limited(limits: TaskLimits, uid: int) -> TaskLimits:
    """For a task of this user that no control group holds. The kernel counts none of root's."""
    processes_max = counted(uid) + PIDS_MAX if uid else None
    data_bytes_max = DATA_FACTOR * memory_bytes_max(limits)
    return replace(limits, processes_max=processes_max, data_bytes_max=data_bytes_max)


def counted(uid: int) -> int:
    """The threads of a user, as RLIMIT_NPROC counts them: its other tasks, and whatever a person
    runs whose agent this is."""
    found = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                task = os.stat(f"{entry.path}/task")
                # A directory has a link of each directory in it, and two of its own.
                found += task.st_nlink - 2 if task.st_uid == uid else 0
    return found
