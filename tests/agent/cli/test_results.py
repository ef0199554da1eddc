"""`shoal job get`: files come out as they were kept, and nothing that is there is written over."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import IO

import pytest
import trio

from agent.cli import results
from tests.agent.cli.conftest import Shoal
from tests.agent.cli.terminal import Terminal
from tests.agent.memory_agent import MemoryAgent


def archive(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as made:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "/etc/passwd"
            made.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def ended(shoal: Shoal, *words: str) -> str:
    """The id of a job that is over."""
    job = shoal("run", "-d", *words).out.strip()
    shoal("job", "wait", job)
    return job


@pytest.fixture
def job(agent: MemoryAgent, shoal: Shoal) -> str:
    return ended(shoal, "--name", "count", "--count", "2", "--", "two")


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
    done = shoal("job", "get", "count")
    target = Path(f"count-{job[:8]}")
    assert done.out.split() == [str(target / "0"), str(target / "1")]
    assert "slot 1: log: nothing is there" in done.err
    assert (target / "0" / "report" / "a").read_bytes() == b"zero"
    assert (target / "1" / "report" / "a").stat().st_size == 5000
    assert [path.name for path in sorted(target.iterdir())] == ["0", "1"], "nothing else is left"
    again = shoal("job", "get", "count")
    assert again.code == 0 and again.err.count("is there already") == 2
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
    done = shoal("job", "get", job, "-o", "there")
    assert done.code == 1 and "is not what was kept" in done.err
    assert list(Path("there").iterdir()) == []
    agent.backend.files[job, 0] = data + b"more" * 9999
    assert shoal("job", "get", job, "-o", "there").code == 1, "no more is taken than was said"
    assert list(Path("there").iterdir()) == []


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (archive(("fine", b"x"), ("../out", b"x")), "leads out of the directory"),
        (archive(("fine", b"x" * 4000), ("more", b"y" * 7000)), "too large unpacked"),
        (archive(("fine", os.urandom(9_000)))[:-4000], "Error"),
        (b"no archive", "not a gzip file"),
    ],
)
def test_of_what_cannot_be_unpacked_nothing_is_left(
    agent: MemoryAgent,
    shoal: Shoal,
    job: str,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    why: str,
) -> None:
    monkeypatch.setattr(results, "UNPACKED_BYTES_MAX", 10_000)
    leave(agent, job, 0, data)
    for _ in range(2):
        done = shoal("job", "get", job, "-o", "there", "--json")
        assert done.code == 1 and done.json["missing"] == [0]
        assert "slot 0: what came cannot be unpacked, and is thrown away: " in done.err
        assert why in done.err
        assert "by the same command" not in done.err, "it would be the same again"
        assert list(Path("there").iterdir()) == [], "hidden or not"
        assert not Path("out").exists()


def test_an_archive_that_is_too_large_is_not_begun(
    agent: MemoryAgent, shoal: Shoal, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(agent, job, 0, archive(("report/a", b"x")))
    monkeypatch.setattr(results, "ARCHIVE_BYTES_MAX", 10)
    done = shoal("job", "get", job, "-o", "there")
    assert done.code == 1 and "bytes is not fetched" in done.err
    assert "by the same command" not in done.err and not Path("there").exists()


def test_what_a_full_disk_keeps_away_is_not_fetched_twice(
    agent: MemoryAgent, shoal: Shoal, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = archive(("report/a", b"x" * 100), ("report/b", b"y" * 100))
    leave(agent, job, 0, data)
    with monkeypatch.context() as full:
        copied = 0

        def copy(source: IO[bytes], into: IO[bytes]) -> None:
            nonlocal copied
            copied += 1
            if copied > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            into.write(source.read())

        full.setattr("agent.extract.shutil.copyfileobj", copy)
        done = shoal("job", "get", job, "-o", "there")
    (part,) = Path("there").iterdir()
    assert part.suffix == ".part" and part.read_bytes() == data
    assert done.code == 1 and done.err.splitlines() == [
        "shoal: slot 0: the disk is full; make room there, or name another with -o; "
        f"{len(data)} B that have come stay in {part.absolute()}",
        "shoal: what is missing is fetched by the same command, once it can be had",
    ]
    agent.backend.files[job, 0] = b""  # there is nothing to ask for any more
    assert shoal("job", "get", job, "-o", "there").code == 0
    assert [path.name for path in Path("there").iterdir()] == ["0"]
    assert (Path("there") / "0" / "report" / "b").read_bytes() == b"y" * 100


def test_what_this_device_cannot_write_is_not_thrown_away(
    agent: MemoryAgent, shoal: Shoal, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = archive(("report/a", b"x"))
    leave(agent, job, 0, data)

    def copy(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")  # as exFAT says of a name with a colon

    with monkeypatch.context() as foreign:
        foreign.setattr("agent.extract.shutil.copyfileobj", copy)
        done = shoal("job", "get", job, "-o", "there")
    (part,) = Path("there").iterdir()
    assert done.code == 1 and done.err.splitlines()[0] == (
        "shoal: slot 0: it cannot be unpacked here: Invalid argument; name another place with -o; "
        f"{len(data)} B that have come stay in {part.absolute()}"
    )
    assert part.suffix == ".part" and part.read_bytes() == data


def test_of_a_slot_that_nobody_can_give_nothing_stays_in_the_way(
    agent: MemoryAgent, shoal: Shoal
) -> None:
    job = ended(shoal, "--name", "count", "--", "one")
    leave(agent, job, 0, archive(("report/a", b"x")))
    del agent.backend.files[job, 0]
    before = set(Path().iterdir())
    done = shoal("job", "get", job)
    assert done.code == 1 and "by the same command" in done.err
    assert set(Path().iterdir()) == before, "hidden or not"


def test_links_do_not_come_out(agent: MemoryAgent, shoal: Shoal, job: str) -> None:
    leave(agent, job, 0, archive(("report/a", b""), kind=tarfile.SYMTYPE))
    assert shoal("job", "get", job, "-o", "there").code == 0
    assert not list(Path("there").rglob("a"))


def test_one_slots_files_come_right_into_the_directory(agent: MemoryAgent, shoal: Shoal) -> None:
    job = ended(shoal, "--name", "../count/it", "--", "one")
    leave(agent, job, 0, archive(("report/a", b"x")))
    assert shoal("job", "get", job).out.strip() == f"___count_it-{job[:8]}", "a name is no path"
    assert Path(f"___count_it-{job[:8]}", "report", "a").read_bytes() == b"x"
    Path("mine").mkdir()
    assert shoal("job", "get", job, "-o", "mine").code == 0 and Path("mine", "report").is_dir()
    again = shoal("job", "get", job, "-o", "mine")
    assert again.code == 2 and "is not empty: choose another directory with -o" in again.err
    Path("file").touch()
    assert shoal("job", "get", job, "-o", "file").code == 2
    assert shoal("job", "get", job, "-o", "file/below").code == 1


def test_what_one_slot_lacks_keeps_no_other_away(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    leave(agent, job, 0, archive(("report/a", b"zero")))
    leave(agent, job, 1, archive(("report/a", b"one")))
    lost = agent.backend.files.pop((job, 0))
    done = shoal("job", "get", job, "-o", "there", "--json")
    assert done.code == 1 and done.json["missing"] == [0]
    assert "slot 0: slot 0 has left no result files" in done.err
    agent.backend.files[job, 0] = lost
    assert shoal("job", "get", job, "-o", "there").code == 0
    assert Path("there", "0", "report", "a").read_bytes() == b"zero"


def test_devices_of_one_name_have_directories_of_their_own(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    view = agent.backend.views[job]
    view["type"] = "ops"
    for slot, peer in ((0, "12D3KooWaaaaaaaa"), (1, "12D3KooWbbbbbbbb")):
        leave(agent, job, slot, archive(("report/a", peer.encode())))
        view["slots"][slot] |= {"executor": peer, "executor_name": "rasp/pi"}
    assert shoal("job", "get", job, "-o", "there").code == 0
    found = {path.name for path in Path("there").iterdir()}
    assert found == {"rasp_pi", "rasp_pi-bbbbbbbb"}


def test_a_view_that_lacks_slots_is_no_success(agent: MemoryAgent, shoal: Shoal, job: str) -> None:
    leave(agent, job, 0, archive(("a", b"x")))
    agent.backend.views[job]["slots_left_out"] = 7
    done = shoal("job", "get", job, "-o", "there")
    assert done.code == 1 and "ask the one that coordinates it" in done.err


def test_where_there_is_nothing_to_fetch_it_says_why(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    agent.backend.views[job]["state"] = "running"
    assert "has not ended: `shoal job wait`" in shoal("job", "get", job).err
    agent.backend.views[job]["state"] = "completed"
    assert "has left no files" in shoal("job", "get", job).err
    done = shoal("job", "get", job, "--slot", "9")
    assert done.code == 2 and "no slot of count is that one" in done.err
    leave(agent, job, 0, archive(("a", b"x")))
    del agent.backend.files[job, 0]
    done = shoal("job", "get", job, "-o", "there")
    assert done.code == 1 and "has left no result files" in done.err
    assert "Files kept" in shoal("job", "describe", job).out


def test_a_job_whose_files_are_gone_says_so_where_it_is_described(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    leave(agent, job, 0, archive(("report/a", b"zero")))
    leave(agent, job, 1, archive(("report/a", b"one")))
    size = len(agent.backend.files[job, 1])
    agent.backend.gone[job, 0] = "no longer there: kept for a week"
    out = shoal("job", "describe", job).out
    assert "Files of 0 on pi-attic: no longer there: kept for a week" in out
    assert f"Files kept: {size} B" in out, "what is counted is what can be fetched"
    slots = shoal("job", "describe", job, "--json").json["slots"]
    assert [slot.get("archive_missing") for slot in slots] == [agent.backend.gone[job, 0], None]
    agent.backend.gone[job, 1] = "no longer there"
    assert "Files kept" not in shoal("job", "describe", job).out


def test_a_terminal_shows_how_far_it_is(agent: MemoryAgent, shoal: Shoal, job: str) -> None:
    data = archive(("report/a", os.urandom(50_000)))
    leave(agent, job, 1, data)
    agent.backend.flowing = trio.Event()
    total = f"/{len(data) / 1000:.1f} kB".encode()
    with Terminal("job", "get", job, "-o", "there") as terminal:
        terminal.until(b"slot 1 ")
        terminal.until(b"1.0" + total)
        agent.call(agent.backend.flowing.set)
        assert terminal.wait() == 0
        shown = terminal.rest()
    assert shown.count(b"slot 1 ") >= 1 and b"\xe2\x94\x81" in shown, "a bar"
    assert shown.rstrip().endswith(b"there/1"), "which goes when all has come"
    assert Path("there", "1", "report", "a").stat().st_size == 50_000


def test_what_is_no_terminal_shows_no_bar(agent: MemoryAgent, shoal: Shoal, job: str) -> None:
    leave(agent, job, 1, archive(("report/a", b"x" * 5000)))
    done = shoal("job", "get", job, "-o", "there")
    assert (done.code, done.out, done.err) == (0, "there/1\n", "")


def test_the_files_of_one_device_are_asked_for_by_its_name_or_id(
    agent: MemoryAgent, shoal: Shoal, job: str
) -> None:
    view = agent.backend.views[job]
    for slot, peer in ((0, "12D3KooWaaaaaaaa"), (1, "12D3KooWbbbbbbbb")):
        leave(agent, job, slot, archive(("report/a", peer.encode())))
        view["slots"][slot] |= {"executor": peer, "executor_name": f"pi-{slot}"}
    for number, wanted in enumerate(("pi-1", "12D3KooWbbbbbbbb", "bbbbbbbb")):
        done = shoal("job", "get", job, "--peer", wanted, "-o", f"to{number}", "--json")
        assert [each["slot"] for each in done.json["results"]] == [1]
        assert [path.name for path in Path(f"to{number}").iterdir()] == ["1"]
    done = shoal("job", "get", job, "--peer", "pi-9", "-o", "none")
    assert done.code == 2 and not Path("none").exists()


def test_where_else_results_are_is_said(agent: MemoryAgent, shoal: Shoal, job: str) -> None:
    leave(agent, job, 0, archive(("report/a", b"zero")))
    agent.backend.views[job]["slots"][0]["published"] = "s3://results/count/0.tar.gz"
    done = shoal("job", "get", "count")
    assert "slot 0 is published at s3://results/count/0.tar.gz" in done.err
    assert "Published of 0: s3://results/count/0.tar.gz" in shoal("job", "describe", job).out
