"""Directories of executions: made, kept beside, and gone at once and for good."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import trio

from agent.engines.directories import Directories
from agent.engines.task import ExitReason, TaskExit, TaskUser

BAD_IDS = ["", ".", "..", "../e1", "a/b", "/etc", ".removed-e1.5", "-e1", "e1\n", "a b", "a" * 129]
ENDED = TaskExit(3, None, ExitReason.EXITED, 5.0, 1.5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "executions"


@pytest.fixture
def it(root: Path) -> Directories:
    return Directories(root, None)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


# ---- made --------------------------------------------------------------------------------------


def test_the_root_is_made_and_closed(root: Path) -> None:
    found = Directories(root / "inner" / ".." / "deep", None)
    assert found.root == (root / "deep").resolve() and found.root.is_dir()
    assert mode(found.root) == 0o700


async def test_it_can_be_passed_where_tasks_are_another_user(root: Path) -> None:
    user = TaskUser(os.geteuid(), os.getegid())
    it = Directories(root, user)
    work = await it.prepare("e1")
    assert (mode(root), mode(root / "e1"), mode(work)) == (0o711, 0o711, 0o700)
    assert (work.stat().st_uid, work.stat().st_gid) == (user.uid, user.gid)


async def test_a_work_directory_is_made_once(it: Directories, root: Path) -> None:
    work = await it.prepare("e1")
    assert work == it.root / "e1/work"
    (work / "input").write_text("x")
    assert await it.prepare("e1") == work
    assert (work / "input").read_text() == "x"
    assert sorted(os.listdir(root / "e1")) == ["tmp", "work"]
    assert (mode(root / "e1"), mode(work), mode(root / "e1/tmp")) == (0o700, 0o700, 0o700)


async def test_for_inputs_it_is_the_agents_own_and_empty_until_it_is_handed_over(
    root: Path,
) -> None:
    user = TaskUser.named("nobody")
    it = Directories(root, user)
    work = await it.begin("e1")
    assert work.stat().st_uid == os.geteuid()
    assert (await it.prepare("e1")).stat().st_uid == os.geteuid()
    it.of("e1").create(user)  # an earlier life handed it over, and another task planted a link
    (work / "input").symlink_to("/etc")
    work = await it.begin("e1")
    assert work.stat().st_uid == os.geteuid() and os.listdir(work) == []


async def test_what_was_started_keeps_its_files_whoever_begins_again(root: Path) -> None:
    it = Directories(root, TaskUser.named("nobody"))
    work = await it.begin("e1")
    (work / "file").write_text("")
    (root / "e1/supervisor").write_text("1 1\n")
    assert os.listdir(await it.begin("e1")) == ["file"]


async def test_it_has_what_was_prepared_and_nothing_else(it: Directories, root: Path) -> None:
    await it.prepare("e1")
    (root / "file").write_text("x")
    assert (it.has("e1"), it.has("e2"), it.has("file")) == (True, False, False)


async def test_many_are_made_at_a_time(it: Directories, root: Path) -> None:
    names = [f"e{number}" for number in range(40)]
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(it.prepare, name)
    assert sorted(os.listdir(root)) == sorted(names)


# ---- beside ------------------------------------------------------------------------------------


async def test_notes_are_kept_out_of_the_tasks_reach(it: Directories, root: Path) -> None:
    assert await it.read_note("e1", "wanted") is None
    await it.write_note("e1", "wanted", b"a")
    await it.write_note("e1", "packed", b"\0b")
    await it.write_note("e1", "wanted", b"c")
    assert await it.read_note("e1", "wanted") == b"c"
    assert await it.read_note("e1", "packed") == b"\0b"
    assert await it.read_note("e1", "other") is None
    assert sorted(os.listdir(root / "e1")) == ["note.packed", "note.wanted", "tmp", "work"]
    assert os.listdir(root / "e1/work") == []


async def test_clearing_costs_the_files_and_neither_notes_nor_output(
    it: Directories, root: Path
) -> None:
    work = await it.prepare("e1")
    (work / "deep/deeper").mkdir(parents=True)
    await it.write_note("e1", "packed", b"a")
    (root / "e1/log.stdout").write_bytes(b"said")
    await it.clear("e1")
    await it.clear("e1")
    assert sorted(os.listdir(root / "e1")) == ["log.stdout", "note.packed"]


# ---- gone --------------------------------------------------------------------------------------


async def test_removed_nothing_of_it_is_left(it: Directories, root: Path) -> None:
    for name in ("e1", "e2"):
        work = await it.prepare(name)
        (work / "deep/deeper").mkdir(parents=True)
        (work / "deep/link").symlink_to(root)
    await it.write_note("e1", "wanted", b"a")
    await it.remove("e1")
    assert os.listdir(root) == ["e2"]
    assert not it.has("e1") and await it.read_note("e1", "wanted") is None


async def test_removing_what_never_was_is_fine(it: Directories, root: Path) -> None:
    await it.remove("e1")
    await it.prepare("e1")
    await it.remove("e1")
    await it.remove("e1")
    assert os.listdir(root) == []


async def test_its_name_is_free_though_its_files_cannot_be_deleted_yet(
    it: Directories, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(path: Path) -> None:
        raise OSError(16, "Device or resource busy", str(path))

    await it.write_note("e1", "wanted", b"a")
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr("agent.engines.directories.remove_tree", busy)
        await it.remove("e1")
        assert it.sweep() == []
    assert not it.has("e1")
    (left,) = os.listdir(root)
    assert left.startswith(".removed-e1.")
    assert [record.getMessage() for record in caplog.records] == [
        f"{it.root / left} is not removed"
    ] * 2
    await it.prepare("e1")
    assert await it.read_note("e1", "wanted") is None
    it.sweep()
    assert os.listdir(root) == ["e1"]


# ---- the next life -----------------------------------------------------------------------------


async def test_what_was_started_is_found_in_order_and_what_was_only_prepared_is_not(
    it: Directories, root: Path
) -> None:
    started = [f"s{number * 7 % 20:02d}" for number in range(20)]
    for name in (*started, "e2", "prepared", "noted"):
        await it.prepare(name)
    await it.write_note("noted", "wanted", b"a")
    for name in started:
        it.of(name).write_spec(b"arg=x\0")
    it.of("e2").record(ENDED)
    (root / "file").write_text("x")
    (root / ".hidden").mkdir()
    again = Directories(root, None)
    assert again.sweep() == ["e2", *sorted(started)]
    assert again.of("e2").read_exit() == ENDED
    assert {"prepared", "noted", "file", ".hidden"} <= set(os.listdir(root))


async def test_removals_that_a_crash_cut_short_are_finished(it: Directories, root: Path) -> None:
    work = await it.prepare("e1")
    (work / "deep/deeper").mkdir(parents=True)
    it.of("e1").write_spec(b"arg=x\0")
    (root / "e1").rename(root / ".removed-e1.123")
    (root / ".removed-e2.456").mkdir(mode=0o000)
    assert it.sweep() == []
    assert os.listdir(root) == []


# ---- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_IDS)
async def test_what_is_no_plain_name_is_refused_everywhere(
    it: Directories, root: Path, name: str
) -> None:
    with pytest.raises(ValueError, match="not an execution id"):
        it.of(name)
    with pytest.raises(ValueError, match="not an execution id"):
        it.has(name)
    for work in (it.prepare, it.clear, it.remove):
        with pytest.raises(ValueError, match="not an execution id"):
            await work(name)
    with pytest.raises(ValueError, match="not an execution id"):
        await it.write_note(name, "wanted", b"a")
    with pytest.raises(ValueError, match="not an execution id"):
        await it.read_note(name, "wanted")
    assert os.listdir(root) == []


def test_the_longest_name_is_fit_for_its_removal(it: Directories, root: Path) -> None:
    name = "a" * 128
    trio.run(it.prepare, name)
    trio.run(it.remove, name)
    assert os.listdir(root) == []
