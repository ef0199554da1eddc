"""Every example of a job file, run to its end on devices that have what it is for.

Those of containers, modules and buckets run beside their engines: test_containers, test_wasm,
test_s3.
"""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.dockerhost import BUSYBOX
from tests.lab import ROOT, Device, Lab
from tests.mosquitto import Mosquitto
from tests.mqttlab import hearing, outputs, runs, send, with_broker
from tests.netlab import NetLab

HERE: Final = ("batch", "daemon", "ops", "schedule", "service", "template", "trigger")
ELSEWHERE: Final = ("docker", "s3", "wasm")
LABELS: Final = ("role=sensor", "sensor=bme280", "camera=csi", "disk=ssd")
# What such devices have: the programs that examples run, something to keep, and a place for it.
PLACES: Final = {"programs": "/usr/local/sbin", "homes": "/home", "backups": "/var/backups"}
PROGRAMS: Final = {"snapshot": 'echo "snapshot $*"', "look": 'echo "look $*"; cat'}


@pytest.fixture(scope="module")
def lab(mosquitto: Mosquitto) -> Iterator[Lab]:
    lab = with_broker(2, mosquitto)
    for device in lab.devices:
        furnish(lab, device)
        device.flags.append("--trust-clock")
    with lab:
        for device in lab.devices:
            for label in LABELS:
                assert lab.shoal(device, "label", "set", label).code == 0
        yield lab


def furnish(lab: Lab, device: Device) -> None:
    """Directories of its own in the places of the machine's, which its agent and tasks see."""
    mounts = []
    for name, place in PLACES.items():
        own = lab.directory / f"{device.name}-{name}"
        own.mkdir()
        own.chmod(0o777)
        mounts.append(f"mount --bind {own} {place}")
    for name, script in PROGRAMS.items():
        program = lab.directory / f"{device.name}-programs" / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    (lab.directory / f"{device.name}-homes/diary").write_text("dear diary\n")
    device.within = ("unshare", "--mount", "sh", "-ec", "; ".join([*mounts, 'exec "$@"']), "sh")


def example(lab: Lab, kind: str, directory: Path, **changes: str) -> str:
    """As the command prints it, but for what no test can wait for."""
    text = lab.shoal(lab[0], "job", "example", kind).out
    for old, new in changes.items():
        assert text.count(old) == 1, (kind, old)
        text = text.replace(old, new)
    path = directory / f"{kind}.yaml"
    path.write_text(text)
    return str(path)


def ran(lab: Lab, *words: str) -> str:
    done = lab.shoal(lab[0], *words)
    assert done.code == 0, done
    return done.out


def view(lab: Lab, job: str) -> dict[str, Any]:
    return dict(json.loads(ran(lab, "job", "describe", job, "--json")))


def test_each_has_a_test_that_runs_it() -> None:
    names = sorted(path.stem for path in (ROOT / "agent/examples").iterdir())
    assert names == sorted(HERE + ELSEWHERE)


def test_batch(lab: Lab, tmp_path: Path) -> None:
    ran(lab, "job", "run", example(lab, "batch", tmp_path), "--wait", "-q")
    slots = view(lab, "word-count")["slots"]
    assert [(slot["exit_code"], slot["stdout_tail"]) for slot in slots] == [(0, "4\n")] * 2
    ran(lab, "job", "get", "word-count", "-o", str(tmp_path / "got"))
    for slot in ("0", "1"):
        counts = (tmp_path / "got" / slot / "report/counts").read_text().split()
        assert counts == ["0", "4", "19", "data/text.txt"]


def test_ops(lab: Lab, tmp_path: Path) -> None:
    ran(lab, "job", "run", example(lab, "ops", tmp_path), "--wait", "-q")
    slots = view(lab, "disk-report")["slots"]
    assert {slot["executor"] for slot in slots} == {device.peer for device in lab.devices}
    assert all(slot["stdout_tail"].startswith("Filesystem") for slot in slots), slots


def test_daemon(lab: Lab, tmp_path: Path) -> None:
    ran(lab, "job", "run", example(lab, "daemon", tmp_path))

    def dated() -> bool:
        """Each device has written its first line."""
        return ran(lab, "logs", "collect").count(" 20") >= len(lab.devices)

    lab.until(dated, "it runs on both")
    assert [part["state"] for part in view(lab, "collect")["parts"]] == ["running"] * 2
    ran(lab, "job", "delete", "collect", "-y")


def test_schedule(lab: Lab, tmp_path: Path) -> None:
    changes = {'"30 2 * * *"': '"*/2 * * * * *"'}  # every other second
    job = ran(lab, "job", "run", example(lab, "schedule", tmp_path, **changes)).strip()

    def runs() -> list[dict[str, Any]]:
        shown = view(lab, job)["schedule"]["runs"]
        return [run for run in shown if run["state"] != "running"]

    try:
        lab.until(lambda: len(runs()) >= 2, "it has run twice")
        assert {run["state"] for run in runs()} == {"completed"}, runs()
    finally:
        ran(lab, "job", "delete", job, "-y")
    kept = [path for path in lab.directory.glob("*-backups/home.tgz")]
    assert kept
    with tarfile.open(kept[0]) as archive:
        assert "home/diary" in archive.getnames()


def test_template(lab: Lab, tmp_path: Path) -> None:
    ran(lab, "template", "set", "snapshot", example(lab, "template", tmp_path))
    out = ran(lab, "template", "run", "snapshot", "-p", "camera=porch", "--follow", "-q")
    assert out == "snapshot --camera=porch --width=640\n"


def test_trigger(lab: Lab, mosquitto: Mosquitto, tmp_path: Path) -> None:
    ran(lab, "template", "set", "motion", example(lab, "trigger", tmp_path))
    lab.until(lambda: hearing(lab, "home/+/motion") == 2, "both hear it")
    send(mosquitto, "home/porch/motion", '{"state": "OFF", "id": "m1"}')
    said = '{"state": "ON", "id": "m2"}'
    send(mosquitto, "home/porch/motion", said)
    lab.until(lambda: outputs(lab, "motion")[f"look --width=640\n{said}"] == 1, "it has run")
    assert len(runs(lab, "motion")) == 1, "the one that its When is about"


def test_service(tmp_path: Path) -> None:
    """Its devices have a network each, as both listen at the port that it names."""
    with NetLab(3) as lab:
        file = example(lab, "service", tmp_path)
        ran(lab, "job", "run", file)

        def places() -> list[dict[str, Any]]:
            found = json.loads(ran(lab, "job", "where", "status-page", "--json"))
            return found if len(found) == 2 else []

        for place in lab.until(places, "it runs on two"):
            (host,) = {host for host in place["hosts"] if host.startswith("10.77.")}
            page = lab.until(lambda host=host: page_at(lab, host), "it answers")
            assert page == "<h1>All is well</h1>"
        assert len({place["peer"] for place in places()}) == 2


def page_at(lab: NetLab, host: str) -> str:
    """As the last device gets it; empty while it does not."""
    fetch = ("wget", "-q", "-O", "-", f"http://{host}:8080/")
    words = ("ip", "netns", "exec", lab.namespaces[lab[2].name], BUSYBOX, *fetch)
    return subprocess.run(words, check=False, capture_output=True, text=True).stdout
