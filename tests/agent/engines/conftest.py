"""A tree of control groups that tests have to themselves."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A real tree of version 2; beside one of version 1 it has no controllers."""
    where = tmp_path / "unified"
    where.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", where], check=True)
    base = where / f"shoal-test-{os.getpid()}"
    base.mkdir()
    yield base
    for group in (*base.iterdir(), base):
        if group.is_dir():
            group.rmdir()
    subprocess.run(["umount", where], check=True)
