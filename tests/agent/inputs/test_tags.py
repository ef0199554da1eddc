"""Tags: what was had from where, for as long as its file is here."""

from __future__ import annotations

import os
from pathlib import Path

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
