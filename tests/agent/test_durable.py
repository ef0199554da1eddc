"""Small durable files: whole or untouched, never over one that must stay."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent import durable


def test_write_replaces_with_the_given_rights(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"old")
    durable.write(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_syncs_are_counted_wherever_the_agent_has_them(tmp_path: Path) -> None:
    before = durable.syncs()
    durable.write(tmp_path / "file", b"new")
    assert durable.syncs() == before + 2, "the file, and its name"
    sources = Path(durable.__file__).parent.rglob("*.py")
    assert [each.name for each in sources if "os.fsync(" in each.read_text()] == ["durable.py"]


def test_create_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.create(path, b"first")
    with pytest.raises(FileExistsError):
        durable.create(path, b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_the_disk_refuses_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.write(path, b"old")
    code = (
        "import sys, pathlib; from agent import durable\n"
        "try: durable.write(pathlib.Path(sys.argv[1]), bytes(10_000))\n"
        "except OSError as error: sys.exit(7)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        timeout=30,
        check=False,
    )
    assert ended.returncode == 7
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_kill_at_any_moment_leaves_one_whole_version(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = (
        "import sys, pathlib; from agent import durable\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    durable.write(pathlib.Path(sys.argv[1]), b'%d ' % n * 2000)\n"
        "    print(n, flush=True)\n"
    )
    for lines in (1, 5, 23):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child.stdout:
            for _ in range(lines):
                acknowledged = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            child.wait(60)
        numbers = set(path.read_bytes().split())
        assert len(numbers) == 1 and int(numbers.pop()) >= acknowledged


def test_set_aside_numbers_what_it_keeps(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert durable.set_aside(path, "old") is None
    for number in (1, 2):
        path.write_text(str(number))
        assert durable.set_aside(path, "old") == tmp_path / f"file.old-{number}"
    assert (tmp_path / "file.old-1").read_text() == "1"
