"""Writes: what the agent itself has had stored since its process began.

An SD card wears out by it. What supervisors of tasks write is counted by `engines.outputs`; files
of tasks' own, and what docker writes of its containers' output, are in none of these figures.
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

IO: Final = Path("/proc/self/io")  # is there where the kernel counts
BLOCK_BYTES: Final = 512  # linux/task_io_accounting_ops.h, task_io_get_oublock


def process_bytes(io: Path = IO) -> int | None:
    """What was handed to storage, in whole pages; what is in memory alone (tmpfs) is not. None
    where the kernel does not count.

    `write_bytes` of /proc/self/io is no good: to that the kernel adds what children wrote that were
    waited for, supervisors with their tasks, where the agent starts them itself.
    """
    if not io.exists():
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_oublock * BLOCK_BYTES
