"""A container's output: frames of a moment and what was written then, from docker or from a file.

Docker keeps the output while there is the container, within its bound; nothing of the agent runs
for that. When the container goes, its frames go into a file as they are, so a place in the output
means the same before and after: the moment of the last frame that was read. As an offset that is
its tenths of a microsecond since 1970, times 256, plus how many frames of that moment came before.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from agent.engines.docker_client import DockerClient, NotAnswering, NotThere, moment_ns
from agent.engines.docker_repeats import MOMENT_CHARS, Repeats
from agent.engines.execution_dir import ExecutionDir
from agent.engines.task_log import STREAMS, LogChunk, Stream

CHUNK_BYTES: Final = 64 << 10
SAME_MAX: Final = 255
_SECOND_CHARS: Final = len("2026-02-03T04:05:06")
_LENGTH: Final = struct.Struct(">I")
# What docker's driver `local` writes beside a line, as its protobuf has it: two lengths, stream and
# moment; and of a part of a line that is longer than 16 KiB which part that is.
_ENTRY_BYTES: Final = 8 + 8 + 10
_PART_BYTES: Final = 2 + 2 + 2 + 66 + 5
_GONE: Final = "may be gone, as task.log_bytes_max has it"
_log = logging.getLogger("shoal.docker")


@dataclass(slots=True)
class Places:
    """Gives each frame its place. With `tail` what is read begins anywhere, so how many frames of
    its first moment came before is not known: all of that moment have the place of its last. What
    is followed may come again, and then has the place of what came last."""

    tail: bool = False
    repeats: Repeats | None = None  # of what is followed
    unit: int = 0
    same: int = 0
    again: bool = False  # the latest frame is one that came before
    met: bool = False  # a frame that was read already, or one since
    _second: tuple[bytes, int] = (b"", 0)  # as docker writes it, and its first unit

    def of(self, frame: bytes) -> tuple[int, bytes]:
        """The offset after it, and what was written."""
        moment, _, data = frame.partition(b" ")
        self.again = self.repeats is not None and self.repeats.has(frame)
        if self.again:
            return self.unit << 8 | self.same, data
        unit = self._unit_of(moment)
        if unit == self.unit:
            self.same = min(self.same + 1, SAME_MAX)
        else:
            self.same = SAME_MAX if self.tail and not self.unit else 0
        self.unit = unit
        return unit << 8 | self.same, data

    def _unit_of(self, moment: bytes) -> int:
        """What is written fast is of one second mostly, and to read a date is slow."""
        second, rest = moment[:_SECOND_CHARS], moment[_SECOND_CHARS + 1 : -1]
        if len(moment) != MOMENT_CHARS or moment[-1:] != b"Z" or not rest.isdigit():
            return moment_ns(moment.decode("ascii", "replace")) // 100
        if second != self._second[0]:
            self._second = second, moment_ns(f"{second.decode('ascii', 'replace')}Z") // 100
        first = self._second[1]
        return first + int(rest) // 100 if first else 0


def second_of(offset: int) -> int:
    """Of Unix time; from where docker is asked for what comes after the offset."""
    return (offset >> 8) // 10_000_000


def before(moment_ms: int) -> int:
    """The offset after all that was written before that Unix time."""
    return max(0, moment_ms * 10_000 - 1) << 8 | SAME_MAX


def before_last(frames: Iterable[bytes], count: int, tail: bool = False) -> int:
    """The offset after which so many come at the end; more where that is within more frames of one
    moment than can be counted. Zero where there are no more than so many; with `tail`, which begins
    anywhere, also where it cannot be known.
    """
    places = Places(tail)
    ends = deque([0], maxlen=count + 1)
    ends.extend(places.of(frame)[0] for frame in frames)
    first = ends[0] if len(ends) > count else 0
    if first & SAME_MAX != SAME_MAX:
        return first
    return 0 if tail else (first >> 8 << 8) - 1


def chunks(
    frames: Iterable[bytes], after: int, places: Places | None = None, single: bool = False
) -> Iterator[LogChunk]:
    """Frames after that place, put together as far as they go into a chunk, or each by itself.

    `places` goes on from batch to batch of one stream. With `single`, `after` is the place of a
    frame that was read before: where docker does not give it any more, it has dropped the file that
    had it, and all that stood behind it there.
    """
    places, held, size, end, gap = places or Places(), list[bytes](), 0, after, False
    for frame in frames:
        place, written = places.of(frame)
        if place <= after or places.again:
            places.met = True
            continue
        if size and (single or size + len(written) > CHUNK_BYTES):
            yield LogChunk(end - size, b"".join(held), end, gap)
            held, size, gap = [], 0, False
        gap = gap or (single and after > 0 and not places.met)
        places.met = True
        held.append(written)
        size, end = size + len(written), place
    if size:
        yield LogChunk(end - size, b"".join(held), end, gap)


def spool(frames: Iterable[bytes], path: Path) -> None:
    """Keep them in a file; on a full disk, none of them. Raises OSError."""
    fresh = path.with_name(f".{path.name}")
    try:
        with fresh.open("wb") as file:
            for frame in frames:
                file.write(_LENGTH.pack(len(frame)) + frame)
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)


def spooled(file: BinaryIO) -> Iterator[bytes]:
    while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
        yield file.read(_LENGTH.unpack(head)[0])


def last(frames: Iterable[bytes], count: int) -> Iterable[bytes]:
    """A frame is a line, but for lines of more than 16 KiB."""
    return deque(frames, maxlen=max(0, count))


@dataclass(slots=True)
class Amount:
    """Of output: what was written, and what that takes in docker's files, to some bytes more."""

    written: int = 0
    stored: int = 0

    def counting(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        """The frames of one stream, as they are."""
        is_part = False
        for frame in frames:
            size, was_part = len(frame) - frame.find(b" ") - 1, is_part
            is_part = not frame.endswith(b"\n")
            self.written += size
            line = size if is_part else size - 1
            length = (line.bit_length() + 6) // 7  # of its length, in sevens of bits
            self.stored += _ENTRY_BYTES + (1 + length + line if line else 0)
            self.stored += _PART_BYTES * (is_part or was_part)
            yield frame


def keep_logs(
    client: DockerClient,
    directory: ExecutionDir,
    known: Mapping[Stream, Iterable[bytes]] | None = None,
    bytes_max: int = 0,
) -> str:
    """Before the container goes. A full disk costs the output, and keeps no container for it: what
    is not kept, and why, in a sentence. Docker is asked for what is not `known` already; where it
    has more than `bytes_max` in its files, it may have dropped what was there before: it has room
    for one file more, and does not tell.

    Blocks. Raises NotAnswering.
    """
    lost, amount = [], Amount()
    for stream in STREAMS:
        path = kept_log(directory, stream)
        try:
            if known is not None:
                spool(known[stream], path)
                continue
            frames, source = client.log(directory.path.name, stream, 0, -1, False)
            with closing(source):
                spool(amount.counting(frames), path)
        except NotThere:
            break
        except NotAnswering:
            raise
        except OSError as error:
            _log.warning("the output of %s is not kept: %s", directory.path.name, error)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            why = "the disk is full" if full else error
            lost.append(f"{stream} could not be kept: {why}")
    if bytes_max and amount.stored > bytes_max:
        lost.append(
            f"what came before its last {amount.written:,} bytes, of both streams together, {_GONE}"
        )
    return "; ".join(lost)


def begins_late(lost_output: str) -> bool:
    """Whether the beginning of what is kept may not be that of the output, as keep_logs says."""
    return lost_output.endswith(_GONE)


def has_dropped(client: DockerClient, execution_id: str) -> bool:
    """Whether docker may have dropped some of the output, as keep_logs finds it out; none of it is
    held for that. Blocks. Raises EngineFailed."""
    bytes_max, amount = client.inspect(execution_id).output_bytes, Amount()
    for stream in STREAMS if bytes_max else ():
        frames, source = client.log(execution_id, stream, 0, -1, False)
        with closing(source):
            deque(amount.counting(frames), maxlen=0)
    return amount.stored > bytes_max


def read_kept(path: Path, offset: int, lines: int, single: bool = False) -> Iterator[LogChunk]:
    """From the file: after that place, or the last lines where that is not negative."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        frames = spooled(file)
        wanted = last(frames, lines) if lines >= 0 else frames
        yield from chunks(wanted, offset, Places(lines >= 0), single)


def kept_lines(directory: ExecutionDir, count: int) -> dict[Stream, Iterable[bytes]]:
    """The last frames of the streams whose files can be read."""
    found: dict[Stream, Iterable[bytes]] = {}
    for stream in STREAMS:
        with contextlib.suppress(OSError), kept_log(directory, stream).open("rb") as file:
            found[stream] = last(spooled(file), count)
    return found


def whole_chunk(frames: Iterable[bytes]) -> LogChunk:
    """The last lines of a stream, all in one."""
    tail = list(chunks(frames, 0, Places(tail=True)))
    data, end = b"".join(chunk.data for chunk in tail), tail[-1].end if tail else 0
    return LogChunk(end - len(data), data, end)


def kept_log(directory: ExecutionDir, stream: Stream) -> Path:
    return directory.path / f"log.{stream}"
