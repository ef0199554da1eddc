"""A real agent on a disk that fills up: messages wait at the broker, what runs is told of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.lab import Device, Lab, process_job
from tests.mosquitto import Mosquitto
from tests.mqttlab import ALLOW, give_broker, send, spec_of
from tests.mqttlistener import Listener

DISK_BYTES: Final = 48 << 20
PADDING: Final = "x" * 15_000  # a message is a row of so much
MESSAGES_MAX: Final = 300


@contextmanager
def small_disk(lab: Lab) -> Iterator[Device]:
    """A device whose database has a disk of its own; tasks' directories and its log are elsewhere,
    so that what fails is what the agent writes down."""
    assert os.geteuid() == 0, "a disk of its own is a mount: run this test as root"
    data_dir, beside = lab.directory / "d00", lab.directory / "beside"
    executions = data_dir / "executions"
    for directory in (data_dir, beside):
        directory.mkdir(mode=0o711)
    mounts: list[Path] = []
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=711", "none", str(data_dir))
        mounts.append(data_dir)
        executions.mkdir(mode=0o711)
        _run("mount", "--bind", str(beside), str(executions))
        mounts.append(executions)
        (lab.directory / "agent.log").touch()
        (data_dir / "agent.log").symlink_to(lab.directory / "agent.log")
        yield lab.add("d00")
    finally:
        lab.close()
        for mount in reversed(mounts):
            _run("umount", "--lazy", str(mount))
        shutil.rmtree(lab.directory, ignore_errors=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def fill(device: Device) -> Path:
    """All that is left of its disk, but for the reserve that the agent has set aside."""
    path = device.data_dir / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


def checks(device: Device) -> dict[str, dict[str, Any]]:
    with device.client() as client:
        return {each["check"]: each for each in client.doctor()}


def is_full(device: Device) -> bool:
    return str(checks(device)["disk"]["text"]).startswith("the disk is full")


def problem(device: Device, name: str) -> str:
    with device.client() as client:
        (view,) = client.templates(name)
        return str(client.job(view["id"])["trigger"]["devices"][0]["problem"])


@pytest.mark.timeout(600)
def test_messages_wait_for_a_full_disk_at_the_broker_and_none_is_lost(tmp_path: Path) -> None:
    lab = Lab(0)
    gate = lab.directory / "gate"
    with Mosquitto() as mosquitto, small_disk(lab) as device:
        give_broker(device, mosquitto.port, ALLOW)
        lab.start(device)
        spec = spec_of("note", "note", "head -c 8")
        spec["Tasks"][0]["Publisher"] = {
            "Type": "mqtt", "Params": {"Broker": "home", "Topic": "noted", "Format": "raw"},
        }  # fmt: skip
        with device.client() as client:
            client.submit(spec)
        lab.until(lambda: "note" in checks(device)["broker home"]["text"], "it is heard")
        with Listener(mosquitto.port, "noted") as listener:
            job = _begin_one(lab, device, gate)
            filler = fill(device)
            count = 0
            while not is_full(device):
                assert count < MESSAGES_MAX, "the disk is not full"
                send(mosquitto, "note", f"{count:08}{PADDING}")
                count += 1
            for _ in range(100):
                send(mosquitto, "note", f"{count:08}{PADDING}")
                count += 1
            lab.until(lambda: "disk is full" in problem(device, "note"), "it says why")
            refused = lab.shoal(device, "job", "run", str(_job_file(tmp_path)))
            assert refused.code != 0 and "disk of this device is full" in refused.err
            gate.touch()  # what runs goes on, and its result leaves
            listener.until(lambda: [e for e in listener.heard if e.payload == b"done\n"], job)
            assert len(listener.heard) < count, "what came since waits"
            filler.unlink()
            wanted = {f"{number:08}".encode() for number in range(count)}
            lab.until(lambda: wanted <= {e.payload for e in listener.heard}, "all have run", 240)
        ids = {each.id for each in listener.heard if each.payload in wanted}
        assert len(ids) == count, "each is one job"
        assert not is_full(device) and problem(device, "note") == ""
        with device.client() as client:
            assert client.status()["pid"] == device.pid, "the agent did not end"
            (rebuilds,) = re.findall(r"^shoal_rebuilds\S* (\S+)", client.metrics(), re.MULTILINE)
        assert float(rebuilds) == 0, "nor did it begin anew"


def _begin_one(lab: Lab, device: Device, gate: Path) -> str:
    """A job that ends with a result once there is a file."""
    publisher = {"Type": "mqtt", "Params": {"Broker": "home", "Topic": "noted", "Format": "raw"}}
    script = f"while [ ! -e {gate} ]; do sleep 0.1; done; echo done"
    spec = process_job("sh", "-c", script, name="long", Task={"Publisher": publisher})
    with device.client() as client:
        job = str(client.submit(spec)["job"])
        lab.until(lambda: client.job(job)["slots"][0]["state"] == "running", "it runs")
    return job


def _job_file(root: Path) -> Path:
    path = root / "job.yaml"
    path.write_text(
        "Name: more\nType: batch\n"
        "Tasks: [{Name: main, Engine: {Type: process, Params: {Command: ['true']}}}]\n"
    )
    return path
