"""Result files on their way from the device that has them: it goes away, and comes back."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import Lab, command_at, environment_of, process_job
from tests.programs import started

SIZE_BYTES = 64 << 20  # more than what is under way between two agents
HELD_BYTES = 4 << 20
SOON_S = 60.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(2) as lab:
        yield lab


@pytest.fixture(scope="module")
def digest(lab: Lab) -> str:
    """Of a large file, which the second device has kept of the job `large`."""
    words = f"mkdir out; head -c {SIZE_BYTES} /dev/urandom | tee out/file | sha256sum"
    where = [{"Key": "shoal/peer", "Operator": "=", "Values": [lab[1].peer]}]
    paths = {"ResultPaths": [{"Name": "out", "Path": "out"}]}
    spec = process_job("sh", "-c", words, name="large", Constraints=where, Task=paths)
    file = lab.directory / "large.json"
    file.write_text(json.dumps(spec))
    done = lab.shoal(lab[0], "job", "run", str(file), "--follow", "-q")
    assert done.code == 0, done
    return done.out.split()[0]


@contextmanager
def held_midway(lab: Lab, target: Path) -> Iterator[subprocess.Popen[str]]:
    """`shoal job get` at the first device, which stands still with a part of the file here."""
    words = [*command_at(lab[0]), "job", "get", "large", "-o", str(target)]
    with started(words, env=environment_of(lab[0]), stderr=subprocess.PIPE, text=True) as getting:
        try:
            lab.until(lambda: part_bytes(target) > 0 or getting.poll(), "it comes", SOON_S)
            getting.send_signal(signal.SIGSTOP)
            assert getting.poll() is None
            assert 0 < part_bytes(target) < SIZE_BYTES - HELD_BYTES
            yield getting
        finally:
            getting.send_signal(signal.SIGCONT)
            getting.wait(SOON_S)


def parts(target: Path) -> list[Path]:
    return list(target.parent.glob(".*.part"))


def part_bytes(target: Path) -> int:
    return sum(path.stat().st_size for path in parts(target))


def lost_midway(lab: Lab, target: Path) -> None:
    """The device that has it dies as it is fetched; who fetched it is told, and keeps his part."""
    with held_midway(lab, target) as getting:
        lab.kill(lab[1])
        getting.send_signal(signal.SIGCONT)
        _, said = getting.communicate(timeout=SOON_S)
    assert getting.returncode == 1, said
    assert "slot 0: the peer that ran it cannot be reached" in said
    assert "fetched by the same command, once it can be had" in said
    assert not target.exists()
    assert 0 < part_bytes(target) < SIZE_BYTES


def test_what_was_fetched_of_a_device_that_is_lost_is_gone_on_from(
    lab: Lab, digest: str, tmp_path: Path
) -> None:
    target = tmp_path / "got"
    lost_midway(lab, target)
    had = part_bytes(target)
    away = lab.shoal(lab[0], "job", "get", "large", "-o", str(target))
    assert away.code == 1 and "cannot be reached" in away.err, away
    assert part_bytes(target) == had, "what is here stays"
    lab.start(lab[1])
    got = lab.shoal(lab[0], "job", "get", "large", "-o", str(target))
    assert got.code == 0, got
    assert hashlib.sha256((target / "out/file").read_bytes()).hexdigest() == digest
    assert os.listdir(tmp_path) == ["got"], "no piece is left"


def test_a_part_that_is_not_what_was_kept_is_found_out_and_fetched_anew(
    lab: Lab, digest: str, tmp_path: Path
) -> None:
    target = tmp_path / "got"
    lost_midway(lab, target)
    (part,) = parts(target)
    with part.open("r+b") as file:  # as a card that fails does
        file.write(bytes(1024))
    lab.start(lab[1])
    spoilt = lab.shoal(lab[0], "job", "get", "large", "-o", str(target))
    assert spoilt.code == 1, spoilt
    assert "what came is not what was kept; it is thrown away" in spoilt.err
    assert not parts(target) and not target.exists()
    got = lab.shoal(lab[0], "job", "get", "large", "-o", str(target))
    assert got.code == 0, got
    assert hashlib.sha256((target / "out/file").read_bytes()).hexdigest() == digest
