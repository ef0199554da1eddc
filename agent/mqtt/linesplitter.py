"""Output cut into lines, each with the place by which it is known whenever it is read again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.engines.task_log import LogChunk
from protocol.resultmessage import OUTPUT_BYTES_MAX

LINE_BYTES_MAX: Final = OUTPUT_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Line:
    """`resume` is an offset that has this line before it; reading on from there may begin with
    lines that were read already, never behind one that was not."""

    data: bytes  # without the newline
    place: str
    resume: int
    cut_bytes: int = 0  # of it, for it was too long
    dropped_bytes: int = 0  # of output before it, which the bound on outputs cost
    gap: bool = False  # it may have cost some, and nobody knows how much (a container's)


class Splitter:
    """`exact`: offsets are bytes (a process'), so that each line has its own; otherwise a chunk is
    what was written at one time (a container's), and its end the place of the line that ends it."""

    def __init__(self, offset: int, *, exact: bool) -> None:
        self._exact = exact
        self._resume = offset  # before the line that is being read
        self._next = offset  # of the chunk that should come
        self._data = b""
        self._length = 0  # of the line so far; what is over the bound is not kept
        self._dropped = 0
        self._gap = False
        self._torn = False

    def feed(self, chunk: LogChunk) -> Iterator[Line]:
        """The lines that end in it."""
        if self._exact and chunk.offset > self._next:
            self._dropped += chunk.offset - self._next + self._length
            self._data, self._length, self._resume = b"", 0, chunk.offset
            self._torn = True
        if chunk.gap:  # what was held of a line has lost its end
            self._gap, self._data, self._length = True, b"", 0
        data = self._whole(chunk.data)
        self._next = chunk.next_offset
        *ended, last = data.split(b"\n")
        # What is written at one time may be several lines: they share its place.
        shares = 0
        for number, part in enumerate(ended):
            self._grow(part)
            if self._exact:
                place, self._resume = str(self._resume), self._resume + self._length + 1
            else:
                place = f"{chunk.end}.{shares}" if shares else str(chunk.end)
                shares += 1
                if number == len(ended) - 1 and not last:
                    self._resume = chunk.end
            yield self._line(place)
        self._grow(last)

    def _whole(self, data: bytes) -> bytes:
        """Without what is left of a line whose beginning was dropped."""
        if not self._torn:
            return data
        rest, newline, following = data.partition(b"\n")
        self._torn = not newline
        gone = len(rest) + len(newline)
        self._dropped, self._resume = self._dropped + gone, self._resume + gone
        return following

    def rest(self) -> Line | None:
        """What stands behind the last newline once nothing more comes."""
        if not self._length:
            return None
        place = str(self._resume) if self._exact else f"{self._next}.end"
        self._resume = self._resume + self._length if self._exact else self._next
        return self._line(place)

    def _grow(self, part: bytes) -> None:
        self._length += len(part)
        if len(self._data) < LINE_BYTES_MAX:
            self._data += part[: LINE_BYTES_MAX - len(self._data)]

    def _line(self, place: str) -> Line:
        cut = self._length - len(self._data)
        line = Line(self._data, place, self._resume, cut, self._dropped, self._gap)
        self._data, self._length, self._dropped, self._gap = b"", 0, 0, False
        return line
