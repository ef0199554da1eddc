"""What a full disk costs, on real ones: a few MiB of memory are where an engine keeps its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Device, Lab
from tests.leftovers import leftovers

OUTPUT_BYTES = 3_000_000
FLOOD = f'yes "$(printf %999s x)" | head -n {OUTPUT_BYTES // 1000}; echo END'
SMALL, ROOMY = "1m", "160m"  # less than one output; a bit more than what is left to the agent


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    """The first device has little room for executions, the second for what it keeps of containers,
    the third just enough to begin with."""
    lab = Lab(3)
    for device in lab.devices:
        device.environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
    mounted = [
        mount(lab[0], "executions", SMALL),
        mount(lab[1], "containers", SMALL),
        mount(lab[2], "containers", ROOMY),
    ]
    try:
        with lab:
            yield lab
    finally:
        for place in mounted:
            subprocess.run(["umount", "-l", place], check=True)
        lab.close()


def mount(device: Device, name: str, size: str) -> Path:
    place = device.data_dir / name
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "shoal-test", str(place)]
    subprocess.run(command, check=True)
    return place


def run(lab: Lab, name: str, on: Device, *words: str) -> tuple[dict[str, Any], str]:
    """Its slot at its end, and what `job describe` says of it."""
    kind = ("docker",) if IMAGE in words else ()
    where = ("--name", name, "--constraint", f"shoal/peer={on.peer}")
    lab.until(lambda: "docker" in engines(lab, on), "docker is seen")
    started = lab.shoal(on, *kind, "run", "-d", "--retry", "1", *where, *words)
    assert started.code == 0, started
    lab.shoal(on, "job", "wait", name)
    with on.client() as client:
        (slot,) = client.job(name)["slots"]
    return slot, lab.shoal(lab[1], "job", "describe", name).out


def engines(lab: Lab, device: Device) -> list[str]:
    with lab[0].client() as client:
        return next(peer["engines"] for peer in client.peers() if peer["id"] == device.peer)


def test_output_of_a_process_that_finds_no_room_is_told_and_costs_nothing_else(lab: Lab) -> None:
    slot, described = run(lab, "full-process", lab[0], "--", "sh", "-c", FLOOD)
    assert (slot["state"], slot["exit_code"]) == ("completed", 0), slot
    (lost,) = re.findall(r"Output of 0: ([\d,]+) bytes of it found no room on the disk", described)
    logs = lab.shoal(lab[2], "logs", "full-process")
    kept = len(logs.out)
    assert kept > 100_000
    assert int(lost.replace(",", "")) == OUTPUT_BYTES + len("END\n") - kept
    assert f"of the output on d00: {lost} bytes of it found no room" in logs.err, logs.err
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_output_of_a_container_that_finds_no_room_is_told_and_its_end_is_there(
    lab: Lab, docker: DockerHost
) -> None:
    words = ("--network", "none", IMAGE, "sh", "-c", FLOOD)
    slot, described = run(lab, "full-container", lab[1], *words)
    assert (slot["state"], slot["exit_code"]) == ("completed", 0), slot
    assert "Output of 0: stdout could not be kept: the disk is full" in described
    for device in lab.devices:
        logs = lab.shoal(device, "logs", "full-container")
        assert logs.out.endswith("x\nEND\n"), "its end came with the result"
        assert "of the output on d01: stdout could not be kept: the disk is full" in logs.err
    lab.until(lambda: not leftovers(lab, docker), "nothing is left behind")


def test_results_of_a_container_that_find_no_room_are_told_and_none_is_left(
    lab: Lab, docker: DockerHost
) -> None:
    script = "head -c 60000000 /dev/zero > /outputs/big; echo made"
    words = ("-o", "/outputs", "--network", "none", IMAGE, "sh", "-c", script)
    slot, described = run(lab, "full-results", lab[2], *words)
    assert (slot["state"], slot["exit_code"], slot["archive"]) == ("completed", 0, ""), slot
    expected = "Files left out of 0: the result files could not be kept: the disk is too full"
    assert expected in described
    got = lab.shoal(lab[0], "job", "get", "full-results")
    assert "the disk is too full" in got.err, got
    lab.until(lambda: not leftovers(lab, docker), "nothing is left behind")
