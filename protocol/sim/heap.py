"""Simulated time: one heap of calls to come, ordered by time and then by who asked first."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf


@dataclass(slots=True)
class Heap:
    """`now` is seconds since the start of the run; it moves only in `step`."""

    now: float = 0.0
    steps: int = 0
    _calls: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = field(
        default_factory=list
    )
    _asked: int = 0

    def at(self, time: float, call: Callable[..., None], *arguments: object) -> None:
        """Make `call(*arguments)` happen at `time`, at once where that has passed."""
        self._asked += 1
        heapq.heappush(self._calls, (max(time, self.now), self._asked, call, arguments))

    def after(self, delay_s: float, call: Callable[..., None], *arguments: object) -> None:
        self.at(self.now + delay_s, call, *arguments)

    @property
    def next_at(self) -> float:
        return self._calls[0][0] if self._calls else inf

    def step(self) -> None:
        """Do the next thing."""
        self.now, _, call, arguments = heapq.heappop(self._calls)
        self.steps += 1
        call(*arguments)

    def run(self, until: float) -> None:
        """Do everything up to and including `until`, which is then the time."""
        while self._calls and self._calls[0][0] <= until:
            self.step()
        self.now = max(self.now, until)
