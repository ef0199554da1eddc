"""Programs that a test starts, and that it does not leave behind where it breaks off."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def started(words: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A program that is waited for at the end, with Popen's options. Where the test fails or its
    time is over, it is ended first: who waits for one that goes on tells of no failure."""
    with subprocess.Popen(words, **options) as program:
        try:
            yield program
        except BaseException:
            program.kill()
            raise
