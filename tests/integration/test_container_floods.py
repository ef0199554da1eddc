"""A container that writes as fast as it can: what that costs docker's disk and the agent's memory
while it does, and who reads it slowly."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from agent.engines.container import LOG_FILES
from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Device, Lab, command_at, environment_of
from tests.leftovers import leftovers

PIECE_BYTES = 4_000_000  # in lines of 4,000 characters
PIECES = 600  # which takes docker a while
FLOOD = (
    f"head -c {PIECE_BYTES // 4 * 3} /dev/urandom | base64 -w 3999 > /tmp/piece; "
    f"i=0; while [ $i -lt {PIECES} ]; do cat /tmp/piece; i=$((i + 1)); done; echo THE END"
)
KEPT_BYTES = 8 << 20  # task.log_bytes_max of each stream, if left out
FILE_BYTES = KEPT_BYTES // (LOG_FILES - 1)
# Docker has these files, keeps two for a follower that it has overtaken, and for one who reads all
# those that there were as he began.
DISK_BYTES_MAX = (LOG_FILES + 2 + LOG_FILES) * FILE_BYTES
GROWN_BYTES_MAX = 48 << 20  # docker's SDK of 17 MB, and threads with their arenas
ENDS_S = 300.0


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    lab = Lab(2)
    lab[0].environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
    with lab:
        lab.until(lambda: '"docker"' in lab.shoal(lab[1], "peers", "--json").out, "docker is seen")
        yield lab


def test_a_flood_is_bounded_on_dockers_disk_and_in_memory_while_it_lasts(
    lab: Lab, docker: DockerHost
) -> None:
    before = [peak(device, anew=True) for device in lab.devices]
    words = ("-d", "--name", "flood", "--cpu", "1", "--network", "none", IMAGE, "sh", "-c", FLOOD)
    started = lab.shoal(lab[1], "docker", "run", *words)
    assert started.code == 0, started
    sizes = []
    with lab[1].client() as client, follower_that_stands_still(lab[1]):

        def ended() -> bool:
            sizes.append(log_bytes(docker))
            return client.job("flood")["state"] in ("completed", "failed")

        lab.until(ended, "it ended", ENDS_S)
        (slot,) = client.job("flood")["slots"]
    assert (slot["state"], slot["exit_code"]) == ("completed", 0), slot
    assert slot["stdout_tail"].endswith("\nTHE END\n")
    assert KEPT_BYTES < max(sizes) < DISK_BYTES_MAX, sizes
    for device, had in zip(lab.devices, before, strict=True):
        assert peak(device) - had < GROWN_BYTES_MAX, device.name
    lab.until(lambda: not leftovers(lab, docker), "nothing is left")
    assert log_files(docker) == []
    kept = sum(path.stat().st_size for path in lab[0].data_dir.glob("containers/*/log.*"))
    assert KEPT_BYTES - FILE_BYTES < kept < DISK_BYTES_MAX
    read = lab.shoal(lab[1], "logs", "flood")
    assert read.out.endswith("\nTHE END\n") and len(read.out) > KEPT_BYTES - FILE_BYTES
    assert "what came before its last" in read.err


def log_bytes(docker: DockerHost) -> int:
    """What docker has on disk of output: in files that have a name, and in those that it has open.
    One that gets another name meanwhile counts once."""
    assert docker.process is not None
    sizes = {}
    for path in (*log_files(docker), *Path(f"/proc/{docker.process.pid}/fd").iterdir()):
        with suppress(FileNotFoundError):
            if "/local-logs/" in os.path.realpath(path):
                found = path.stat()
                sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


def log_files(docker: DockerHost) -> list[Path]:
    return list((docker.root / "data/containers").glob("*/local-logs/*"))


def peak(device: Device, anew: bool = False) -> int:
    """Its most memory (VmHWM, proc(5)), from now on where `anew`; in bytes."""
    if anew:
        Path(f"/proc/{device.pid}/clear_refs").write_text("5")
    status = Path(f"/proc/{device.pid}/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


@contextmanager
def follower_that_stands_still(device: Device) -> Iterator[None]:
    """It has read something, and then never again."""
    command = [*command_at(device), "logs", "-f", "flood"]
    with subprocess.Popen(
        command, env=environment_of(device), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.read(1000)
        reader.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            reader.kill()
            reader.stdout.close()
