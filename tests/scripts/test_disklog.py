"""scripts/disklog: what a disk has for sure after the power was cut."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from scripts.disklog import DISCARD, FLUSH, MAGIC, SECTOR_BYTES, keep

SECTORS = 8


def log_of(place: Path, *entries: tuple[int, bytes, int], told: int | None = None) -> Path:
    """Of (sector, data, flags); it says itself that it has `told` of them."""
    count = len(entries) if told is None else told
    parts = [struct.pack("<QQQI", MAGIC, 1, count, SECTOR_BYTES).ljust(SECTOR_BYTES, b"\0")]
    for sector, data, flags in entries:
        head = struct.pack("<QQQQ", sector, len(data) // SECTOR_BYTES, flags, 0)
        parts += [head.ljust(SECTOR_BYTES, b"\0"), b"" if flags & DISCARD else data]
    log = place / "log"
    log.write_bytes(b"".join(parts))
    return log


def sector(value: int, count: int = 1) -> bytes:
    return bytes([value]) * SECTOR_BYTES * count


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.write_bytes(bytes(SECTORS * SECTOR_BYTES))
    return made


def values(disk: Path) -> list[int]:
    return list(disk.read_bytes()[::SECTOR_BYTES])


def test_what_came_before_the_last_flush_is_kept_in_its_order(disk: Path, tmp_path: Path) -> None:
    log = log_of(
        tmp_path, (1, sector(1, 2), 0), (0, b"", FLUSH), (2, sector(2), 0), (0, b"", FLUSH)
    )
    assert keep(log, disk) == (4, 0)
    assert values(disk) == [0, 1, 2, 0, 0, 0, 0, 0]


def test_what_came_after_it_is_lost(disk: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path, (1, sector(1), 0), (0, b"", FLUSH), (1, sector(2), 0), (3, sector(3), 0))
    assert keep(log, disk) == (2, 4 * SECTOR_BYTES)
    assert values(disk) == [0, 1, 0, 0, 0, 0, 0, 0]


def test_without_a_flush_nothing_is_sure(disk: Path, tmp_path: Path) -> None:
    assert keep(log_of(tmp_path, (1, sector(1), 0)), disk) == (0, 2 * SECTOR_BYTES)
    assert values(disk) == [0] * SECTORS


def test_a_discard_has_no_data(disk: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path, (4, sector(9, 2), DISCARD), (5, sector(5), 0), (0, b"", FLUSH))
    assert keep(log, disk) == (3, 0)
    assert values(disk) == [0, 0, 0, 0, 0, 5, 0, 0]


def test_what_the_log_does_not_count_yet_is_left_unread(disk: Path, tmp_path: Path) -> None:
    log = log_of(tmp_path, (1, sector(1), 0), (0, b"", FLUSH), (2, sector(2), 0), told=2)
    with log.open("r+b") as file:
        file.truncate(log.stat().st_size - 100)
    assert keep(log, disk) == (2, 2 * SECTOR_BYTES - 100)
    assert values(disk) == [0, 1, 0, 0, 0, 0, 0, 0]


def test_another_file_or_one_that_ends_too_soon_is_refused(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no log of writes"):
        keep(disk, disk)
    log = log_of(tmp_path, (1, sector(1), FLUSH))
    with log.open("r+b") as file:
        file.truncate(SECTOR_BYTES * 2)
    with pytest.raises(ValueError, match="log ends"):
        keep(log, disk)
    with pytest.raises(ValueError, match="less than the 2 writes"):
        keep(log_of(tmp_path, (1, sector(1), FLUSH), told=2), disk)
