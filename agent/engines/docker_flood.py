"""Floods: when what is followed is better read, since docker leaves out what it falls behind with.

A follower is at the end of docker's log file, and as docker goes on to its next file it follows to
that one, whether or not all of the one before was given by then (seen with 20.10 and 28.2: of a few
megabytes half were missing, and to a slow reader nothing more came until the container's end). Who
reads what there is, and does not follow, is given all of it, however slowly. So what is written
faster than it can safely be followed is read, now and then, until it has calmed down; for each time
docker looks through all that it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from agent.engines.docker_log import SAME_MAX

FLOOD_BYTES: Final = 32 << 10  # beyond RATE; a file of docker's has 2 MiB
FLOOD_PART: Final = 256  # and where docker keeps less, so small a part of all that it keeps
RATE: Final = 8  # floods a second are followed
CALM_RATE: Final = 4  # and from then on again, so that it does not go to and fro
POLL_S: Final = 0.25  # from one reading to the next, or longer where docker takes long for it
SHARE: Final = 4  # a fifth of the time
PAUSE_MAX_S: Final = 10.0
PIECE_BYTES: Final = 8 << 10
LINE_BYTES: Final = 30  # that docker keeps beside each


class Flooded(Exception):
    """From the place of what came last it is to be read, and not followed."""


def flood_of(kept_bytes: int) -> int:
    """From how many bytes on it is a flood, of both streams' that docker keeps (0: unknown)."""
    return min(FLOOD_BYTES, kept_bytes // FLOOD_PART) or FLOOD_BYTES


def size_of(data: bytes) -> int:
    """In docker's files: it is by those that a follower falls behind, and most of them may be what
    is beside short lines."""
    return len(data) + LINE_BYTES * data.count(b"\n")


@dataclass(slots=True)
class Flow:
    """What came of one stream that is followed from a place on: a bucket that leaks while nothing
    comes. While its reader is busy it does not: docker may be held up meanwhile."""

    flood_bytes: int
    place: int
    size: float = 0.0  # bytes in it

    def waited(self, seconds: float) -> None:
        """Before the next came."""
        self.size = max(0.0, self.size - seconds * self.flood_bytes * RATE)

    def came(self, size: int, end: int) -> None:
        """Up to that place. Raises Flooded; not where none could go on from it: of one moment there
        are more frames than can be counted, or the clock was set back behind what came before."""
        self.size += size
        forward, self.place = end > self.place, max(self.place, end)
        if self.size > self.flood_bytes and forward and end & SAME_MAX != SAME_MAX:
            raise Flooded


@dataclass(slots=True)
class Readings:
    """Those of one flood, in place of following it: `begin` before each, and `calm` after it."""

    flood_bytes: int
    began: float = field(default_factory=trio.current_time)
    since_s: float = POLL_S  # from the beginning of the one before to that of this
    lent_s: float = 0.0  # to the reader, who may be slow

    def begin(self) -> None:
        now = trio.current_time()
        self.since_s, self.began, self.lent_s = max(now - self.began, POLL_S), now, 0.0

    def calm(self, size: int) -> bool:
        """Whether what was read is so little that it may be followed again."""
        return size <= self.since_s * self.flood_bytes * CALM_RATE

    def pause_s(self) -> float:
        """Until the next one."""
        took_s = trio.current_time() - self.began - self.lent_s
        return min(max(POLL_S, SHARE * took_s), PAUSE_MAX_S)


def pieces(frames: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Those that wait together, a few at a time: of a flood no more is taken than has to be."""
    begin = size = 0
    for number, frame in enumerate(frames):
        size += len(frame)
        if size >= PIECE_BYTES:
            yield frames[begin : number + 1]
            begin, size = number + 1, 0
    if begin < len(frames):
        yield frames[begin:]
