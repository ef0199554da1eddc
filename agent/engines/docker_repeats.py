"""Repeats: frames that docker gives a follower once more as it goes on to its next log file.

Seen with 20.10: it takes the new file, shorter than the one before, for one that was cut off under
it, and reads it from its beginning again. So the latest frames that were given come again, in the
order and bytes that they had, and after them what is new. Whoever reads what there is, and does not
follow, is given each frame once.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final

# Frames: as many as fit into a file of docker's by the default of task.log_bytes_max, 2 MiB, where
# each is an empty line (26 bytes). Of a follower that keeps up fewer come again, but a flood may
# have filled most of the file before docker first found its end. Each takes 8 bytes.
RECENT_MAX: Final = (2 << 20) // 26
BLOCK: Final = 256  # frames that are looked through where one of that time may come again
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
    _given: array[int] = field(default_factory=lambda: array("q"))  # hashes of the latest, in order
    _lows: deque[bytes] = field(default_factory=deque)  # the lowest moment of each BLOCK of them
    _highs: deque[bytes] = field(default_factory=deque)
    _latest: bytes = b""  # the moment of the latest
    _highest: bytes = b""  # of all; where the clock was set back that is not the latest
    _whole: bool = False  # whether the latest ends its line
    _next: int = 0  # of those given, the one that comes next while they come again; else behind all

    def has(self, frame: bytes) -> bool:
        """Whether it came before; to be asked of each frame in turn."""
        moment = frame[:MOMENT_CHARS]
        if not _is_exact(moment):  # as podman's: whole seconds, in which lines may well be equal
            return False
        key = hash(frame)
        if self._next < len(self._given) or moment <= self._highest:
            place = self._place_of(moment, key)
            if place >= 0:
                self._next = place + 1
                return True
        self._take(moment, key)
        self._whole = frame.endswith(b"\n") or len(frame) < _PIECE_CHARS
        return False

    def _place_of(self, moment: bytes, key: int) -> int:
        """Of those given the one that it is again; negative where it is new."""
        # Of equal pieces of a line any may be the first to come again, so some may be passed over.
        with suppress(ValueError):
            return self._given.index(key, self._next)
        if moment == self._latest and not (self.fine and self._whole):
            return -1
        for number, (low, high) in enumerate(zip(self._lows, self._highs, strict=True)):
            if low <= moment <= high:
                with suppress(ValueError):
                    return self._given.index(key, number * BLOCK, (number + 1) * BLOCK)
        return -1

    def _take(self, moment: bytes, key: int) -> None:
        if len(self._given) % BLOCK == 0:
            self._lows.append(moment)
            self._highs.append(moment)
            if len(self._lows) > RECENT_MAX // BLOCK:
                self._lows.popleft()
                self._highs.popleft()
                del self._given[:BLOCK]
        elif moment > self._highs[-1]:
            self._highs[-1] = moment
        elif moment < self._lows[-1]:
            self._lows[-1] = moment
        self._given.append(key)
        self._next = len(self._given)
        self._latest = moment
        if moment > self._highest:
            self._highest = moment


def _is_exact(moment: bytes) -> bool:
    """Whether it has nine digits behind the second, and not all of them zero."""
    fraction = moment[_SECOND_CHARS + 1 : MOMENT_CHARS - 1]
    return moment[MOMENT_CHARS - 1 :] == b"Z" and fraction.strip(b"0").isdigit()
