"""Outputs: how much of tasks' output their supervisors have written, and how often they synced.

Supervisors are processes of their own, so that is none of what the kernel counts as the agent's.
While a task runs the ends of its logs tell, when somebody asks; once it has ended its exit does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

from agent.engines.execution_dir import ExecutionDir
from agent.engines.task import TaskExit
from agent.engines.task_log import STREAMS, end_offset

END_SYNCS: Final = 2  # the exit and its directory, and each stream that was written; supervise.c


@dataclass(frozen=True, slots=True)
class Written:
    bytes: int = 0
    fsyncs: int = 0


class Outputs:
    """Counts from when each began here, or was found running; what was written before is not in it.
    Its methods may be called in any thread, and none waits for another's look at the disk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, tuple[ExecutionDir, int]] = {}  # and what was counted of it
        self._bytes = self._fsyncs = 0

    def begin(self, directory: ExecutionDir, *, fresh: bool = False) -> None:
        """It runs, or is about to; harmless when repeated. Blocks for a look into its directory,
        unless nothing can be there yet."""
        end = 0 if fresh else _end(directory)
        with self._lock:
            self._running.setdefault(directory.path.name, (directory, end))

    def end(self, directory: ExecutionDir, ended: TaskExit) -> None:
        """It runs no more; one that was not begun is none of ours. Looks at nothing: where its
        supervisor was killed, what was not looked at before is left out."""
        with self._lock:
            _, before = self._running.pop(directory.path.name, (directory, -1))
            if before >= 0 and ended.output_bytes is not None:
                self._bytes += max(0, sum(ended.output_bytes) - before)
                self._fsyncs += END_SYNCS + sum(size > 0 for size in ended.output_bytes)

    def look(self) -> Written:
        """So far. Blocks for a look into the directory of each that runs."""
        with self._lock:
            running = [directory for directory, _ in self._running.values()]
        ends = {directory.path.name: _end(directory) for directory in running}
        with self._lock:
            for name, end in ends.items():
                directory, before = self._running.get(name, (None, 0))
                if directory is not None and end > before:  # else it has ended, or was counted
                    self._bytes += end - before
                    self._running[name] = (directory, end)
            return Written(self._bytes, self._fsyncs)


def _end(directory: ExecutionDir) -> int:
    return sum(end_offset(directory.path, stream) for stream in STREAMS)
