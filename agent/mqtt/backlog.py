"""A backlog: what a network thread has read and the loop has not taken yet, within bounds."""

from __future__ import annotations

import threading


class Backlog:
    """So many messages, of so many bytes together; of any size one has room alone."""

    def __init__(self, messages_max: int, bytes_max: int) -> None:
        self.messages_max = messages_max
        self.bytes_max = bytes_max
        self.messages = self.size_bytes = 0
        self._changed = threading.Condition()

    def add(self, size_bytes: int, timeout_s: float) -> bool:
        """In the thread: waits for room; False where there was none in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._fits(size_bytes), timeout_s):
                return False
            self.messages, self.size_bytes = self.messages + 1, self.size_bytes + size_bytes
            return True

    def _fits(self, size_bytes: int) -> bool:
        small = self.size_bytes + size_bytes <= self.bytes_max
        return self.messages < self.messages_max and (small or not self.messages)

    def remove(self, size_bytes: int) -> None:
        """In the loop, which waits for nothing here."""
        with self._changed:
            self.messages, self.size_bytes = self.messages - 1, self.size_bytes - size_bytes
            self._changed.notify()
