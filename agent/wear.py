"""Wear: what the storage below a directory tells of its age, as far as the kernel hands it on.

eMMC tells how much of its life is used (JEDEC eMMC 5.0, DEVICE_LIFE_TIME_EST and PRE_EOL_INFO), an
SD card tells nothing, and ext4 counts the errors it met and the bytes it wrote. Read below `root`,
so that tests bring a tree of their own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TENTHS_MAX = 11  # 0x0b: more than its whole life is over
NORMAL, WARNING, URGENT = 1, 2, 3  # of the spare blocks


@dataclass(frozen=True, slots=True)
class Wear:
    """`used_percent` is the upper end of what it tells (in tenths), None where it tells nothing."""

    device: str  # as the kernel calls it; empty where there is none
    used_percent: int | None = None
    spare: int = 0  # NORMAL, WARNING, URGENT; 0 where it tells nothing
    errors: int = 0  # that the file system met, over all of its life
    written_gib: int | None = None  # likewise

    @property
    def worn_out(self) -> bool:
        return self.spare == URGENT or (self.used_percent or 0) >= 100

    @property
    def wearing(self) -> bool:
        return self.spare == WARNING or (self.used_percent or 0) >= 80


def read_wear(directory: Path, root: Path = Path("/")) -> Wear:
    """Of the device that the directory is on. Never raises: it may be no block device at all."""
    try:
        number = os.stat(directory).st_dev
    except OSError:
        return Wear("")
    place = root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    try:
        partition = place.resolve(strict=True)
    except OSError:
        return Wear("")
    disk = partition.parent if (partition / "partition").exists() else partition
    file_system = root / "sys/fs/ext4" / partition.name
    written = _number(file_system / "lifetime_write_kbytes")
    return Wear(
        partition.name,
        _used_percent(_words(disk / "device/life_time")),
        _hex(_words(disk / "device/pre_eol_info")),
        _number(file_system / "errors_count") or 0,
        None if written is None else written >> 20,
    )


def _used_percent(words: list[str]) -> int | None:
    """The worse of its two kinds of memory; 0 means that one is not there."""
    tenths = [_hex([word]) for word in words]
    worst = max((tenth for tenth in tenths if 0 < tenth <= TENTHS_MAX), default=0)
    return min(worst * 10, 100) if worst else None


def _hex(words: list[str]) -> int:
    try:
        return int(words[0], 16) if words else 0
    except ValueError:
        return 0


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").split()
    except OSError:
        return []
