"""Restarts: when a service's task that ended is started again, and when its slot is handed back."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from protocol.clock import Now
from protocol.config import StandingConfig
from protocol.execution import Execution


@dataclass(slots=True)
class Restarts:
    """Here first, with growing pauses; where it ends soon again and again, another peer's turn."""

    config: StandingConfig
    rng: Random

    def next_run(self, ended: Execution, now: Now) -> Execution | None:
        """The run to come, pending until its time; None where the slot is to be handed back."""
        quick = now.mono - ended.began_at < self.config.settled_s
        failures = ended.failures + 1 if quick else 1
        if failures >= self.config.quick_ends_max:
            return None
        pending = ended.again()
        pending.failures = failures
        pending.start_at = now.mono + self._pause_s(ended.spec.retry.backoff_s, failures)
        pending.next_at = now.mono  # its coordinator hears of it at once
        return pending

    def _pause_s(self, backoff_s: int, failures: int) -> float:
        doubled: float = max(1, backoff_s) * 2 ** (failures - 1)
        return min(doubled, self.config.restart_max_s) * (0.75 + 0.5 * self.rng.random())
