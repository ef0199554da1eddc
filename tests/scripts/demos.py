"""A demo, run to its end as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

from tests.lab import ROOT

DEMO_S: Final = 240.0  # each takes 30 s on two cores that have nothing else to do


def played(script: str) -> str:
    """What it prints; it has to succeed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    done = subprocess.run(
        [sys.executable, f"scripts/{script}"],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=DEMO_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
