"""Rlimits: what holds a task where no control group does, which is where the agent is not root.

They are each process' own and know nothing of the task as a whole. None of them bounds the memory
that is in use (RLIMIT_RSS has no effect since Linux 2.4.30, setrlimit(2)), so what may be written
to is bounded, used or not. RLIMIT_AS would count what programs merely reserve, which is gigabytes
for some (V8, wasmtime, Java). They end what runs away, and are no measure of what a job asked for.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.engines.cgroups import PIDS_MAX, memory_bytes_max
from agent.engines.task import TaskLimits

DATA_FACTOR: Final = 2  # arenas and heaps are set aside whole and used in part: half is a guess
# Beside that, for what runtimes set aside as they begin. Of 40 MiB in use (VmRSS) and 570 set aside
# (VmData) is Node.js 24, of 90 and 500 Java 17, of 10 and 400 Python with 50 threads, measured.
DATA_BYTES_BESIDE: Final = 1 << 30
DATA_BYTES_PER_CORE: Final = 64 << 20  # a stack of 8 MiB and 32 MiB for OpenBLAS, measured at numpy
THREADS_SHARE: Final = 32
THREADS_MAX: Final = Path("/proc/sys/kernel/threads-max")


def limited(limits: TaskLimits, uid: int) -> TaskLimits:
    """For a task of this user that no control group holds. The kernel counts none of root's."""
    processes_max = counted(uid) + processes_more() if uid else None
    beside = DATA_BYTES_BESIDE + DATA_BYTES_PER_CORE * (os.cpu_count() or 1)
    data_bytes_max = DATA_FACTOR * memory_bytes_max(limits) + beside
    return replace(limits, processes_max=processes_max, data_bytes_max=data_bytes_max)


def processes_more() -> int:
    """How many a user may have beyond those that it has as a task starts: what is started later
    counts as well, of other tasks and of a person's own, and may not take the room of a task that
    runs for weeks. Hence no less than one container may have, and more where there is memory: the
    kernel takes as many for the most as fill an eighth of it (fork.c, set_max_threads)."""
    with suppress(OSError, ValueError):
        return max(PIDS_MAX, int(THREADS_MAX.read_text()) // THREADS_SHARE)
    return PIDS_MAX


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
