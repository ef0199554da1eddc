"""A simulated disk: rows that are durable, saves that are not yet, and what a crash leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from protocol.effects import BUCKETS, Bucket, Save

Rows = Mapping[Bucket, Mapping[str, bytes]]


@dataclass(slots=True)
class Disk:
    """One writer that commits whenever it is free; what queued meanwhile shares the commit."""

    rows: dict[Bucket, dict[str, bytes]] = field(
        default_factory=lambda: {bucket: {} for bucket in BUCKETS}
    )
    submitted: int = 0  # saves asked for in this life
    durable: int = 0  # the first so many of them have been committed
    commits: int = 0  # over all lives
    waiting: deque[Save] = field(default_factory=deque)
    writing: list[Save] = field(default_factory=list)

    def submit(self, save: Save) -> int:
        """Queue one save; returns its number, durable once `durable` has reached it."""
        self.waiting.append(save)
        self.submitted += 1
        return self.submitted

    def begin(self) -> bool:
        """Start a commit of all that waits; False where nothing does, or one is under way."""
        if self.writing or not self.waiting:
            return False
        self.writing = list(self.waiting)
        self.waiting.clear()
        return True

    def commit(self) -> list[Save]:
        """The commit under way is durable; returns its saves."""
        saves, self.writing = self.writing, []
        for save in saves:
            for bucket, key, value in save.rows:
                if value is None:
                    self.rows[bucket].pop(key, None)
                else:
                    self.rows[bucket][key] = value
        self.durable += len(saves)
        self.commits += 1
        return saves

    def abandon(self) -> None:
        """Forget what was not committed: its saver is gone."""
        self.writing = []
        self.waiting.clear()
        self.submitted = self.durable = 0

    def crash(self, rng: Random) -> list[Save]:
        """Drop what was not committed; a commit under way has reached the platter or it has not.

        Returns the saves that did after all.
        """
        late = self.commit() if self.writing and rng.random() < 0.5 else []
        self.abandon()
        return late

    def image(self) -> dict[Bucket, dict[str, bytes]]:
        """What a new life reads: a copy, since a node may keep what it is given."""
        return {bucket: dict(self.rows[bucket]) for bucket in BUCKETS}
