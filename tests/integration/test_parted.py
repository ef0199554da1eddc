"""Standing work on networks that part for a minute, and on a device that boots without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Device, alive_at, children_of, supervisors_of
from tests.netlab import NetLab

PARTED_S = 60.0
SOON_S = 60.0  # on a loaded machine
HEALED_S = 90.0  # redials back off up to a minute
KEPT, STRICT, PROBE, ALONE = range(1001, 1005)  # seconds that each job's tasks sleep for
EDITS = (2001, 2002)


@pytest.fixture(scope="module")
def lab() -> Iterator[NetLab]:
    with NetLab(4) as made:
        yield made


def standing(name: str, kind: str, seconds: int, **fields: Any) -> dict[str, Any]:
    task = {"Engine": {"Type": "process", "Params": {"Command": ["sleep", str(seconds)]}}}
    return {"Name": name, "Type": kind, "Tasks": [task], **fields}


def submit(at: Device, spec: dict[str, Any]) -> str:
    with at.client() as client:
        return str(client.submit(spec)["job"])


def view(at: Device, job: str) -> dict[str, Any]:
    with at.client() as client:
        return client.job(job)


def hosts(at: Device, job: str) -> list[str]:
    """The peers on which it runs, as `at` is told."""
    return sorted(slot["executor"] for slot in view(at, job)["slots"] if slot["state"] == "running")


def told(at: Device, job: str) -> dict[str, str]:
    """The last event of each kind that it has of the job."""
    with at.client() as client:
        return {each["kind"]: each["text"] for each in client.events() if each["job"] == job}


def tasks(device: Device, *seconds: int) -> int:
    """How many of its tasks sleep for one of these: each job's are its own."""
    lines = [
        Path(f"/proc/{task}/cmdline").read_bytes().split(b"\0")
        for supervisor in supervisors_of(device)
        for task in children_of(supervisor)
    ]
    return sum(any(str(each).encode() in line for each in seconds) for line in lines)


def runs_once(lab: NetLab, job: str, seconds: int) -> bool:
    """Whether it runs on one device, and all say so."""
    running = [device.peer for device in lab.devices for _ in range(tasks(device, seconds))]
    return len(running) == 1 and all(hosts(each, job) == running for each in lab.devices)


def all_know_all(lab: NetLab) -> bool:
    wanted = {device.peer for device in lab.devices}
    return all(wanted <= set(alive_at(device)) for device in lab.devices)


# ---- a minute's partition ---------------------------------------------------------------------


@dataclass
class Parted:
    """What was seen of one partition, and the jobs that went through it."""

    cut_off: Device
    jobs: dict[str, str] = field(default_factory=dict)
    beside: dict[str, list[str]] = field(
        default_factory=dict
    )  # hosts on the other side, at its end
    alone: dict[str, int] = field(default_factory=dict)  # tasks on the one cut off, at its end


def mark(lab: NetLab, *devices: Device) -> None:
    """Let the services run there."""
    for device in devices:
        done = lab.shoal(device, "label", "set", "ready=yes")
        assert done.code == 0, done


@pytest.fixture(scope="module")
def parted(lab: NetLab) -> Parted:
    """A service and one that stops when cut off, with a daemon: all on the device that is cut off.
    Both sides change the daemon meanwhile."""
    here, cut_off = lab[0], lab[3]
    seen = Parted(cut_off)
    ready = [{"Key": "ready", "Operator": "exists"}]
    specs = [
        standing("kept", "service", KEPT, Constraints=ready),
        standing("strict", "service", STRICT, Constraints=ready, Disconnect={"StopAfter": "5s"}),
        standing("probe", "daemon", PROBE),
    ]
    mark(lab, cut_off)
    seen.jobs = {spec["Name"]: submit(here, spec) for spec in specs}
    for name in ("kept", "strict"):
        lab.until(lambda n=name: hosts(here, seen.jobs[n]) == [cut_off.peer], "it runs", SOON_S)
    mark(lab, lab[1], lab[2])
    job = seen.jobs["probe"]
    lab.until(lambda: tasks(cut_off, PROBE) == 1, "the daemon runs there", SOON_S)
    lab.partition([cut_off], lab.devices[:3])
    begun = time.monotonic()
    for name in ("kept", "strict"):
        lab.until(
            lambda n=name: cut_off.peer not in (found := hosts(here, seen.jobs[n])) and found,
            "it is placed again",
            SOON_S,
        )
    submit(here, standing("probe", "daemon", EDITS[0]))
    submit(cut_off, standing("probe", "daemon", EDITS[1]))
    lab.until(lambda: time.monotonic() > begun + PARTED_S, "the partition lasts", 2 * PARTED_S)
    seen.beside = {name: hosts(here, each) for name, each in seen.jobs.items() if each != job}
    seen.alone = {
        "kept": tasks(cut_off, KEPT),
        "strict": tasks(cut_off, STRICT),
        "probe": tasks(cut_off, *EDITS),
    }
    lab.heal()
    lab.until(lambda: all_know_all(lab), "all are alive to all again", HEALED_S)
    return seen


def test_a_service_runs_on_both_sides_and_once_when_they_meet(lab: NetLab, parted: Parted) -> None:
    job = parted.jobs["kept"]
    assert parted.alone["kept"] == 1 and len(parted.beside["kept"]) == 1
    lab.until(lambda: runs_once(lab, job, KEPT), "one copy is left, and all say so", SOON_S)
    stories = [told(each, job) for each in lab.devices]
    assert any("service.ran-twice" in story for story in stories)
    assert any("execution.stopped-here" in story for story in stories)


def test_what_is_to_stop_when_cut_off_has_stopped_by_itself(lab: NetLab, parted: Parted) -> None:
    assert parted.alone["strict"] == 0 and len(parted.beside["strict"]) == 1
    job = parted.jobs["strict"]
    lab.until(lambda: runs_once(lab, job, STRICT), "one runs, and all say so", SOON_S)
    assert "cut off" in told(parted.cut_off, job)["execution.ended-here"]


def test_a_daemon_runs_on_and_one_of_two_edits_is_everywhere(lab: NetLab, parted: Parted) -> None:
    assert parted.alone["probe"] == 1
    job = parted.jobs["probe"]

    def revisions() -> set[str]:
        return {view(device, job)["revision"] for device in lab.devices}

    lab.until(lambda: len(revisions()) == 1, "all hold the same", SOON_S)
    lab.until(lambda: all(tasks(d, *EDITS) == 1 for d in lab.devices), "it runs on all", SOON_S)
    losing = [each for each in (lab[0], parted.cut_off) if "job.edit-superseded" in told(each, job)]
    assert len(losing) == 1, "whoever made the edit that lost is told so"
    assert "job.edit-superseded" not in told(lab[1], job), "and nobody else"


# ---- no network at all ------------------------------------------------------------------------


def test_a_device_that_reboots_with_its_cable_pulled_runs_its_daemons(lab: NetLab) -> None:
    device = lab[2]
    job = submit(lab[0], standing("alone", "daemon", ALONE))
    lab.until(lambda: tasks(device, ALONE) == 1, "it runs there", SOON_S)
    lab.power_off(device)
    lab.link(device, "down")
    lab.start(device, wait=False, bootstrap=False)
    lab.until(lambda: tasks(device, ALONE) == 1, "it runs again, with nobody to ask", SOON_S)
    assert alive_at(device) == [device.peer]
    with device.client() as client:
        assert client.job(job)["slots"]
    lab.link(device, "up")
    lab.until(lambda: all_know_all(lab), "it is among them again", HEALED_S)
    assert tasks(device, ALONE) == 1
