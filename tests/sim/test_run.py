"""Whole runs: no promise is broken, and the same seed is the same run."""

import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.sim.faults import Faults
from protocol.sim.invariants import Violation
from protocol.sim.network import Conditions
from protocol.sim.run import Options, run

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("seed", range(24))
def test_twelve_peers_keep_every_promise(seed: int) -> None:
    outcome = run(seed, Options())
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize(("seed", "peers"), [(1, 2), (2, 3), (3, 3), (4, 5), (5, 30), (6, 50)])
def test_small_and_large_shoals_keep_them_too(seed: int, peers: int) -> None:
    outcome = run(seed, Options(peers=peers))
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize(
    ("seed", "peers", "jobs"),
    [
        (1, 12, 8),  # a holder unknown to the other copies: the node woke itself for ever
        (52, 12, 8),  # a key called again at another peer: its standbys never answered with theirs
        (58, 12, 8),  # a slot stopped before its first award: nobody could read its acceptance
        (59, 12, 8),  # two disjoint sets of holders of one job never met
        (1111, 12, 8),  # a stop by somebody who may not, at the coordinator: the node raised
        (5068, 4, 10),  # a result for an ended job whose coordinator died found nobody
        (134, 12, 8),  # the same, and the copies of another job differed
        (190, 12, 8),  # the same, after a one-way cut
        (722, 12, 8),  # the coordinator died before it had told all holders, and nobody else did
    ],
)
def test_what_was_found_once_stays_found(seed: int, peers: int, jobs: int) -> None:
    outcome = run(seed, Options(peers=peers, jobs=jobs))
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize("seed", range(6))
def test_a_clean_run_starts_each_slot_once(seed: int) -> None:
    outcome = run(seed, Options(faults=Faults()))
    assert outcome.faults == "clean"
    assert outcome.jobs > 0
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize("seed", range(4))
def test_everything_at_once(seed: int) -> None:
    faults = Faults(
        conditions=Conditions(loss=0.05, duplicate=0.05, reorder=0.1, garble=0.02),
        crashes=4,
        power_cuts=2,
        freezes=2,
        partitions=2,
        deaf=1,
        slow=1,
        skew_s=30.0,
        drift=0.01,
        save_failures=0.01,
        start_failures=0.1,
        rogues=2,
    )
    outcome = run(seed, Options(faults=faults))
    assert [str(violation) for violation in outcome.violations] == []


@pytest.mark.parametrize("seed", range(8))
def test_devices_that_drain_and_change_their_labels_break_no_promise(seed: int) -> None:
    """Where nobody is lost, each slot still starts once: what runs there ends there."""
    outcome = run(seed, Options(faults=Faults(moods=12)))
    assert [str(violation) for violation in outcome.violations] == []
    outcome = run(seed, Options(faults=Faults(moods=12, crashes=4, power_cuts=2, partitions=1)))
    assert [str(violation) for violation in outcome.violations] == []


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
