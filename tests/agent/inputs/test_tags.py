"""Tags: what was had from where, for as long as its file is here."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from agent.archives import Archives
from agent.inputs.tags import KEEP_S, Tag, Tags

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


def test_old_ones_are_forgotten(tmp_path: Path) -> None:
    tags = Tags(Archives(tmp_path))
    tags.remember("a", Tag("v1", DIGEST))
    (old,) = (tmp_path / "tags").iterdir()
    os.utime(old, (old.stat().st_mtime - KEEP_S - 60,) * 2)
    tags.remember("b", Tag("v1", DIGEST))
    tags.sweep()
    assert [path.name for path in (tmp_path / "tags").iterdir()] != [old.name]
    assert len(list((tmp_path / "tags").iterdir())) == 1


def test_two_executions_may_remember_one_address_at_once(tmp_path: Path) -> None:
    """Each fetches in a thread of its own."""
    tags, together = Tags(Archives(tmp_path)), Barrier(2)

    def remember(name: str) -> None:
        for number in range(200):
            together.wait(20)
            tags.remember("a", Tag(f"{name}{number}", DIGEST))

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(remember, name) for name in ("one", "two")]:
            done.result()
    assert len(list((tmp_path / "tags").iterdir())) == 1


def test_two_may_sweep_at_once(tmp_path: Path) -> None:
    tags, together = Tags(Archives(tmp_path)), Barrier(2)
    long_ago = time.time() - KEEP_S - 60

    def sweep() -> None:
        together.wait(20)
        tags.sweep()

    for _ in range(5):
        for number in range(300):
            path = tmp_path / "tags" / f"{number:064x}"
            path.write_bytes(b"{}")
            os.utime(path, (long_ago, long_ago))
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
