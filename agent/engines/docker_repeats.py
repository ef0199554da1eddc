"""Repeats: frames that docker gives a follower once more as it goes on to its next log file.

Seen with 20.10: it takes the new file, shorter than the one before, for one that was cut off under
it, and reads it from its beginning again. So the latest frames that were given come again, in the
order and bytes that they had, and after them what is new. Whoever reads what there is, and does not
follow, is given each frame once.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import Final

RECENT_MAX: Final = 2048  # frames; a follower that keeps up was given fewer of the new file
MOMENT_CHARS: Final = len("2026-02-03T04:05:06.123456789Z")
_SECOND_CHARS: Final = len("2026-02-03T04:05:06")
_LOOKS: Final = 100
# Docker cuts a longer line into pieces of this size, which all have its moment. With 20.10 the last
# of them has no line's end.
_PIECE_CHARS: Final = MOMENT_CHARS + 1 + (16 << 10)


@cache
def tells_lines_apart() -> bool:
    """Whether the clock goes on from one look at it to the next: it is docker's as well, which
    writes each line down before it looks for the next one. Some boards' have ticks of milliseconds.
    """
    return len({time.time_ns() for _ in range(_LOOKS)}) == _LOOKS


@dataclass(slots=True)
class Repeats:
    """Of one stream that is followed. What cannot be told from new output is taken for that.

    Where the clock is `fine` no two lines have one moment. Where it is not, equal lines of one tick
    are all told, and if docker began its next file within that tick, twice. So are pieces of a line
    that has not ended yet.
    """

    fine: bool = field(default_factory=tells_lines_apart)
    _recent: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))  # hashes
    _latest: bytes = b""  # the moment of the latest that was new
    _count: int = 0  # frames of that moment
    _whole: bool = False  # whether its line ends with the latest
    _again: int | None = None  # while frames come again: how many of the latest moment have

    def has(self, frame: bytes) -> bool:
        """Whether it came before; to be asked of each frame in turn."""
        moment = frame[:MOMENT_CHARS]
        if not _is_exact(moment):  # as podman's: whole seconds, in which lines may well be equal
            return False
        if moment == self._latest:
            return self._has_latest(frame)
        # Where a clock was set back moments are earlier, and what comes with them is new.
        if moment < self._latest and hash(frame) in self._recent:
            self._again = 0
            return True
        self._latest, self._count = moment, 0
        return self._take(frame)

    def _has_latest(self, frame: bytes) -> bool:
        if self._again is None and self.fine and self._whole and hash(frame) in self._recent:
            self._again = 0
        if self._again is None or self._again >= self._count:
            return self._take(frame)
        self._again += 1
        return True

    def _take(self, frame: bytes) -> bool:
        self._recent.append(hash(frame))
        self._count, self._again = self._count + 1, None
        self._whole = frame.endswith(b"\n") or len(frame) < _PIECE_CHARS
        return False


def _is_exact(moment: bytes) -> bool:
    """Whether it has nine digits behind the second, and not all of them zero."""
    fraction = moment[_SECOND_CHARS + 1 : MOMENT_CHARS - 1]
    return moment[MOMENT_CHARS - 1 :] == b"Z" and fraction.strip(b"0").isdigit()
