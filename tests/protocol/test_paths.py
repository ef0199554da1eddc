"""Paths: one way to write each, and no way out."""

from __future__ import annotations

import pytest

from protocol.errors import JobSpecError
from protocol.paths import read_path
from protocol.tree import Node


@pytest.mark.parametrize(
    ("written", "read"),
    [("out", "out"), ("./out//a/", "out/a"), ("/data/./x", "/data/x"), (" a b ", "a b")],
)
def test_one_path_is_written_in_one_way(written: str, read: str) -> None:
    assert read_path(Node(written)) == read
    assert read_path(Node(read)) == read


@pytest.mark.parametrize(
    "written", ["", "/", ".", "..", "a/../b", "/..", "a\tb", "a\0", "x" * 1025]
)
def test_what_leads_out_or_nowhere_is_refused(written: str) -> None:
    with pytest.raises(JobSpecError):
        read_path(Node(written))
