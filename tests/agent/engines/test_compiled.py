"""Compiled modules: what is opened to be compiled, and what is kept of it."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
import trio

from agent.engines import compiled as module
from agent.engines.beside import Place
from agent.engines.compiled import Compiled, UnfitModule, open_module, target_of

# Stands for the compiler: writes so many bytes, in the second line of its input.
WRITES = ("sh", "-c", 'read n; head -c "$n" /dev/zero; echo "$@" >> log', "sh")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, {"PATH": os.environ["PATH"]}, None)


@pytest.fixture
def kept(tmp_path: Path) -> Compiled:
    made = Compiled(tmp_path / "wasm")
    made.open()
    return made


async def put(kept: Compiled, place: Place, size: int, child: tuple[str, ...] = WRITES) -> Path:
    source = place.directory / f"{size}.wasm"
    source.write_text(f"{size}\n")
    descriptor = os.open(source, os.O_RDONLY)
    try:
        return await kept.of(descriptor, place, child, target_of("1.0", fuelled=False))
    finally:
        os.close(descriptor)


def names(kept: Compiled) -> list[int]:
    return sorted(path.stat().st_size for path in kept.root.iterdir())


def aged(path: Path) -> None:
    then = time.time() - 3600
    os.utime(path, (then, then))


async def test_the_compiler_is_told_the_digest_and_runs_once(kept: Compiled, place: Place) -> None:
    first, again = await put(kept, place, 7), await put(kept, place, 7)
    assert first == again and first.stat().st_size == 7
    digest = hashlib.sha256(b"7\n").hexdigest()
    assert (place.directory / "log").read_text() == f"compile {digest} 0\n"


async def test_who_wants_it_at_the_same_time_waits_for_one_compiler(
    kept: Compiled, place: Place
) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(put, kept, place, 7)
    assert len((place.directory / "log").read_text().splitlines()) == 1


async def test_what_is_compiled_waits_for_no_compiler(kept: Compiled, place: Place) -> None:
    first = await put(kept, place, 7)
    never = ("sh", "-c", "sleep 600", "sh")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(put, kept, place, 8, never)
        with trio.fail_after(60):
            while len(list(kept.root.iterdir())) < 2:  # noqa: ASYNC110 -- a file tells of it
                await trio.sleep(0.01)
            assert await put(kept, place, 7) == first
        nursery.cancel_scope.cancel()


async def test_beyond_the_bounds_the_longest_unused_go(
    kept: Compiled, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNT_MAX", 2)
    for size in (1, 2):
        aged(await put(kept, place, size))
    await put(kept, place, 1)  # used again
    await put(kept, place, 3)
    assert names(kept) == [1, 3]
    monkeypatch.setattr(module, "BYTES_MAX", 10)
    for path in kept.root.iterdir():
        aged(path)
    await put(kept, place, 9)
    assert names(kept) == [9]


async def test_what_was_used_just_now_stays_for_the_task_that_is_to_open_it(
    kept: Compiled, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COUNT_MAX", 1)
    for size in (1, 2, 3):
        await put(kept, place, size)
    assert names(kept) == [1, 2, 3]


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        ("echo shoal: it is odd >&2; exit 3", UnfitModule, "it is odd"),
        ("echo no room >&2; exit 1", OSError, "compiling its module: no room"),
        ("kill -9 $$", OSError, "compiling its module: exit code 137"),
    ],
)
async def test_a_bad_end_is_the_modules_fault_or_the_devices(
    kept: Compiled, place: Place, script: str, kind: type[Exception], reason: str
) -> None:
    with pytest.raises(kind, match=reason):
        await put(kept, place, 1, ("sh", "-c", script, "sh"))
    assert names(kept) == []


async def test_a_compiler_that_never_ends_is_ended(
    kept: Compiled, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPILE_S", 0.2)
    with pytest.raises(OSError, match="took longer than"):
        await put(kept, place, 1, ("sh", "-c", "sleep 60", "sh"))
    assert names(kept) == []


# ---- what is opened ----------------------------------------------------------------------------


def test_a_module_is_opened_by_its_path_in_the_job(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/m.wasm").write_bytes(b"m")
    for path in ("a/b/m.wasm", "/a/b/m.wasm", "/a/b"):
        descriptor = open_module(tmp_path, path)
        assert os.read(descriptor, 9) == b"m"
        os.close(descriptor)


def test_no_link_is_followed_out_of_the_tasks_directory(tmp_path: Path) -> None:
    """The agent may be root, and may read what the task may not."""
    (tmp_path / "secret.wasm").write_bytes(b"x")
    work = tmp_path / "work"
    work.mkdir()
    (work / "m.wasm").symlink_to("../secret.wasm")
    (work / "up").symlink_to("..")
    for path in ("m.wasm", "up/secret.wasm", "."):
        with pytest.raises((OSError, UnfitModule)):
            open_module(work, path)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("none.wasm", "none.wasm: no such file among its input sources"),
        ("file/none.wasm", "no such file among its input sources"),
        ("pipe", "pipe is no file"),
        ("many", "many holds 2 files"),
        ("large", "large has 64 MiB; allowed: 64 MiB"),
    ],
)
def test_what_is_no_module_file_is_told_by_its_path(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "many").mkdir()
    (tmp_path / "many/a.wasm").touch()
    (tmp_path / "many/b.wasm").touch()
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(module.MODULE_BYTES_MAX + 1)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UnfitModule, match=reason):
        open_module(tmp_path, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_code_is_for_one_version_processor_and_way_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    here = target_of("1.0", fuelled=False)
    assert here == target_of("1.0", fuelled=False)
    others = {target_of("1.1", fuelled=False), target_of("1.0", fuelled=True)}
    monkeypatch.setattr(module, "_features", lambda: b"flags: fpu")
    others.add(target_of("1.0", fuelled=False))
    assert len(others | {here}) == 4
