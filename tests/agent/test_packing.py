"""Packing: whatever a task makes of its directory, what comes out is its files and no others."""

from __future__ import annotations

import hashlib
import os
import socket
import tarfile
from pathlib import Path

import pytest

from agent import packing
from agent.packing import DEPTH_MAX, LOOK_BYTES, NOTES_MAX, Packed, TooMuch, pack

MIB = 1 << 20


@pytest.fixture
def work(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def packed(work: Path, *paths: str, bytes_max: int = MIB, owner: int | None = None) -> Packed:
    pairs = [(f"r{number}", path) for number, path in enumerate(paths)]
    return pack(work, pairs, work.parent / "made", bytes_max, owner)


def names(work: Path) -> list[str]:
    with tarfile.open(work.parent / "made") as archive:
        return [member.name for member in archive]


def test_files_and_directories_stand_below_the_name_of_their_path(work: Path) -> None:
    (work / "out" / "deep").mkdir(parents=True)
    (work / "out" / "deep" / "b").write_bytes(b"b" * 1000)
    (work / "out" / "a").write_bytes(b"a")
    (work / "one.csv").write_bytes(b"1,2")
    made = packed(work, "out", "/one.csv")
    assert names(work) == ["r0", "r0/a", "r0/deep", "r0/deep/b", "r1", "r1/one.csv"]
    data = (work.parent / "made").read_bytes()
    assert made == Packed(hashlib.sha256(data).hexdigest(), len(data))


def test_the_same_files_make_the_same_archive(work: Path) -> None:
    (work / "a").write_bytes(b"a")
    first = packed(work, "a")
    (work.parent / "made").unlink()
    assert packed(work, "a") == first


def test_modes_are_kept_but_for_those_that_make_somebody_else_of_a_user(work: Path) -> None:
    (work / "run").write_bytes(b"#!/bin/sh")
    (work / "run").chmod(0o4755)
    packed(work, "run")
    with tarfile.open(work.parent / "made") as archive:
        member = archive.getmember("r0/run")
        assert (member.mode, member.uid, member.uname) == (0o755, 0, "")


def test_links_pipes_and_sockets_are_left_out_and_told_of(work: Path) -> None:
    out = work / "out"
    out.mkdir()
    (out / "good").write_bytes(b"good")
    (out / "link").symlink_to("/etc/passwd")
    (out / "up").symlink_to("..")
    os.mkfifo(out / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(out / "socket"))
    made = packed(work, "out")
    assert names(work) == ["r0", "r0/good"]
    assert made.note.count("neither a file nor a directory") == NOTES_MAX
    assert made.note.endswith("and 1 more")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing", "missing: nothing is there"),
        ("file/below", "file/below: a part of the path is no directory"),
        ("link", "link: a part of the path is a link"),
        ("link/passwd", "link/passwd: a part of the path is a link"),
    ],
)
def test_a_path_that_leads_nowhere_or_out_is_told_of(work: Path, path: str, said: str) -> None:
    (work / "file").write_bytes(b"x")
    (work / "link").symlink_to("/etc")
    assert packed(work, path) == Packed(note=said)
    assert not (work.parent / "made").exists()
    assert packed(work, path, "file").note == said and names(work) == ["r1", "r1/file"]


def test_a_file_of_somebody_else_is_left_out(work: Path) -> None:
    """A task may have linked it where the kernel lets it."""
    (work / "mine").write_bytes(b"x")
    said = "mine: belongs to another user than the task's"
    assert packed(work, "mine", owner=os.getuid() + 1) == Packed(note=said)
    assert packed(work, "mine", owner=os.getuid()).digest


def test_more_bytes_than_are_kept_leave_nothing_at_all(work: Path) -> None:
    with (work / "sparse").open("wb") as file:
        file.truncate(10 << 30)
    assert packed(work, "sparse") == Packed(
        note="more than 1 MiB of result files: none is kept", lost=True
    )
    assert os.listdir(work.parent) == ["work"]


def test_more_files_than_are_kept_leave_nothing_at_all(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "FILES_MAX", 20)
    for number in range(21):
        (work / str(number)).touch()
    assert packed(work, ".") == Packed(note="more than 20 result files: none is kept", lost=True)
    assert os.listdir(work.parent) == ["work"]


def test_links_by_the_thousand_end_it_as_well(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "FILES_MAX", 20)
    for number in range(30):
        (work / str(number)).symlink_to("/")
    assert packed(work, ".") == Packed(note="more than 20 result files: none is kept", lost=True)


def test_what_ends_it_leaves_nothing(work: Path) -> None:
    (work / "big").write_bytes(os.urandom(LOOK_BYTES + 10))

    def enough() -> None:
        raise TooMuch("the disk is wanted for something else")

    made = pack(work, [("r", "big")], work.parent / "made", 1 << 30, None, enough)
    assert made == Packed(note="the disk is wanted for something else", lost=True)
    assert os.listdir(work.parent) == ["work"]


def test_a_tree_that_is_too_deep_is_cut(work: Path) -> None:
    deepest = work.joinpath(*["d"] * (DEPTH_MAX + 5))
    deepest.mkdir(parents=True)
    (work / "d" / "file").write_bytes(b"x")
    made = packed(work, "d")
    assert f"more than {DEPTH_MAX} directories deep" in made.note
    assert "r0/file" in names(work)


def test_names_that_are_no_text_are_packed_under_what_can_be_written(work: Path) -> None:
    (work / os.fsdecode(b"bad\xff")).write_bytes(b"x")
    packed(work, ".")
    assert names(work) == ["r0", "r0/bad\ufffd"]
