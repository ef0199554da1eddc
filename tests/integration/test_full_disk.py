"""What a full disk costs, on real ones: a few MiB of memory are where an engine keeps its own."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.agent.inputs.test_downloads import Handler, Server
from tests.dockerhost import IMAGE, DockerHost
from tests.lab import Device, Lab
from tests.leftovers import leftovers

OUTPUT_BYTES = 3_000_000
LARGE_BYTES = 60_000_000
SOME_BYTES = 20_000_000  # once there is room for it, and not twice
FLOOD = f'yes "$(printf %999s x)" | head -n {OUTPUT_BYTES // 1000}; echo END'
Ended = tuple[dict[str, Any], str]
SMALL, ROOMY = "1m", "160m"  # less than one output; a bit more than what is left to the agent


@pytest.fixture(scope="module")
def lab(docker: DockerHost) -> Iterator[Lab]:
    """The first device has little room for executions, the second for what it keeps of containers
    and for shipped files, the third just enough to begin with, as for downloads and results."""
    lab = Lab(3)
    for device in lab.devices:
        device.environment["SHOAL_DOCKER_SOCKET"] = str(docker.socket)
    with ExitStack() as stack:
        stack.callback(lab.close)
        for device, name, size in (
            (lab[0], "executions", SMALL),
            (lab[1], "containers", SMALL),
            (lab[1], "archives", SMALL),
            *((lab[2], name, ROOMY) for name in ("containers", "downloads", "results")),
        ):
            place = mount(device, name, size)
            stack.callback(subprocess.run, ["umount", "-l", place], check=True)
        with lab:
            yield lab


def mount(device: Device, name: str, size: str) -> Path:
    place = device.data_dir / name
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0711", "shoal-test", str(place)]
    subprocess.run(command, check=True)
    return place


def run(lab: Lab, name: str, on: Device, *words: str, at: Device | None = None) -> Ended:
    """Its slot at its end, and what `job describe` says of it; submitted there too, unless it is
    `at` another device."""
    kind = ("docker",) if IMAGE in words else ()
    where = ("--name", name, "--constraint", f"shoal/peer={on.peer}")
    lab.until(lambda: "docker" in engines(lab, on), "docker is seen")
    started = lab.shoal(at or on, *kind, "run", "-d", "--retry", "1", *where, *words)
    assert started.code == 0, started
    lab.shoal(on, "job", "wait", name)
    with on.client() as client:
        (slot,) = client.job(name)["slots"]
    return slot, lab.shoal(lab.devices[-1], "job", "describe", name).out


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


def test_results_of_a_program_that_find_no_room_are_told_and_none_is_left(lab: Lab) -> None:
    """There is room for the agent to begin with, and none for all of it."""
    script = f"mkdir out; head -c {LARGE_BYTES} /dev/urandom > out/big; echo made"
    words = ("-o", "out", "--", "sh", "-c", script)
    slot, described = run(lab, "full-program", lab[2], *words)
    assert (slot["state"], slot["exit_code"], slot["archive"]) == ("completed", 0, ""), slot
    reason = "less than 128 MiB of disk are free: no result files are kept"
    assert f"Files left out of 0: {reason}" in described
    got = lab.shoal(lab[0], "job", "get", "full-program")
    assert reason in got.err, got
    assert lab.shoal(lab[0], "logs", "full-program").out == "made\n"
    assert list((lab[2].data_dir / "results").iterdir()) == []
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a large file on the web, which has a smaller one at /some beside it."""
    with Server() as server:
        server.answers["/large"] = partial(large, size_bytes=LARGE_BYTES)
        server.answers["/some"] = partial(large, size_bytes=SOME_BYTES)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.url("/large")
        server.shutdown()
        thread.join()


def large(to: Handler, size_bytes: int) -> None:
    with suppress(OSError):  # who asks may give up half-way
        to.say(os.urandom(size_bytes))


def failed(slot: dict[str, Any], described: str, reason: str) -> None:
    """Before it began: told of as the device's fault, in these words."""
    assert (slot["state"], slot["exit_code"]) == ("failed", None), slot
    for text in (slot["reason"], described):
        assert re.search(reason, text), text


def test_a_download_that_finds_no_room_is_given_up_and_none_of_it_is_left(
    lab: Lab, address: str
) -> None:
    slot, described = run(lab, "full-download", lab[2], "-i", f"{address}:/in", "--", "true")
    free = "less than 128 MiB of disk are free"
    failed(slot, described, f"{re.escape(address)} is not fetched: {free}")
    assert not [each for each in (lab[2].data_dir / "downloads").iterdir() if each.is_file()]
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_a_download_that_finds_no_room_beside_its_task_is_told(lab: Lab, address: str) -> None:
    slot, described = run(lab, "full-input", lab[0], "-i", f"{address}:/in", "--", "true")
    failed(slot, described, f"the disk is too full for {LARGE_BYTES >> 20} MiB more")
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


@pytest.fixture
def shipped(tmp_path: Path) -> tuple[str, ...]:
    """Flags for a file that no packing makes smaller."""
    (tmp_path / "big").write_bytes(os.urandom(OUTPUT_BYTES))
    return ("-f", str(tmp_path / "big"))


def test_shipped_files_that_find_no_room_are_told_and_none_of_them_is_left(
    lab: Lab, shipped: tuple[str, ...]
) -> None:
    slot, described = run(lab, "full-archive", lab[1], *shipped, "--", "true", at=lab[0])
    reason = (
        r"the shipped files \(\w+\) could not be fetched: .*: the disk is too full for 2 MiB more"
    )
    failed(slot, described, reason)
    assert list((lab[1].data_dir / "archives").iterdir()) == []
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_shipped_files_that_find_no_room_beside_their_task_are_told(
    lab: Lab, shipped: tuple[str, ...]
) -> None:
    slot, described = run(lab, "full-unpacked", lab[0], *shipped, "--", "true")
    failed(slot, described, "the shipped files cannot be unpacked: the disk is too full for")
    lab.until(lambda: not leftovers(lab), "nothing is left behind")


def test_files_that_a_full_device_cannot_ship_make_no_job(
    lab: Lab, shipped: tuple[str, ...]
) -> None:
    done = lab.shoal(lab[1], "run", "--name", "unshipped", *shipped, "--", "true")
    expected = "shoal: it could not be kept: No space left on device\n"
    assert (done.code, done.err) == (1, expected), done
    assert list((lab[1].data_dir / "archives").iterdir()) == []
    assert lab.shoal(lab[1], "job", "describe", "unshipped").code == 4


# ---- inputs of containers ----------------------------------------------------------------------

OFFLINE = ("--network", "none", IMAGE)


def test_a_download_that_finds_no_room_beside_its_container_is_told(
    lab: Lab, docker: DockerHost, address: str
) -> None:
    slot, described = run(
        lab, "full-container-input", lab[1], "-i", f"{address}:/in", *OFFLINE, "true"
    )
    failed(slot, described, f"the disk is too full for {LARGE_BYTES >> 20} MiB more")
    lab.until(lambda: not leftovers(lab, docker), "nothing is left behind")


def test_shipped_files_that_find_no_room_beside_their_container_are_told(
    lab: Lab, docker: DockerHost, tmp_path: Path
) -> None:
    """What they are packed in is small enough."""
    with (tmp_path / "zeroes").open("wb") as file:
        file.truncate(OUTPUT_BYTES)
    flags = ("-f", str(tmp_path / "zeroes"))
    slot, described = run(lab, "full-container-unpacked", lab[1], *flags, *OFFLINE, "true")
    failed(slot, described, "the shipped files cannot be unpacked: the disk is too full for 2 MiB")
    lab.until(lambda: not leftovers(lab, docker), "nothing is left behind")


def test_files_that_find_no_room_a_second_time_as_docker_is_given_them_are_told(
    lab: Lab, docker: DockerHost, address: str
) -> None:
    flags = ("-i", f"{address.replace('/large', '/some')},dst=in")
    slot, described = run(lab, "full-container-twice", lab[2], *flags, *OFFLINE, "true")
    reason = f"it could not be started: the disk is too full for {SOME_BYTES >> 20} MiB more"
    failed(slot, described, reason)
    lab.until(lambda: not leftovers(lab, docker), "nothing is left behind")


def test_files_that_find_no_room_in_their_container_are_told(address: str) -> None:
    """Docker's own disk is the full one."""
    host, lab = DockerHost(), Lab(1)
    data = host.root / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "shoal-test", str(data)]
    subprocess.run(command, check=True)
    lab[0].environment["SHOAL_DOCKER_SOCKET"] = str(host.socket)
    with host, lab:
        flags = ("-i", f"{address},dst=in")
        slot, described = run(lab, "full-docker", lab[0], *flags, *OFFLINE, "true")
        failed(slot, described, "it could not be started: .*no space left on device")
        lab.until(lambda: not leftovers(lab, host), "nothing is left behind")
        slot, _ = run(lab, "roomy", lab[0], *OFFLINE, "true")
        assert (slot["state"], slot["exit_code"]) == ("completed", 0), slot
