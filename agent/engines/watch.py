"""What the agent holds of one execution: a descriptor of its supervisor, or its exit."""

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass

from agent.engines.execution_dir import ExecutionDir
from agent.engines.spawner import Line, Spawner
from agent.engines.supervisor import spawn_supervisor
from agent.engines.task import ExitReason, TaskExit

TOLD_S = 0.5  # the spawner reaps at once; its word may come a moment after the pidfd tells


@dataclass(slots=True)
class Watch:
    """`pidfd` until it has ended; `child` until it is reaped, if this process spawned it, `line` if
    the spawner did."""

    pidfd: int | None = None
    child: int | None = None
    line: Line | None = None
    status: int | None = None  # of the supervisor, once reaped
    exit: TaskExit | None = None

    def over(self) -> bool:
        """True once the supervisor is gone, though nobody waited for it."""
        if self.pidfd is None:
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def reap(self) -> None:
        """Leave no zombie of our own; never blocks."""
        if self.child is None:
            return
        with contextlib.suppress(ChildProcessError):  # reaped behind our back
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid == 0:
                return
            self.status = os.waitstatus_to_exitcode(status)
        self.child = None

    def ask_status(self) -> None:
        """Of a supervisor that is gone, where the spawner started it; waits a moment at most."""
        if self.line is not None and self.status is None:
            self.status = self.line.status(TOLD_S)

    def close(self) -> None:
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        if self.line is not None:
            self.line.close()
            self.line = None


def spawn(directory: ExecutionDir, spawner: Spawner | None = None) -> Watch:
    """Raises OSError, and then nothing runs."""
    if spawner is not None:
        line = spawner.start(directory.path)
        return Watch(pidfd=line.pidfd, line=line)
    child = spawn_supervisor(directory.path)
    try:
        return Watch(pidfd=os.pidfd_open(child), child=child)
    except OSError:  # out of descriptors: what we cannot watch must not run
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def sight(directory: ExecutionDir) -> Watch:
    """Find it on disk. Raises KeyError if it never was."""
    if not directory.known():
        raise KeyError(directory.path.name)
    try:
        sighting = directory.look()
    except OSError as failure:
        detail = f"its directory: {failure}"
        return Watch(exit=TaskExit(None, None, ExitReason.LOST, time.time(), 0.0, detail))
    return Watch(pidfd=sighting.pidfd, exit=sighting.exit)
