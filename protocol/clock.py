"""Time as a value: the only clock the protocol ever sees is the one handed to it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Final

NEVER = inf
# A label that a peer has while it does not know the time: others then do what is by the clock.
CLOCK_LABEL: Final = "shoal/clock"
CLOCK_UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of both clocks.

    `mono` is monotonic seconds since an arbitrary start (lost at reboot); `wall` is Unix seconds;
    `wall_trusted` is False while the device has neither NTP nor a clock that survived the night:
    nothing expires then.
    """

    mono: float
    wall: float
    wall_trusted: bool = True

    @property
    def wall_ms(self) -> int:
        return int(self.wall * 1000)
