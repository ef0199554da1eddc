"""Floods: when what is followed is better read, since docker leaves out what it falls behind with.

A follower is at the end of docker's log file, and as docker goes on to its next file it follows to
that one, whether or not all of the one before was given by then (seen with 20.10 and 28.2: of a few
megabytes half were missing, and to a slow reader nothing more came until the container's end). Who
reads what there is, and does not follow, is given all of it, however slowly. So what comes without
a pause is read so from the first on, again and again, and followed once it has calmed down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

FLOOD_BYTES: Final = 32 << 10  # without a pause; a file has 2 MiB
FLOOD_PART: Final = 256  # and where docker keeps less, so small a part of all that it keeps
CALM_S: Final = 0.05  # for so long nothing came: all that was written has been given
POLL_S: Final = 0.25  # from one reading to the next, or longer where that takes long itself
SHARE: Final = 4  # docker looks through all that it keeps: a fifth of the time
PAUSE_MAX_S: Final = 2.0  # where it is the reader who took long
PIECE_BYTES: Final = 8 << 10


class Flooded(Exception):
    """From the place of what came last it is to be read, and not followed."""


def flood_of(kept_bytes: int) -> int:
    """From how many bytes on it is a flood, of both streams' that docker keeps (0: unknown)."""
    return min(FLOOD_BYTES, kept_bytes // FLOOD_PART) or FLOOD_BYTES


@dataclass(slots=True)
class Flow:
    """What came of one stream that is followed."""

    flood_bytes: int
    size: int = 0  # bytes since the last pause

    def waited(self, seconds: float) -> None:
        """Before the next came, for docker and not for the reader."""
        if seconds >= CALM_S:
            self.size = 0

    def came(self, size: int) -> None:
        """Raises Flooded."""
        self.size += size
        if self.size > self.flood_bytes:
            raise Flooded


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


def pause_s(took_s: float) -> float:
    """Until it is read again."""
    return min(max(POLL_S, SHARE * took_s), PAUSE_MAX_S)
