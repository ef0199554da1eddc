"""What the agent had stored, as the kernel counts it, and what others had is not in it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.writes import process_bytes

SIZE = 4 << 20
WRITE = "import os, sys; file = open(sys.argv[1], 'wb'); file.write(bytes({})); os.fsync(file)"


def write_self(path: Path) -> None:
    with path.open("wb") as file:
        file.write(bytes(SIZE))
        os.fsync(file)


def write_as_a_child(path: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITE.format(SIZE), path], check=True, timeout=60)


@pytest.mark.parametrize(
    ("write", "least", "below"), [(write_self, SIZE, 2 * SIZE), (write_as_a_child, 0, SIZE)]
)
def test_what_this_process_stores_is_counted_and_its_childrens_not(
    write: Callable[[Path], None], least: int, below: int
) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:  # never in memory alone
        before = process_bytes()
        assert before is not None
        write(Path(directory) / "file")
        after = process_bytes()
    assert after is not None and least <= after - before < below


def test_a_kernel_that_does_not_count_says_nothing(tmp_path: Path) -> None:
    assert process_bytes(tmp_path / "io") is None
