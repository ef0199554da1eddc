"""Results of a gigabyte do not pass through memory: not where they are packed, nor at the device
that they are fetched through, nor in the command line that unpacks them."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.dockerhost import IMAGE, DockerHost
from tests.lab import SHOAL, Device, Lab, command_at, environment_of
from tests.leftovers import leftovers

RESULT_BYTES = 10**9
RANDOM_BYTES = (
    RESULT_BYTES // 2
)  # which does not shrink: to pack and unpack it takes most of a test
GROWN_BYTES_MAX = 150 << 20  # some chunks, threads with their arenas, and docker's SDK of 17 MB
WAIT_S = 300.0
ZEROES = RESULT_BYTES - RANDOM_BYTES
MADE = f"head -c {RANDOM_BYTES} /dev/urandom; head -c {ZEROES} /dev/zero"
FILL = f"({MADE}) | tee {{}}/big | sha256sum"  # its digest comes out, to compare with

# Runs `shoal`, and says at its end how much memory it had at most.
PROGRAM = """
import sys
from agent.cli.entry import main
code = main(sys.argv[1:])
print(open("/proc/self/status").read(), file=sys.stderr)
raise SystemExit(code)
"""


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    lab = Lab(2)
    for device in lab.devices:
        device.environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
    with lab:
        yield lab


def most(status: str) -> int:
    """The peak of what was in memory (VmHWM, proc(5)), in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, status
    return int(found[1]) << 10


def peaks(lab: Lab) -> list[int]:
    return [most(Path(f"/proc/{device.pid}/status").read_text()) for device in lab.devices]


def begin(lab: Lab) -> list[int]:
    """From now on: 5 sets the peak to what is in memory just now (proc(5), clear_refs)."""
    for device in lab.devices:
        Path(f"/proc/{device.pid}/clear_refs").write_text("5")
    return peaks(lab)


def measured(device: Device, *words: str) -> int:
    """The peak of one command's memory."""
    command = command_at(device)
    own = [device.python, "-c", PROGRAM, *command[1 + len(SHOAL) :], *words]
    done = subprocess.run(
        own,
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        env=environment_of(device),
    )
    assert done.returncode == 0, done
    return most(done.stderr)


def check(lab: Lab, name: str, tmp_path: Path, run: Sequence[str], what: Sequence[str]) -> None:
    """`run`: the command and its options; `what`: what it is to run."""
    before = begin(lab)
    where = ("--constraint", f"shoal/peer={lab[0].peer}", "--cpu", "1")
    started = lab.shoal(lab[0], *run, "-d", "--name", name, *where, *what)
    assert started.code == 0, started
    with lab[1].client() as client:
        over = ("completed", "failed")
        lab.until(lambda: client.job(name)["state"] in over, "it ended", WAIT_S)
        (slot,) = client.job(name)["slots"]
    assert slot["state"] == "completed" and slot["archive_bytes"] >= RANDOM_BYTES, slot
    packed = peaks(lab)
    got = measured(lab[1], "job", "get", name, "-o", str(tmp_path / "got"))
    nothing = measured(lab[1], "peers")
    (big,) = tmp_path.rglob("big")
    assert big.stat().st_size == RESULT_BYTES
    with big.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == slot["stdout_tail"].split()[0]
    shutil.rmtree(tmp_path / "got")
    assert packed[0] - before[0] < GROWN_BYTES_MAX, "where it was packed"
    for had, has in zip(before, peaks(lab), strict=True):
        assert has - had < GROWN_BYTES_MAX, "where it was read and fetched"
    assert got - nothing < GROWN_BYTES_MAX, "the command line"


def test_a_gigabyte_that_a_program_left_passes_through_nobodys_memory(
    lab: Lab, tmp_path: Path
) -> None:
    what = ("--", "sh", "-c", f"mkdir out; {FILL.format('out')}")
    check(lab, "large-process", tmp_path, ("run", "-o", "out"), what)
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_a_gigabyte_that_a_container_left_passes_through_nobodys_memory(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    run = ("docker", "run", "--network", "none", "-o", "/outputs")
    what = (IMAGE, "sh", "-c", FILL.format("/outputs"))
    check(lab, "large-container", tmp_path, run, what)
    lab.until(lambda: not leftovers(lab, docker), "nothing is left behind")
