"""Tags: what was had from where, for as long as its file is here."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Barrier

import pytest

from agent.archives import Archives
from agent.inputs.tags import Tag, Tags

DIGEST = "ab" * 32


def test_a_tag_is_known_while_its_file_is_here(tmp_path: Path) -> None:
    store = Archives(tmp_path)
    store.path(DIGEST).write_bytes(b"x")
    Tags(store).remember("http://a/b", Tag("v1", DIGEST))
    assert Tags(store).of("http://a/b") == Tag("v1", DIGEST)
    assert Tags(store).of("http://a/c") is None
    store.path(DIGEST).unlink()
    assert Tags(store).of("http://a/b") is None


def test_one_that_a_power_cut_left_half_is_none(tmp_path: Path) -> None:
    tags = Tags(Archives(tmp_path))
    tags.remember("a", Tag("v1", DIGEST))
    (path,) = (tmp_path / "tags").iterdir()
    for half in (b"", b"\0\0", b'{"etag":"v1","digest":"../x"}'):
        path.write_bytes(half)
        assert tags.of("a") is None


def keep(tmp_path: Path, used: float, *names: str) -> list[str]:
    """Files of the store, each used a second after the one before; their digests."""
    digests = [sha256(name.encode()).hexdigest() for name in names]
    for number, digest in enumerate(digests):
        (tmp_path / digest).write_bytes(b"x")
        os.utime(tmp_path / digest, (used + number, used + number))
    return digests


def test_those_whose_file_is_gone_are_forgotten(tmp_path: Path) -> None:
    tags = Tags(Archives(tmp_path))
    here, gone = keep(tmp_path, time.time(), "here", "gone")
    for name, digest in (("a", here), ("b", gone), ("c", here)):
        tags.remember(name, Tag("v1", digest))
    (tmp_path / "tags" / "0123").write_bytes(b"half")
    (tmp_path / gone).unlink()
    tags.sweep()
    assert [tags.of(name) for name in "abc"] == [Tag("v1", here), None, Tag("v1", here)]
    assert len(list((tmp_path / "tags").iterdir())) == 2


def test_of_more_than_a_device_bears_those_stay_whose_files_were_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.inputs.tags.TAGS_MAX", 2)
    tags = Tags(Archives(tmp_path))
    digests = keep(tmp_path, time.time() - 60, "one", "two", "three")
    for digest in digests:
        tags.remember(digest, Tag("v1", digest))
    os.utime(tmp_path / digests[0])
    tags.sweep()
    assert [tags.of(digest) is not None for digest in digests] == [True, False, True]


def test_all_are_looked_at_once_an_hour_or_after_as_many_as_a_source_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags, now = Tags(Archives(tmp_path)), [1000.0]
    monkeypatch.setattr("agent.inputs.tags.monotonic", lambda: now[0])
    monkeypatch.setattr("agent.inputs.tags.NEW_MAX", 3)
    steps = ((0.0, 1, 0), (5.0, 1, 1), (3594.0, 1, 2), (2.0, 0, 0), (5.0, 2, 2), (5.0, 1, 0))
    for later_s, number, left in steps:  # tags of a file that is not here
        now[0] += later_s
        for each in range(number):
            tags.remember(f"{now[0]} {each}", Tag("v1", DIGEST))
        tags.sweep_if_due()
        assert len(list((tmp_path / "tags").iterdir())) == left, now


def test_two_executions_may_remember_one_address_at_once(tmp_path: Path) -> None:
    """Each fetches in a thread of its own."""
    tags, together = Tags(Archives(tmp_path)), Barrier(2)

    def remember(name: str) -> None:
        for number in range(200):
            together.wait(60)
            tags.remember("a", Tag(f"{name}{number}", DIGEST))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(remember, name) for name in ("one", "two")]:
            done.result()
    assert len(list((tmp_path / "tags").iterdir())) == 1


def test_two_may_sweep_at_once(tmp_path: Path) -> None:
    tags, together = Tags(Archives(tmp_path)), Barrier(2)

    def sweep() -> None:
        together.wait(60)
        tags.sweep()

    for _ in range(5):
        for number in range(300):
            (tmp_path / "tags" / f"{number:064x}").write_bytes(b"{}")
        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(sweep) for _ in range(2)]:
                done.result()
        assert not list((tmp_path / "tags").iterdir())


def test_what_a_crash_left_half_written_goes(tmp_path: Path) -> None:
    tags = Tags(Archives(tmp_path))
    tags.remember("a", Tag("v1", DIGEST))
    (tmp_path / "tags" / "0123.new").write_bytes(b"half")
    Tags(Archives(tmp_path))
    assert [path.suffix for path in (tmp_path / "tags").iterdir()] == [""]
