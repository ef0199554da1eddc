"""scripts/demo --mqtt, as a person sees it: real agents, and a broker that is killed."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.lab import ROOT

DEMO_S = 240.0  # it takes 30 s on two cores that have nothing else to do


def test_the_broker_is_killed_and_every_warm_reading_has_its_alarm() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    done = subprocess.run(
        [sys.executable, "scripts/demo_mqtt.py"],
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
    assert "the broker is killed" in done.stdout
    assert "12 readings, 6 of them warm: 6 jobs on kitchen, attic, garage" in done.stdout
