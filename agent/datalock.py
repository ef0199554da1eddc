"""The data lock: at most one agent works on a data directory at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent import durable
from protocol.errors import ShoalError

LOCK_FILE = "lock"


class DataLocked(ShoalError):
    """Another agent has the directory, or it cannot be written; a sentence for a person."""


class DataLock:
    """Held from construction until `release`, or until this process ends, however it ends.

    Children do not inherit it: tasks outlive the agent and must not keep the next one out.
    """

    def __init__(self, data_dir: Path) -> None:
        """Take the lock. Raises DataLocked."""
        path = data_dir / LOCK_FILE
        try:
            durable.make_directory(data_dir)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataLocked(f"{data_dir} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            who = f" (process {holder})" if holder.isdigit() else ""
            raise DataLocked(
                f"another agent{who} already works on {data_dir}: stop it, or give this one "
                "a data directory of its own"
            ) from None
        self._note(f"{os.getpid()}\n")

    def release(self) -> None:
        """Give the directory free; harmless when repeated."""
        if self._fd >= 0:
            self._note("")
            os.close(self._fd)
            self._fd = -1

    def _note(self, text: str) -> None:
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, text.encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds, only the message lacks the number
