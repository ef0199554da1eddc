"""Services on real agents: slots that outlive their peers and their coordinator."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import Device, Lab, children_of, supervisors_of

SOON_S = 60.0  # on a loaded machine; the budget for placing again is 2 s, see scripts/bench
SCRIPT = "echo up on $SHOAL_PEER_ID; exec sleep 1000"


@pytest.fixture(scope="module")
def four() -> Iterator[Lab]:
    with Lab(4) as lab:
        for device in lab.devices[:4]:
            assert lab.shoal(device, "label", "set", f"spot={device.name}").code == 0
        yield lab


@pytest.fixture
def lab(four: Lab) -> Iterator[Lab]:
    """All four alive, before and after; what a test ran is deleted."""
    yield four
    four.start(*(device for device in four.devices[:4] if device.process is None))
    with four[0].client() as client:
        for view in client.jobs(type="service")["jobs"]:
            client.delete(view["id"])
    four.until(lambda: not any(map(supervisors_of, four.devices)), "nothing runs any more", SOON_S)


def job_file(directory: Path, name: str, script: str = SCRIPT, **more: Any) -> str:
    engine = {"Type": "process", "Params": {"Command": ["sh", "-c", script]}}
    path = directory / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({"Name": name, "Type": "service", "Tasks": [{"Engine": engine}], **more})
    )
    return str(path)


def ran(lab: Lab, at: Device, file: str) -> str:
    done = lab.shoal(at, "job", "run", file)
    assert done.code == 0, done
    return done.out.strip()


def slots(at: Device, job: str) -> list[dict[str, Any]]:
    with at.client() as client:
        found: list[dict[str, Any]] = client.job(job)["slots"]
        return found


def hosts(at: Device, job: str) -> list[str]:
    """The peers on which a slot runs, as `at` is told."""
    return sorted(slot["executor"] for slot in slots(at, job) if slot["state"] == "running")


def settled(lab: Lab, at: Device, job: str) -> dict[str, Any]:
    """Its one slot, once it runs where it is said to and nowhere else: a device that was slow to
    answer an award may have begun as well."""

    def alone() -> bool:
        running = [device.peer for device in lab.devices[:4] for _ in supervisors_of(device)]
        return hosts(at, job) == running

    lab.until(alone, "it runs on one device", SOON_S)
    return slots(at, job)[0]


def away_from(*devices: Device) -> list[dict[str, Any]]:
    names = [device.name for device in devices]
    return [{"Key": "spot", "Operator": "notin", "Values": names}]


def at_peer(lab: Lab, peer: str) -> Device:
    return next(device for device in lab.devices if device.peer == peer)


def test_its_slots_are_spread_and_seen_from_everywhere(lab: Lab, tmp_path: Path) -> None:
    file = job_file(tmp_path, "spread", Count=3)
    job = ran(lab, lab[0], file)
    lab.until(lambda: len(set(hosts(lab[3], job))) == 3, "three peers run it", SOON_S)
    listed = lab.shoal(lab[3], "job", "list").out
    assert "running (3 of 3)" in listed
    described = lab.shoal(lab[2], "job", "describe", "spread").out
    assert described.count("running") >= 4 and "Coordinator" in described
    assert lab.shoal(lab[1], "job", "executions", "spread").out.count("running") == 3
    assert "bid" in lab.shoal(lab[1], "why", "spread").out
    output = lab.shoal(lab[3], "logs", "spread").out
    assert output.count("up on") == 3
    again = lab.shoal(lab[2], "job", "run", file)
    assert (again.code, again.out.strip()) == (0, job) and "nothing changed" in again.err


def test_it_survives_the_death_of_its_peer(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "outlives", Constraints=away_from(lab[0])))
    first = settled(lab, lab[0], job)["executor"]
    host = at_peer(lab, first)
    lab.kill(host)
    lab.until(
        lambda: bool(hosts(lab[0], job)) and first not in hosts(lab[0], job),
        "it is placed again",
        SOON_S,
    )
    lab.start(host)
    lab.until(lambda: not supervisors_of(host), "the device that came back runs it no more", SOON_S)
    assert len(hosts(lab[0], job)) == 1


def test_it_moves_away_from_a_device_that_is_drained(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "moves", Constraints=away_from(lab[0])))
    first = settled(lab, lab[0], job)["executor"]
    host = at_peer(lab, first)
    done = lab.shoal(host, "peer", "drain")
    assert done.code == 0, done
    lab.until(
        lambda: bool(hosts(lab[0], job)) and first not in hosts(lab[0], job), "it moves", SOON_S
    )
    lab.until(lambda: not supervisors_of(host), "nothing of it is left there", SOON_S)
    assert lab.shoal(host, "peer", "undrain").code == 0
    assert settled(lab, lab[0], job)["executor"] != first, "it stays where it is now"


def test_its_coordinator_s_death_does_not_touch_its_task(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "kept", Constraints=away_from(lab[0])))
    before = settled(lab, lab[1], job)
    lab.kill(lab[0])

    def taken_over() -> bool:
        with lab[1].client() as client:
            view = client.job(job)
        return view["coordinator"] != lab[0].peer and view["term"] == 2

    lab.until(taken_over, "another peer coordinates it", SOON_S)
    lab.until(lambda: hosts(lab[1], job) == [before["executor"]], "it runs where it did", SOON_S)
    assert slots(lab[1], job)[0]["execution"] == before["execution"]


def test_a_task_that_ends_is_started_again_where_it_was(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "again"))
    before = settled(lab, lab[0], job)
    host = at_peer(lab, before["executor"])
    (supervisor,) = supervisors_of(host)
    for task in children_of(supervisor):
        os.kill(task, signal.SIGKILL)

    def restarted() -> bool:
        slot = slots(lab[0], job)[0]
        return slot["state"] == "running" and slot["execution"] != before["execution"]

    lab.until(restarted, "it is started again", SOON_S)
    after = slots(lab[0], job)[0]
    assert (after["executor"], after["failures"]) == (before["executor"], 1)


def test_an_update_goes_in_waves_and_back_where_it_fails(lab: Lab, tmp_path: Path) -> None:
    update = {"HealthyAfter": "2s"}
    job = ran(lab, lab[0], job_file(tmp_path, "waves", Count=2, Update=update))
    lab.until(lambda: len(hosts(lab[0], job)) == 2, "it runs", SOON_S)
    with lab[0].client() as client:
        first = client.job(job)["revision"]
    better = job_file(tmp_path, "waves", SCRIPT + " # better", Count=2, Update=update)
    assert ran(lab, lab[0], better) == job

    def revisions() -> list[str]:
        with lab[0].client() as client:
            view = client.job(job)
        return [part["revision"] for part in view["parts"] if part["state"] == "running"]

    good: list[str] = []

    def changed() -> bool:
        good[:] = revisions()
        return len(good) == 2 and first not in good

    lab.until(changed, "both changed", SOON_S)
    assert ran(lab, lab[0], job_file(tmp_path, "waves", "exit 3", Count=2, Update=update)) == job

    def gone_back() -> bool:
        with lab[0].client() as client:
            reason = client.job(job)["reason"]
        return "gone back" in reason and revisions() == good

    lab.until(gone_back, "both run what they did", SOON_S)


def test_it_is_stopped_from_any_peer_without_its_coordinator(lab: Lab, tmp_path: Path) -> None:
    file = job_file(tmp_path, "ended", Count=2, Constraints=away_from(lab[0]))
    job = ran(lab, lab[0], file)
    lab.until(lambda: len(hosts(lab[1], job)) == 2, "it runs", SOON_S)
    lab.kill(lab[0])
    stopped = lab.shoal(lab[2], "job", "stop", "ended")
    assert stopped.code == 0 and "stopped on" in stopped.err, stopped
    lab.until(lambda: not any(map(supervisors_of, lab.devices)), "nothing runs", SOON_S)
    with lab[3].client() as client:
        assert client.job(job)["state"] == "stopped"
