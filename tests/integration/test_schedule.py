"""Schedules and templates on real agents: one run a slot, whoever dies; one run a key."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from protocol.ids import JobId, PeerId, rendezvous
from tests.lab import Device, Lab

SOON_S = 60.0  # on a loaded machine; a slot comes every three seconds
EVERY_S = 3


@pytest.fixture(scope="module")
def three() -> Iterator[Lab]:
    lab = Lab(3)
    for device in lab.devices:  # the machine of the tests may have no clock that tells of itself
        device.flags.append("--trust-clock")
    with lab:
        yield lab


@pytest.fixture
def lab(three: Lab) -> Iterator[Lab]:
    """All three alive, before and after; what a test scheduled is deleted."""
    yield three
    three.start(*(device for device in three.devices[:3] if device.process is None))
    with three[0].client() as client:
        for view in client.jobs(limit=1000)["jobs"]:
            if "parts" in view:
                client.delete(view["id"])


@pytest.fixture
def log() -> Iterator[Path]:
    """A file that tasks can write to, whatever user they run as."""
    directory = Path(tempfile.mkdtemp(prefix="shoal-test-"))
    directory.chmod(0o777)
    yield directory / "runs"
    shutil.rmtree(directory, ignore_errors=True)  # a task may be writing still


def written(directory: Path, name: str, script: str, **more: Any) -> str:
    engine = {"Type": "process", "Params": {"Command": ["sh", "-c", script]}}
    path = directory / f"{name}.yaml"
    tree = {"Name": name, "Type": "batch", "Tasks": [{"Engine": engine}], **more}
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def scheduled(lab: Lab, at: Device, file: str) -> str:
    done = lab.shoal(at, "job", "run", file)
    assert done.code == 0, done
    return done.out.strip()


def runs(at: Device, job: str) -> list[dict[str, Any]]:
    """Its runs that have ended, as the shoal knows them, the latest first."""
    with at.client() as client:
        shown = client.job(job)["schedule"]["runs"]
    return [run for run in shown if run["state"] != "running"]


def every(seconds: int = EVERY_S, **more: Any) -> dict[str, Any]:
    return {"Schedule": {"Cron": f"*/{seconds} * * * * *", **more}}


def lines_of(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def once_each(log: Path) -> bool:
    """Each run has left its job's id there, and left it once."""
    return all(times == 1 for times in Counter(lines_of(log)).values())


def test_each_slot_runs_once_and_is_shown_everywhere(lab: Lab, tmp_path: Path, log: Path) -> None:
    job = scheduled(
        lab, lab[0], written(tmp_path, "tick", f"echo $SHOAL_JOB_ID >> {log}", **every())
    )
    lab.until(lambda: len(runs(lab[1], job)) >= 3, "three runs have ended", SOON_S)
    shown = runs(lab[2], job)
    slots = [run["slot_ms"] for run in shown]
    assert all(slot % (1000 * EVERY_S) == 0 for slot in slots) and len(set(slots)) == len(slots)
    assert {run["state"] for run in shown} == {"completed"}
    assert once_each(log)
    described = lab.shoal(lab[2], "job", "describe", "tick").out
    assert f"*/{EVERY_S} * * * * * (UTC)" in described and "completed" in described
    assert "scheduled, next 20" in lab.shoal(lab[1], "job", "list").out
    assert lab.shoal(lab[1], "job", "stop", "tick").code == 0
    assert "stopped" in lab.shoal(lab[0], "job", "describe", "tick").out


def test_another_goes_on_where_the_first_rank_is_killed(
    lab: Lab, tmp_path: Path, log: Path
) -> None:
    job = scheduled(
        lab, lab[0], written(tmp_path, "go-on", f"echo $SHOAL_JOB_ID >> {log}", **every())
    )
    lab.until(lambda: len(runs(lab[0], job)) >= 1, "it has run", SOON_S)
    ranks = rendezvous(JobId(job), [PeerId(device.peer) for device in lab.devices[:3]])
    first = next(device for device in lab.devices if device.peer == ranks[0])
    other = next(device for device in lab.devices if device.peer == ranks[1])
    lab.kill(first)
    before = len(lines_of(log))
    lab.until(lambda: len(lines_of(log)) >= before + 2, "it goes on", SOON_S)
    lab.until(lambda: len(runs(other, job)) >= 1, "and is known", SOON_S)
    # What was under way on the device as it died is placed again: at least once is the promise.
    again = [times for times in Counter(lines_of(log)).values() if times > 1]
    assert again in ([], [2])


def test_each_device_runs_its_own(lab: Lab, tmp_path: Path, log: Path) -> None:
    script = f"echo $SHOAL_PEER_ID >> {log}"
    scheduled(lab, lab[1], written(tmp_path, "own", script, **every(Scope="each")))
    peers = {device.peer for device in lab.devices[:3]}
    lab.until(lambda: set(lines_of(log)) == peers, "all three have run it", SOON_S)


def test_an_ops_job_runs_once_on_each_device_in_each_slot_whoever_is_killed(
    lab: Lab, tmp_path: Path, log: Path
) -> None:
    script = f"echo $SHOAL_JOB_ID/$SHOAL_PEER_ID >> {log}"
    file = written(tmp_path, "everywhere", script, Type="ops", **every())
    job = scheduled(lab, lab[1], file)
    names = {device.name for device in lab.devices[:3]}

    def everywhere() -> bool:
        done = [run for run in runs(lab[2], job) if run["state"] == "completed"]
        return sum({*run["on"]} == names for run in done) >= 2

    lab.until(everywhere, "two runs have ended on all", SOON_S)
    ranks = rendezvous(JobId(job), [PeerId(device.peer) for device in lab.devices[:3]])
    first = next(device for device in lab.devices if device.peer == ranks[0])
    lab.kill(first)
    lab.until(lambda: len(slots_since(log, first)) >= 2, "the others go on", SOON_S)
    before = len(lines_of(log))
    lab.start(first)

    def listed() -> bool:
        return any(line.endswith(first.peer) for line in lines_of(log)[before:])

    lab.until(listed, "and it is on the list", SOON_S)
    assert once_each(log)


def slots_since(log: Path, gone: Device) -> set[str]:
    """The runs that others have begun since a device has."""
    lines = [line.split("/") for line in lines_of(log)]
    known = {job for job, peer in lines if peer == gone.peer}
    return {job for job, _ in lines if job not in known}


def test_a_wrong_schedule_is_told_of_by_its_field(lab: Lab, tmp_path: Path) -> None:
    file = written(tmp_path, "wrong", "true", Schedule={"Cron": "61 * * * *"})
    refused = lab.shoal(lab[0], "job", "run", file)
    assert refused.code == 2 and "Schedule.Cron: wrong minute '61'" in refused.err
    file = written(tmp_path, "wrong", "true", Schedule={"Cron": "* * * * *", "TimeZone": "Mars"})
    refused = lab.shoal(lab[0], "job", "run", file)
    assert refused.code == 2 and "Schedule.TimeZone: unknown time zone 'Mars'" in refused.err


def test_one_key_is_one_run_at_whatever_device(lab: Lab, tmp_path: Path) -> None:
    blanks = [{"Name": "what"}, {"Name": "end", "Default": "!"}]
    file = written(tmp_path, "hello", "echo 'hello ${what}${end}'", Parameters=blanks)
    assert lab.shoal(lab[0], "template", "set", "hello", file).code == 0
    lab.until(
        lambda: "hello" in lab.shoal(lab[2], "template", "list").out, "everybody knows it", SOON_S
    )
    first = lab.shoal(lab[1], "template", "run", "hello", "-p", "what=you", "--key", "k1")
    again = lab.shoal(lab[2], "template", "run", "hello", "-p", "what=you", "--key", "k1")
    assert first.code == again.code == 0
    job = first.out.strip()
    assert again.out.strip() == job and "is there already" in again.err
    assert lab.shoal(lab[0], "job", "wait", job).code == 0
    assert lab.shoal(lab[2], "logs", job).out == "hello you!\n"
    refused = lab.shoal(lab[1], "template", "run", "hello", "-p", "whom=you")
    assert refused.code == 2 and "unknown parameter whom; allowed: what, end" in refused.err
    assert "missing parameter what" in lab.shoal(lab[1], "template", "run", "hello").err
    assert lab.shoal(lab[2], "template", "delete", "hello").code == 0
    assert lab.shoal(lab[2], "template", "show", "hello").code == 4
