"""Wear: read from trees as the kernel has them, and from what is no such tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.wear import NORMAL, URGENT, Wear, read_wear


def card(root: Path, life: str = "", spare: str = "", *, partition: bool = True) -> None:
    """The tree of an eMMC, or SD card, that this test's own directory would be on."""
    number = os.stat(root).st_dev
    disk = root / "sys/devices/mmcblk0"
    part = disk / "mmcblk0p2" if partition else disk
    part.mkdir(parents=True)
    if partition:
        (part / "partition").write_text("2\n")
    (disk / "device").mkdir()
    for name, text in (("life_time", life), ("pre_eol_info", spare)):
        if text:
            (disk / "device" / name).write_text(text)
    link = root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    link.parent.mkdir(parents=True)
    link.symlink_to(part)


@pytest.mark.parametrize(
    ("life", "spare", "wear"),
    [
        ("0x01 0x02\n", "0x01\n", Wear("mmcblk0p2", 20, NORMAL)),
        ("0x0b 0x00\n", "0x03\n", Wear("mmcblk0p2", 100, URGENT)),
        ("0x00 0x00\n", "", Wear("mmcblk0p2")),
        ("", "", Wear("mmcblk0p2")),
        ("what\n", "ever\n", Wear("mmcblk0p2")),
    ],
)
def test_what_an_emmc_tells(tmp_path: Path, life: str, spare: str, wear: Wear) -> None:
    card(tmp_path, life, spare)
    assert read_wear(tmp_path, tmp_path) == wear


def test_what_the_file_system_counts(tmp_path: Path) -> None:
    card(tmp_path, partition=False)
    counts = tmp_path / "sys/fs/ext4/mmcblk0"
    counts.mkdir(parents=True)
    (counts / "errors_count").write_text("3\n")
    (counts / "lifetime_write_kbytes").write_text(f"{7 << 20}\n")
    wear = read_wear(tmp_path, tmp_path)
    assert wear == Wear("mmcblk0", errors=3, written_gib=7)
    assert not wear.worn_out and not wear.wearing


def test_what_is_on_no_block_device_tells_nothing(tmp_path: Path) -> None:
    assert read_wear(tmp_path, tmp_path) == Wear("")
    assert read_wear(tmp_path / "absent") == Wear("")


def test_the_ends_of_life() -> None:
    assert Wear("a", 100).worn_out and Wear("a", 80).wearing and Wear("a", spare=2).wearing
    assert not Wear("a", 70).wearing
