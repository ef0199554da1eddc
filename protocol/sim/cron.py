"""A simple cron: every so many seconds, or every minute."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import JobSpecError
from protocol.schedule import Schedule


@dataclass(slots=True)
class EverySeconds:
    """`*/N * * * * *` fires whenever Unix time is a multiple of N seconds, N up to 59."""

    over: bool = False  # no slot comes any more: a run of the simulator has to end

    def next(self, schedule: Schedule, after_s: int) -> int | None:
        period = self._period_s(schedule)
        return None if self.over else (after_s // period + 1) * period

    def last(self, schedule: Schedule, until_s: int) -> int | None:
        period = self._period_s(schedule)
        return None if self.over else until_s // period * period

    def _period_s(self, schedule: Schedule) -> int:
        seconds, _, rest = schedule.cron.partition(" ")
        if rest == "* * * *":
            return 60
        if not seconds.startswith("*/") or rest != "* * * * *":
            raise JobSpecError("Schedule.Cron", f"{schedule.cron} is beyond a simple cron")
        return int(seconds[2:])
