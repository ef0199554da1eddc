"""Files go into containers and results come out of them, unless they are too much."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import pytest
import trio

from agent.packing import NO_FILE, pack
from tests.dockerhost import DockerHost
from tests.dockerlab import ended, engine, said, shell
from tests.dockerproxy import LEAVES_SOCKETS

pytestmark = LEAVES_SOCKETS


async def test_files_go_in_and_results_come_out(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        work = await it.directories.prepare("e1")
        (work / "script.sh").write_text("cat data/in; cat /input/x; echo kept > out.txt; pwd")
        (work / "data").mkdir()
        (work / "data/in").write_text("shipped\n")
        (work / "input").mkdir()
        (work / "input/x").write_text("mounted\n")
        (work / "input/x").chmod(0o600)
        await it.hand_over("e1")
        script = (
            "sh script.sh; echo r > /outputs/deep; ln -s /etc/passwd /outputs/link; touch /input/x"
        )
        launch = shell(
            script, inputs=("/input",), results=("/outputs",), has_task_dir=True, user="1234"
        )
        await ended(it, launch)
        assert await said(it) == b"shipped\nmounted\n/shoal\n"
        assert b"Read-only file system" in await said(it, stream="stderr")
        out = await it.collect("e1", ["/outputs", "out.txt", "nothing"])
        assert (out / "outputs/deep").read_text() == "r\n"
        assert (out / "out.txt").read_text() == "kept\n"
        assert sorted(os.listdir(out / "outputs")) == ["deep", "link"]
        assert (out / "outputs/link").is_fifo(), "a link is no result, which is told of"
        await it.clear("e1")
        assert not out.exists() and not list((root / "e1/work").glob("*"))


async def test_a_file_with_two_names_comes_out_under_both_and_all_else_is_told_of(
    root: Path, docker: DockerHost, tmp_path: Path
) -> None:
    async with engine(root, docker) as it:
        script = "cd /o; echo hi > a; mkdir d; ln a d/b; ln -s /real l; mkfifo p; echo r > /real/x"
        await ended(it, shell(script, results=("/o", "/real")))
        paths = [("o", "/o"), ("x", "/o/l/x")]
        out = await it.collect("e1", [path for _, path in paths])
        packed = pack(out, paths, tmp_path / "packed", 1 << 20)
    with tarfile.open(tmp_path / "packed") as archive:
        files = sorted(member.name for member in archive if member.isreg())
    assert files == ["o/a", "o/d/b", "o/l/x", "x/x"]
    assert packed.note == f"o/p: {NO_FILE}"


async def test_too_much_is_refused_before_it_is_on_disk(root: Path, docker: DockerHost) -> None:
    async with engine(root, docker) as it:
        bomb = "truncate -s 10G /outputs/sparse"
        await ended(it, shell(bomb, results=("/outputs",)))
        with pytest.raises(OSError, match="too large unpacked"):
            await it.collect("e1", ["/outputs"])


async def test_a_disk_that_fills_up_keeps_no_result_and_no_piece_of_one(
    root: Path, docker: DockerHost
) -> None:
    await trio.run_process(["mount", "-t", "tmpfs", "-o", "size=220m", "none", root])
    try:
        async with engine(root, docker) as it:
            big = "dd if=/dev/zero of=/outputs/big bs=1M count=150 2>/dev/null"
            exit = await ended(it, shell(big, results=("/outputs",), memory_bytes=512 << 20))
            assert exit.code == 0
            with pytest.raises(OSError, match="the disk is too full"):
                await it.collect("e1", ["/outputs"])
            assert shutil.disk_usage(root).used < 1 << 20
            await it.clear("e1")
            await it.remove("e1")
    finally:
        await trio.run_process(["umount", root])
