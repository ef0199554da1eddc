"""Conditions: what a person set outlives the agent, and a damaged file harms nobody."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import trio

from agent.conditions import FILE_NAME, Conditions
from protocol.errors import ShoalError


def state(it: Conditions) -> tuple[dict[str, str], bool]:
    return dict(it.labels), it.draining


def test_a_device_begins_without_any(tmp_path: Path) -> None:
    assert state(Conditions(tmp_path)) == ({}, False)
    assert list(tmp_path.iterdir()) == []


async def test_what_was_set_is_there_after_a_restart(tmp_path: Path) -> None:
    it = Conditions(tmp_path)
    await it.change({"room": "attic", "camera": ""}, [])
    await it.drain(True)
    assert state(it) == ({"room": "attic", "camera": ""}, True) == state(Conditions(tmp_path))
    await it.change({"room": "shed"}, ["camera", "unknown"])
    await it.drain(False)
    assert state(Conditions(tmp_path)) == ({"room": "shed"}, False)


async def test_setting_the_same_again_writes_nothing(tmp_path: Path) -> None:
    it = Conditions(tmp_path)
    await it.change({"room": "attic"}, [])
    before = (tmp_path / FILE_NAME).stat().st_ino
    await it.change({"room": "attic"}, [])
    await it.drain(False)
    assert (tmp_path / FILE_NAME).stat().st_ino == before


async def test_all_of_a_change_or_none_of_it(tmp_path: Path) -> None:
    it = Conditions(tmp_path)
    await it.change({"room": "attic"}, [])
    with pytest.raises(ValueError, match="agent's own"):
        await it.change({"room": "shed", "arch": "vax"}, [])
    with pytest.raises(ValueError, match="at most 48"):
        await it.change({f"k{n}": "" for n in range(48)}, [])
    assert state(Conditions(tmp_path)) == ({"room": "attic"}, False)


async def test_two_changes_at_once_are_both_there(tmp_path: Path) -> None:
    it = Conditions(tmp_path)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(it.change, {f"k{number}": ""}, [])
        nursery.start_soon(it.drain, True)
    assert state(Conditions(tmp_path)) == ({f"k{n}": "" for n in range(5)}, True)


async def test_what_could_not_be_written_does_not_count(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    it = Conditions(data_dir)
    data_dir.rmdir()
    with pytest.raises(OSError):
        await it.change({"room": "attic"}, [])
    assert state(it) == ({}, False)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff", b'{"draining": 1}', b'{"labels": {"arch": "vax"}}']
)
def test_a_damaged_file_is_set_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    caplog.set_level(logging.ERROR)
    (tmp_path / FILE_NAME).write_bytes(data)
    assert state(Conditions(tmp_path)) == ({}, False)
    assert [path.name for path in tmp_path.iterdir()] == [f"{FILE_NAME}.damaged-1"]
    assert "cannot be used" in caplog.text


def test_a_later_version_may_keep_more_in_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(json.dumps({"draining": True, "later": [1]}))
    assert state(Conditions(tmp_path)) == ({}, True)


def test_a_file_that_cannot_be_read_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    os.mkdir(tmp_path / FILE_NAME)
    with pytest.raises(ShoalError, match=r"conditions\.json cannot be read"):
        Conditions(tmp_path)
