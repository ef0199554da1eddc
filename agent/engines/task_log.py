"""Reading a task's bounded log: segments named by the absolute offset of their first byte.

The supervisor appends to the newest and deletes the oldest (supervise.c), so an offset, once
given out, means the same byte for ever; what lies before the oldest segment was dropped.
"""

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Stream = Literal["stdout", "stderr"]
STREAMS: Final[tuple[Stream, Stream]] = ("stdout", "stderr")

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
TIMES_BYTES_MAX = 1 << 16  # supervise.c, NOTES_MAX
_PAIR = struct.Struct("=qq")  # an offset and when it was written; supervise.c, note_time
_ATTEMPTS = 16  # each but the last lost a race with the writer, which turned over megabytes


@dataclass(frozen=True, slots=True)
class LogChunk:
    """`data` begins at `offset`, later than was asked when output between was dropped.

    `end` is the offset after the last byte written so far. `gap`: what came before it may be gone,
    and nobody knows how much (a container's).
    """

    offset: int
    data: bytes
    end: int
    gap: bool = False

    @property
    def next_offset(self) -> int:
        return self.offset + len(self.data)


def read_chunk(directory: Path, stream: Stream, offset: int, bytes_max: int) -> LogChunk:
    """Never raises for a log that is missing or being trimmed: it is as short as it is."""
    offset = max(0, offset)
    for _ in range(_ATTEMPTS):
        segments = _segments(directory, stream)
        if not segments:
            break
        try:
            end = segments[-1] + os.lstat(_segment(directory, stream, segments[-1])).st_size
            if offset >= end:
                return LogChunk(end, b"", end)
            start = max((s for s in segments if s <= offset), default=segments[0])
            offset = max(offset, start)
            data = _read(_segment(directory, stream, start), offset - start, bytes_max)
        except OSError:  # trimmed meanwhile, or a link that a task planted
            continue
        return LogChunk(offset, data, max(end, offset + len(data)))
    return LogChunk(0, b"", 0)


def end_offset(directory: Path, stream: Stream) -> int:
    """So many bytes were written, of whatever is kept of them; 0 where there is no log."""
    return read_chunk(directory, stream, 1 << 62, 0).end


def read_tail(directory: Path, stream: Stream, lines_max: int, bytes_max: int) -> LogChunk:
    """The last lines, at most `bytes_max` of them."""
    end = end_offset(directory, stream)
    data, offset = b"", max(0, end - bytes_max)
    first = offset
    while offset < end:
        chunk = read_chunk(directory, stream, offset, end - offset)
        if not chunk.data:
            break
        if chunk.offset != offset:  # dropped meanwhile: keep what follows on
            data, first = b"", chunk.offset
        data, offset = data + chunk.data, chunk.next_offset
    lines = data.splitlines(keepends=True)
    kept = b"".join(lines[-lines_max:]) if lines_max > 0 else b""
    return LogChunk(first + len(data) - len(kept), kept, end)


def offset_since(directory: Path, stream: Stream, since_ms: int) -> int:
    """Where what was written from that moment on begins, to about a twentieth of a second; the end
    where nothing was. `since_ms` is Unix time."""
    for start in _segments(directory, stream):
        try:
            pairs = _read(directory / f"times-{stream}.{start:020d}", 0, TIMES_BYTES_MAX)
        except OSError:  # trimmed meanwhile
            continue
        for offset, written_ms in _PAIR.iter_unpack(pairs[: len(pairs) // _PAIR.size * _PAIR.size]):
            if written_ms >= since_ms:
                return int(offset)
    return end_offset(directory, stream)


def first_offset(directory: Path, stream: Stream) -> int:
    """Of what is kept: so many bytes before it are gone."""
    return min(_segments(directory, stream), default=0)


def _segments(directory: Path, stream: Stream) -> list[int]:
    prefix = f"{stream}."
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    found = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
    return sorted(int(digits) for digits in found if len(digits) == 20 and digits.isdecimal())


def _segment(directory: Path, stream: Stream, start: int) -> Path:
    return directory / f"{stream}.{start:020d}"


def _read(path: Path, offset: int, bytes_max: int) -> bytes:
    """Where tasks are our own user they could plant anything under that name."""
    fd = os.open(path, _OPEN)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(path)
        return os.pread(fd, bytes_max, offset)
    finally:
        os.close(fd)
