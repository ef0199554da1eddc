"""A run: the same seed is the same run, and its command says what it found."""

import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.sim.invariants import Violation
from protocol.sim.run import Options, run
from protocol.sim.scenarios import SCENARIOS

ROOT = Path(__file__).parent.parent.parent


def test_a_run_is_a_function_of_its_seed() -> None:
    lines: list[str] = []
    first, again = run(7, Options(peers=5)), run(7, Options(peers=5), lines.append)
    assert first == again
    assert len(lines) > 1000
    assert run(8, Options(peers=5)).digest != first.digest


def test_hash_randomisation_changes_nothing() -> None:
    digests = [_digest(hashseed) for hashseed in ("0", "1", "4711")]
    assert len(set(digests)) == 1


def _digest(hashseed: str) -> str:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "simulate.py"),
        "--seeds",
        "3",
        "--peers",
        "8",
    ]
    environment = {**os.environ, "PYTHONHASHSEED": hashseed}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert "violations 0" in done.stdout
    return done.stdout.splitlines()[-1]


def test_a_violation_is_printed_with_its_seed_and_fails_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "simulate.py"))
    report, plan = script["report"], script["Plan"](3, 1, 1, 1, "mixed")
    outcome = plan(3)
    assert report([outcome], plan, 1.0) == 0
    broken = replace(outcome, violations=(Violation(3, 3, 1.5, 2, "it broke"),))
    assert report([broken], plan, 1.0) == 1
    other = replace(outcome, scenario="noise")
    assert report([broken, other], plan, 1.0) == 1
    printed = capsys.readouterr().out
    assert "seed 3 peers 3 t=1.5000 node 2: it broke" in printed
    assert "violations 1" in printed
    assert re.search(r"^mixed +1 .* 1$", printed, re.MULTILINE)
    assert re.search(r"^all +2 .* 1$", printed, re.MULTILINE)


def test_help_names_every_scenario() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "simulate.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert all(name in done.stdout for name in SCENARIOS)


def test_a_soak_goes_on_for_its_time_and_says_how_to_replay() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "simulate.py"), "--soak", "1s"]
    command += ["--peers", "3", "--jobs", "1", "--scenario", "clean"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "violations 0" in done.stdout
    wrong = subprocess.run(
        [*command[:2], "--soak", "soon"], capture_output=True, text=True, timeout=120, check=False
    )
    assert wrong.returncode == 2
    assert "'soon' is no duration: write 90s, 15m or 1h" in wrong.stderr
