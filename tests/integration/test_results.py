"""Result files and output, by the command line: those of one device, and those that are gone."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.archives import KEEP_S
from protocol.moment import format_moment
from tests.lab import Device, Done, Lab, process_job

OUT = [{"Name": "out", "Path": "out"}]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(3) as lab:
        yield lab


def submitted(lab: Lab, job: dict[str, Any], tmp_path: Path) -> str:
    file = tmp_path / f"{job['Name']}.json"
    file.write_text(json.dumps(job))
    done = lab.shoal(lab[0], "job", "run", str(file))
    assert done.code == 0, done
    return done.out.strip()


def slot_of(lab: Lab, job: str) -> dict[str, Any]:
    with lab[0].client() as client:
        (slot,) = client.job(job)["slots"]
    return dict(slot)


def described(lab: Lab, device: Device, job: str) -> str:
    done = lab.shoal(device, "job", "describe", job)
    assert done.code == 0, done
    return done.out


def test_what_one_device_left_and_wrote_is_asked_for_by_its_name(lab: Lab, tmp_path: Path) -> None:
    gate = lab.directory / "gate"
    script = (
        "mkdir out; echo $SHOAL_PEER_ID > out/peer; echo early;"
        f" until test -e {gate}; do sleep 0.05; done; echo late; echo why >&2"
    )
    task = {"ResultPaths": OUT}
    job = submitted(
        lab, process_job("sh", "-c", script, name="each", Task=task) | {"Type": "ops"}, tmp_path
    )

    def read(device: Device, *words: str) -> list[str]:
        done = lab.shoal(device, "logs", job, *words)
        assert done.code == 0, done
        return done.out.splitlines()

    early = [f"{device.name}: early" for device in lab.devices]
    lab.until(lambda: sorted(read(lab[0])) == early, "all have begun")
    moment = math.ceil(time.time()) + 1
    lab.until(lambda: time.time() > moment, "what comes now is later")
    gate.touch()
    assert lab.shoal(lab[1], "job", "wait", job).code == 0
    for device in lab.devices:
        own = [f"{device.name}: early", f"{device.name}: late"]
        for asked in lab.devices[:2]:
            assert read(asked, "--peer", device.name) == own
        assert read(lab[0], "--peer", device.peer, "--stream", "stdout", "--tail", "1") == own[1:]
        assert read(lab[0], "--peer", device.name, "--since", format_moment(moment)) == own[1:]
        assert lab.shoal(lab[0], "logs", job, "--peer", device.name).err == f"{device.name}: why\n"
    late = [f"{device.name}: late" for device in lab.devices]
    assert sorted(read(lab[2], "--since", format_moment(moment))) == late

    for number, wanted in enumerate((lab[1].name, lab[2].peer, lab[0].peer[-8:])):
        target = tmp_path / str(number)
        done = lab.shoal(lab[0], "job", "get", job, "--peer", wanted, "-o", str(target), "--json")
        assert done.code == 0, done
        (result,) = json.loads(done.out)["results"]
        (kept,) = target.rglob("peer")
        assert kept.read_text().strip() == result["peer"] == lab[(1, 2, 0)[number]].peer
    nobody = lab.shoal(lab[0], "job", "get", job, "--peer", "nobody", "-o", str(tmp_path / "no"))
    assert nobody.code == 2 and "no slot of each is that one" in nobody.err


def test_one_slots_output_is_asked_for_by_its_number(lab: Lab) -> None:
    words = ("run", "--count", "3", "--name", "slots", "-q", "--")
    assert lab.shoal(lab[0], *words, "sh", "-c", "echo $SHOAL_PARTITION_INDEX").code == 0
    for slot in range(3):
        done = lab.shoal(lab[slot], "logs", "slots", "--slot", str(slot))
        assert (done.code, done.out) == (0, f"{slot}\n")


def test_output_on_a_device_that_is_away_is_told_to_be_missing(lab: Lab) -> None:
    on = ("--constraint", f"shoal/peer={lab[1].peer}")
    script = "seq 100; echo late"
    assert lab.shoal(lab[0], "run", "-q", *on, "--name", "far", "--", "sh", "-c", script).code == 0
    stays = ("run", "-d", *on, "--name", "stays", "--", "sh", "-c", "echo begun; exec sleep 600")
    assert lab.shoal(lab[0], *stays).code == 0
    lab.until(lambda: lab.shoal(lab[0], "logs", "stays").out == "begun\n", "it has begun")
    whole = "".join(f"{number}\n" for number in range(1, 101)) + "late\n"
    assert lab.shoal(lab[0], "logs", "far") == Done(0, whole, "")

    lab.kill(lab[1])
    where = f"shoal: output on {lab[1].name} "
    for words in (("logs", "far"), ("logs", "-f", "far")):
        done = lab.shoal(lab[0], *words)
        assert done.code == 1 and whole.endswith(done.out) and len(done.out.splitlines()) == 40
        assert done.err == (
            f"{where}is what came with the result, and may not be all: the device cannot be "
            "reached; once it is back (see `shoal peers`) `shoal logs` has all of it\n"
        )
    done = lab.shoal(lab[0], "logs", "far", "--tail", "2")
    assert (done.code, done.out) == (0, "100\nlate\n")
    assert done.err == f"{where}is as it came with the result: the device cannot be reached\n"
    done = lab.shoal(lab[0], "logs", "stays", "--json")
    assert done.code == 1 and done.err.startswith(f"{where}cannot be had: the device cannot be")
    told = [json.loads(line) for line in done.out.splitlines()]
    assert {(line["stream"], line["data"]) for line in told} == {("stdout", ""), ("stderr", "")}
    assert all(line["missing"] and line["cause"] == "unreachable" for line in told)

    lab.start(lab[1])
    lab.until(lambda: lab.shoal(lab[0], "logs", "far") == Done(0, whole, ""), "all is there again")
    lab.until(lambda: lab.shoal(lab[0], "logs", "stays").out == "begun\n", "and what runs")
    assert lab.shoal(lab[0], "stop", "stays").code == 0


def test_what_one_device_left_is_the_input_of_a_task_on_another(lab: Lab) -> None:
    def on(device: Device) -> tuple[str, ...]:
        return ("run", "-q", "--constraint", f"shoal/peer={device.peer}")

    script = "mkdir -p out/deep; echo from $SHOAL_PEER_ID > out/deep/file"
    made = lab.shoal(lab[0], *on(lab[1]), "--name", "made", "-o", "out", "--", "sh", "-c", script)
    assert made.code == 0, made
    with lab[0].client() as client:
        (slot,) = client.job("made")["slots"]
    source = f"peer://{slot['archive']},dst=in,opt=size={slot['archive_bytes']}"
    for device in lab.devices:
        read = lab.shoal(lab[0], *on(device), "-i", source, "--", "cat", "in/out/deep/file")
        assert (read.code, read.out) == (0, f"from {lab[1].peer}\n"), read


@pytest.mark.parametrize("size", ["256k", "1m"])
def test_what_a_full_disk_keeps_away_comes_once_there_is_room(
    lab: Lab, tmp_path: Path, size: str
) -> None:
    """It does as it is fetched, or as it is unpacked."""
    name = f"large-{size}"
    script = "mkdir out; head -c 700000 /dev/urandom > out/data; sha256sum < out/data"
    made = lab.shoal(lab[0], "run", "-q", "--name", name, "-o", "out", "--", "sh", "-c", script)
    assert made.code == 0, made
    (place := tmp_path / "place").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", place], check=True)
    try:
        get = ("job", "get", name, "-o", str(place / "files"))
        done = lab.shoal(lab[0], *get)
        (part,) = place.iterdir()
        assert done.code == 1 and part.suffix == ".part" and part.stat().st_size > 100_000
        assert done.err.startswith("shoal: slot 0: the disk is full; make room there, or name")
        assert done.err.endswith("by the same command, once it can be had\n")
        subprocess.run(["mount", "-o", "remount,size=4m", place], check=True)
        assert lab.shoal(lab[0], *get) == Done(0, f"{place / 'files'}\n", "")
        data = (place / "files" / "out" / "data").read_bytes()
        assert made.out == f"{hashlib.sha256(data).hexdigest()}  -\n"
        assert [path.name for path in place.iterdir()] == ["files"]
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_files_whose_week_is_over_are_told_of_wherever_one_asks(lab: Lab, tmp_path: Path) -> None:
    where = [{"Key": "shoal/peer", "Operator": "=", "Values": [lab[1].peer]}]
    made = process_job(
        "sh", "-c", "mkdir out; echo x > out/x", name="old", Constraints=where,
        Task={"ResultPaths": OUT},
    )  # fmt: skip
    job = submitted(lab, made, tmp_path)
    assert lab.shoal(lab[0], "job", "wait", job).code == 0
    for device in lab.devices:
        assert "`shoal job get` fetches them" in described(lab, device, job)
    archive = lab[1].data_dir / "results" / slot_of(lab, job)["archive"]
    long_ago = time.time() - KEEP_S - 60
    os.utime(archive, (long_ago, long_ago))
    lab.kill(lab[1])
    away = "Files of 0 on d01: the device that ran it cannot be reached just now"
    assert away in described(lab, lab[0], job)
    lab.start(lab[1])
    assert not archive.exists(), "a device looks for what is too old when it starts"
    gone = "the result files are no longer on the device that ran it: kept for a week"
    for device in lab.devices:
        lab.until(
            lambda device=device: f"Files of 0 on d01: {gone}" in described(lab, device, job),
            "it says so",
        )
        assert "fetches them" not in described(lab, device, job)
        got = lab.shoal(device, "job", "get", job, "-o", str(tmp_path / device.name))
        assert got.code == 1 and f"slot 0: {gone}" in got.err, got
        assert not list((tmp_path / device.name).rglob("x"))
        with device.client() as client:
            assert client.job(job)["state"] == "completed", "that says how the task ended"
