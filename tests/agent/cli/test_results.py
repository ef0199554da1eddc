"""`shoal job get`: files come out as they were kept, and nothing that is there is written over."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from tests.agent.cli.conftest import Shoal
from tests.agent.memory_agent import MemoryAgent


def archive(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as made:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "/etc/passwd"
            made.addfile(info, io.BytesIO(data))
    return raw.getvalue()


@pytest.fixture
def job(agent: MemoryAgent, shoal: Shoal) -> str:
    return shoal("run", "-d", "--name", "count", "--count", "2", "--", "two").out.strip()


def leave(agent: MemoryAgent, job: str, slot: int, data: bytes, note: str = "") -> None:
    """A slot's files, and what its view says of them."""
    digest = hashlib.sha256(data).hexdigest() if data else ""
    told = {"archive": digest, "archive_bytes": len(data), "archive_note": note}
    agent.backend.views[job]["slots"][slot] |= told
    agent.backend.files[job, slot] = data


def test_each_slots_files_come_into_a_directory_of_their_own(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    leave(agent, job, 0, archive(("report/a", b"zero")))
    leave(agent, job, 1, archive(("report/a", b"x" * 5000)), "log: nothing is there")
    ended = shoal("job", "get", "count")
    target = Path(f"count-{job[:8]}")
    assert ended.out.split() == [str(target / "0"), str(target / "1")]
    assert "slot 1: log: nothing is there" in ended.err
    assert (target / "0" / "report" / "a").read_bytes() == b"zero"
    assert (target / "1" / "report" / "a").stat().st_size == 5000
    assert [path.name for path in sorted(target.iterdir())] == ["0", "1"], "nothing else is left"
    again = shoal("job", "get", "count")
    assert again.code == 2 and "is not empty: choose another directory with -o" in again.err
    one = shoal("job", "get", "count", "--slot", "1", "-o", "one", "--json").json
    assert [each["slot"] for each in one["results"]] == [1]


def test_what_was_broken_off_goes_on_where_it_was(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    data = archive(("report/a", bytes(range(256)) * 40))
    leave(agent, job, 0, data)
    target = Path("there")
    target.mkdir()
    digest = hashlib.sha256(data).hexdigest()
    (target / f".{digest[:16]}.part").write_bytes(data[:77])
    agent.backend.files[job, 0] = b"?" * 77 + data[77:]  # what is had already is not asked for
    assert shoal("job", "get", job, "-o", "there").code == 0
    assert (target / "0" / "report" / "a").stat().st_size == 256 * 40


def test_what_is_not_what_was_kept_is_thrown_away(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    data = archive(("report/a", b"x"))
    leave(agent, job, 0, data)
    agent.backend.files[job, 0] = data[:-1] + b"?"
    ended = shoal("job", "get", job, "-o", "there")
    assert ended.code == 1 and "is not what was kept" in ended.err
    assert list(Path("there").iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "/abs/out"])
def test_nothing_comes_out_beside_the_directory(
    agent: MemoryAgent, shoal: Shoal, job: str, name: str
) -> None:
    leave(agent, job, 0, archive((name, b"x")))
    shoal("job", "get", job, "-o", "there")
    assert not Path("out").exists() and not Path("/abs").exists()


def test_links_do_not_come_out(agent: MemoryAgent, shoal: Shoal, job: str) -> None:
    leave(agent, job, 0, archive(("report/a", b""), kind=tarfile.SYMTYPE))
    assert shoal("job", "get", job, "-o", "there").code == 0
    assert not list(Path("there").rglob("a"))


def test_where_there_is_nothing_to_fetch_it_says_why(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    agent.backend.views[job]["state"] = "running"
    assert "has not ended: `shoal job wait`" in shoal("job", "get", job).err
    agent.backend.views[job]["state"] = "completed"
    assert "has left no files" in shoal("job", "get", job).err
    ended = shoal("job", "get", job, "--slot", "9")
    assert ended.code == 2 and "no slot of count is that one" in ended.err
    leave(agent, job, 0, archive(("a", b"x")))
    del agent.backend.files[job, 0]
    ended = shoal("job", "get", job, "-o", "there")
    assert ended.code != 0 and "has left no result files" in ended.err
    assert "Files kept" in shoal("job", "describe", job).out
