"""A disk's log: what it was told to write, as qemu's blklogwrites keeps it.

A disk has a cache that it may lose with the power: only what came before it was last told to keep
everything (a flush) is sure to be there. A qemu that is killed loses nothing of that kind, as the
host keeps what it wrote; so what came after the last flush is left out here.

The format is dm-log-writes' (the kernel's Documentation/admin-guide/device-mapper/log-writes.rst).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECTOR_BYTES: Final = 512  # as vm.py has them logged
MAGIC: Final = 0x6A736677736872
_SUPER: Final = struct.Struct("<QQQI")  # magic, version, entries, bytes of a sector
_ENTRY: Final = struct.Struct("<QQQQ")  # sector, sectors, flags, bytes of a mark
FLUSH: Final = 1
DISCARD: Final = 4


@dataclass(frozen=True, slots=True)
class Write:
    """`sectors` at `sector`; their data is at `offset` of the log, or there is none (a discard)."""

    sector: int
    sectors: int
    flags: int
    offset: int

    @property
    def end(self) -> int:
        return self.offset + (0 if self.flags & DISCARD else self.sectors * SECTOR_BYTES)


def read(log: Path) -> Iterator[Write]:
    """All that stands in it whole; the first sector says how much, as of the last flush or later.

    Raises ValueError.
    """
    with log.open("rb") as file:
        magic, _, entries, sector_bytes = _SUPER.unpack(file.read(_SUPER.size))
        if magic != MAGIC or sector_bytes != SECTOR_BYTES:
            raise ValueError(f"{log} is no log of writes by sectors of {SECTOR_BYTES} bytes")
        offset = SECTOR_BYTES
        for _ in range(entries):
            file.seek(offset)
            head = file.read(_ENTRY.size)
            if len(head) < _ENTRY.size:
                raise ValueError(f"{log} has less than the {entries} writes that it says")
            sector, sectors, flags, _ = _ENTRY.unpack(head)
            offset += SECTOR_BYTES
            write = Write(sector, sectors, flags, offset)
            yield write
            offset = write.end


def keep(log: Path, disk: Path) -> tuple[int, int]:
    """Bring a disk to what it had kept for sure: how many writes it got, and how many
    bytes of the log came after them.

    Raises ValueError.
    """
    writes = list(read(log))
    flushes = [number for number, write in enumerate(writes) if write.flags & FLUSH]
    kept = writes[: flushes[-1] + 1] if flushes else []
    source, target = os.open(log, os.O_RDONLY), os.open(disk, os.O_WRONLY)
    try:
        for write in kept:
            _copy(source, target, write)
    finally:
        os.close(source)
        os.close(target)
    end = kept[-1].end if kept else SECTOR_BYTES
    return len(kept), max(0, log.stat().st_size - end)


def _copy(source: int, target: int, write: Write) -> None:
    if write.flags & DISCARD:
        return  # what was there is nobody's any more, and may as well stay
    left, done = write.sectors * SECTOR_BYTES, 0
    while left:
        data = os.pread(source, min(left, 1 << 20), write.offset + done)
        if not data:
            raise ValueError(f"the log ends within what was written to sector {write.sector}")
        os.pwrite(target, data, write.sector * SECTOR_BYTES + done)
        left, done = left - len(data), done + len(data)
