"""Standing work on networks that part for a minute, and on a device that boots without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.lab import Device, alive_at, supervisors_of
from tests.netlab import NetLab

PARTED_S = 60.0
SOON_S = 60.0  # on a loaded machine
HEALED_S = 90.0  # redials back off up to a minute
FOREVER = ("sleep", "1000")


@pytest.fixture(scope="module")
def lab() -> Iterator[NetLab]:
    with NetLab(4) as made:
        yield made


def standing(name: str, kind: str, *command: str, **fields: Any) -> dict[str, Any]:
    task = {"Engine": {"Type": "process", "Params": {"Command": list(command or FOREVER)}}}
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


def tasks(device: Device, name: str) -> int:
    """How many of this name run there, as its own agent sees it."""
    with device.client() as client:
        views = [job for job in client.jobs()["jobs"] if job["name"] == name]
    return sum(device.peer in hosts(device, job["id"]) for job in views)


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
        standing("kept", "service", Constraints=ready),
        standing("strict", "service", Constraints=ready, Disconnect={"StopAfter": "5s"}),
        standing("probe", "daemon"),
    ]
    mark(lab, cut_off)
    seen.jobs = {spec["Name"]: submit(here, spec) for spec in specs}
    for name in ("kept", "strict"):
        lab.until(lambda n=name: hosts(here, seen.jobs[n]) == [cut_off.peer], "it runs", SOON_S)
    mark(lab, lab[1], lab[2])
    job = seen.jobs["probe"]
    lab.until(lambda: tasks(cut_off, "probe") == 1, "the daemon runs there", SOON_S)
    lab.partition([cut_off], lab.devices[:3])
    begun = time.monotonic()
    for name in ("kept", "strict"):
        lab.until(
            lambda n=name: cut_off.peer not in (found := hosts(here, seen.jobs[n])) and found,
            "it is placed again",
            SOON_S,
        )
    submit(here, standing("probe", "daemon", "sleep", "2000"))
    submit(cut_off, standing("probe", "daemon", "sleep", "3000"))
    lab.until(lambda: time.monotonic() > begun + PARTED_S, "the partition lasts", 2 * PARTED_S)
    seen.beside = {name: hosts(here, each) for name, each in seen.jobs.items() if each != job}
    seen.alone = {name: tasks(cut_off, name) for name in seen.jobs}
    lab.heal()
    lab.until(lambda: all_know_all(lab), "all are alive to all again", HEALED_S)
    return seen


def test_a_service_runs_on_both_sides_and_once_when_they_meet(lab: NetLab, parted: Parted) -> None:
    job = parted.jobs["kept"]
    assert parted.alone["kept"] == 1 and len(parted.beside["kept"]) == 1

    def once() -> bool:
        running = [device.peer for device in lab.devices if tasks(device, "kept")]
        return len(running) == 1 and all(hosts(each, job) == running for each in lab.devices)

    lab.until(once, "one copy is left, and all say so", SOON_S)
    surplus = next(text for each in lab.devices for kind, text in told(each, job).items()
                   if kind == "execution.stopped-here")  # fmt: skip
    assert "superseded" in surplus
    assert lab.shoal(lab[1], "job", "history", job).code == 0


def test_what_is_to_stop_when_cut_off_has_stopped_by_itself(lab: NetLab, parted: Parted) -> None:
    assert parted.alone["strict"] == 0 and len(parted.beside["strict"]) == 1
    job = parted.jobs["strict"]
    lab.until(lambda: hosts(lab[0], job) == parted.beside["strict"], "it stays there", SOON_S)
    assert "cut off" in " ".join(told(parted.cut_off, job).values())


def test_a_daemon_runs_on_and_one_of_two_edits_is_everywhere(lab: NetLab, parted: Parted) -> None:
    assert parted.alone["probe"] == 1
    job = parted.jobs["probe"]

    def revisions() -> set[str]:
        return {view(device, job)["revision"] for device in lab.devices}

    lab.until(lambda: len(revisions()) == 1, "all hold the same", SOON_S)
    lab.until(lambda: all(tasks(d, "probe") == 1 for d in lab.devices), "it runs on all", SOON_S)
    losing = [each for each in (lab[0], parted.cut_off) if "job.edit-superseded" in told(each, job)]
    assert len(losing) == 1, "whoever made the edit that lost is told so"
    assert "job.edit-superseded" not in told(lab[1], job), "and nobody else"


# ---- no network at all ------------------------------------------------------------------------


def test_a_device_that_reboots_with_its_cable_pulled_runs_its_daemons(lab: NetLab) -> None:
    device = lab[2]
    job = submit(lab[0], standing("alone", "daemon"))
    lab.until(lambda: tasks(device, "alone") == 1, "it runs there", SOON_S)
    lab.power_off(device)
    lab.link(device, "down")
    lab.start(device, wait=False, bootstrap=False)
    lab.until(lambda: tasks(device, "alone") == 1, "it runs again, with nobody to ask", SOON_S)
    assert alive_at(device) == [device.peer] and supervisors_of(device)
    with device.client() as client:
        assert client.job(job)["slots"]
    lab.link(device, "up")
    lab.until(lambda: all_know_all(lab), "it is among them again", HEALED_S)
    assert tasks(device, "alone") == 1
