"""Daemons on real agents: on every device, also on those that join, come back or start alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab import (
    Device,
    Done,
    Lab,
    children_of,
    command_at,
    environment_of,
    supervisors_of,
)
from tests.programs import started

SOON_S = 60.0  # on a loaded machine; the budget for attaching is 2 s, see scripts/bench
SCRIPT = "echo up on $SHOAL_PEER_ID; exec sleep 1000"


@pytest.fixture(scope="module")
def three() -> Iterator[Lab]:
    with Lab(3) as lab:
        yield lab


@pytest.fixture
def lab(three: Lab) -> Iterator[Lab]:
    """All three alive, before and after; what a test ran is deleted, here and there."""
    yield three
    three.start(*(device for device in three.devices[:3] if device.process is None))
    with three[0].client() as client:
        for view in client.jobs(type="daemon")["jobs"]:
            client.delete(view["id"])
    three.until(lambda: not any(map(supervisors_of, three.devices)), "nothing runs any more")


def job_file(directory: Path, name: str, script: str = SCRIPT, **more: Any) -> str:
    engine = {"Type": "process", "Params": {"Command": ["sh", "-c", script]}}
    path = directory / f"{name}.yaml"
    path.write_text(
        yaml.safe_dump({"Name": name, "Type": "daemon", "Tasks": [{"Engine": engine}], **more})
    )
    return str(path)


def ran(lab: Lab, at: Device, file: str) -> str:
    done = lab.shoal(at, "job", "run", file)
    assert done.code == 0, done
    return done.out.strip()


def parts(at: Device, job: str) -> dict[str, dict[str, Any]]:
    with at.client() as client:
        return {part["peer"]: part for part in client.job(job)["parts"]}


def runs_on(at: Device, job: str, *devices: Device) -> bool:
    """Whether just these run it, as they say themselves when `at` asks."""
    running = [peer for peer, part in parts(at, job).items() if part["state"] == "running"]
    return sorted(running) == sorted(device.peer for device in devices)


def test_it_runs_everywhere_and_is_seen_from_everywhere(lab: Lab, tmp_path: Path) -> None:
    file = job_file(tmp_path, "seen")
    job = ran(lab, lab[0], file)
    lab.until(lambda: runs_on(lab[1], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    again = lab.shoal(lab[2], "job", "run", file)
    assert (again.code, again.out.strip()) == (0, job) and "nothing changed" in again.err
    listed = lab.shoal(lab[1], "job", "list").out
    assert "running (3 of 3)" in listed and "d00, d01, d02" in listed
    described = lab.shoal(lab[2], "job", "describe", "seen").out
    assert described.count("running") >= 3 and "Coordinator" not in described
    assert lab.shoal(lab[1], "job", "executions", "seen").out.count("running") == 3
    assert lab.shoal(lab[1], "why", "seen").out.count("running") == 4
    output = lab.shoal(lab[2], "logs", "seen").out
    for device in lab.devices[:3]:
        assert f"up on {device.peer}" in output


def test_following_it_shows_every_device_and_ends_well_when_it_is_stopped(
    lab: Lab, tmp_path: Path
) -> None:
    words = [*command_at(lab[0]), "job", "run", job_file(tmp_path, "followed"), "--follow"]
    with started(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment_of(lab[0]), text=True
    ) as follower:
        assert follower.stdout is not None and follower.stderr is not None
        lines = [follower.stdout.readline() for _ in range(3)]
        assert sorted(line[:11] for line in lines) == ["d00: up on ", "d01: up on ", "d02: up on "]
        assert lab.shoal(lab[1], "job", "stop", "followed").code == 0
        assert follower.wait(SOON_S) == 0
        told = follower.stderr.read()
    assert "stopped" in told, told


def test_a_task_that_is_killed_is_started_again(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "killed"))
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    before = parts(lab[0], job)[lab[1].peer]["execution"]
    (supervisor,) = supervisors_of(lab[1])
    for task in children_of(supervisor):
        os.kill(task, signal.SIGKILL)

    def restarted() -> bool:
        part = parts(lab[0], job)[lab[1].peer]
        return part["restarts"] == 1 and part["state"] == "running"

    lab.until(restarted, "it is started again", SOON_S)
    part = parts(lab[0], job)[lab[1].peer]
    assert part["execution"] != before
    assert [past["exit_code"] for past in part["past"]] == [137]


def test_an_agent_that_is_killed_finds_its_daemon_running(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "adopted"))
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    before = parts(lab[0], job)[lab[1].peer]["execution"]
    lab.kill(lab[1])
    lab.start(lab[1])
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    assert parts(lab[0], job)[lab[1].peer]["execution"] == before
    assert len(supervisors_of(lab[1])) == 1


def test_who_was_away_when_it_was_deleted_stops_it(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "away"))
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    lab.kill(lab[2])
    done = lab.shoal(lab[0], "job", "delete", "away")
    assert done.code == 0 and "deleted on 2 devices" in done.err, done
    assert "not heard of yet by d02" in done.err
    assert supervisors_of(lab[2]), "its task runs on without its agent"
    lab.start(lab[2])
    lab.until(lambda: not supervisors_of(lab[2]), "it is stopped there too", SOON_S)
    assert lab.shoal(lab[1], "job", "describe", "away").code == 4
    assert lab.shoal(lab[1], "job", "describe", job).out.count("deleted") >= 1


def test_a_device_that_starts_alone_starts_its_daemons(lab: Lab, tmp_path: Path) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "alone"))
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    for device in lab.devices[:3]:
        lab.power_off(device)
    lab.start(lab[1], bootstrap=False)
    # What was killed may be a zombie for a moment, which nothing tells from a task that runs.
    lab.until(lambda: len(supervisors_of(lab[1])) == 1, "it runs on the one that is there", SOON_S)
    lab.until(lambda: runs_on(lab[1], job, lab[1]), "it says so", SOON_S)
    assert len(supervisors_of(lab[1])) == 1


def test_it_attaches_to_a_device_that_joins_with_its_submitter_gone(
    lab: Lab, tmp_path: Path
) -> None:
    job = ran(lab, lab[0], job_file(tmp_path, "joined"))
    lab.until(lambda: runs_on(lab[1], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    lab.kill(lab[0])
    late = lab.add("d03")
    lab.start(late)
    lab.until(lambda: parts(late, job)[late.peer]["state"] == "running", "it attaches", SOON_S)
    assert "up on" in first_output(lab, late, job).out
    lab.power_off(late)
    lab.devices.remove(late)


def first_output(lab: Lab, at: Device, job: str) -> Done:
    return lab.until(
        lambda: done if f"up on {at.peer}" in (done := lab.shoal(at, "logs", job)).out else None,
        "its output is there",
        SOON_S,
    )


def test_an_update_that_does_not_last_is_gone_back_from(lab: Lab, tmp_path: Path) -> None:
    update = {"Update": {"HealthyAfter": "2s", "MaxParallel": 3}}
    job = ran(lab, lab[0], job_file(tmp_path, "updated", **update))
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    good = {part["revision"] for part in parts(lab[0], job).values()}
    assert len(good) == 1
    lab.until(lambda: settled(lab, job), "it counts as good", SOON_S)
    ran(lab, lab[0], job_file(tmp_path, "updated", "exit 1", **update))
    lab.until(lambda: told(lab, "daemon.rolled-back") == 3, "all have gone back", SOON_S)
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    assert {part["revision"] for part in parts(lab[0], job).values()} == good


def settled(lab: Lab, job: str) -> bool:
    """Whether each has run it for longer than HealthyAfter."""
    latest_ms = max(part["started_ms"] for part in parts(lab[0], job).values())
    return time.time_ns() // 1_000_000 - latest_ms > 3000


def told(lab: Lab, kind: str) -> int:
    """How many devices have told of it."""
    count = 0
    for device in lab.devices[:3]:
        events = lab.shoal(device, "events", "--json").out.splitlines()
        count += any(f'"{kind}"' in line for line in events)
    return count


def test_a_task_that_is_not_well_is_started_again(lab: Lab, tmp_path: Path) -> None:
    """It runs on, and does no work: only its check can tell. As `nobody`, in its own directory."""
    script = "touch well; exec sleep 1000"
    check = {"Exec": ["test", "-e", "well"], "Every": "1s", "Failures": 2}
    file = job_file(tmp_path, "checked", script, Check=check)
    job = ran(lab, lab[0], file)
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    first = parts(lab[0], job)[lab[1].peer]["execution"]
    lab.until(lambda: not parts(lab[0], job)[lab[1].peer]["reason"], "its check passed", SOON_S)
    (lab[1].data_dir / "executions" / first / "work" / "well").unlink()

    def again() -> bool:
        part = parts(lab[0], job)[lab[1].peer]
        return part["restarts"] == 1 and part["state"] == "running" and not part["reason"]

    lab.until(again, "it is started again and well", SOON_S)
    part = parts(lab[0], job)[lab[1].peer]
    assert part["past"][0]["reason"] == "unhealthy: test ended with exit code 1"
    assert parts(lab[0], job)[lab[2].peer]["restarts"] == 0


def test_an_earlier_version_is_run_again(lab: Lab, tmp_path: Path) -> None:
    now = {"HealthyAfter": "1s", "MaxParallel": 3}
    job = ran(lab, lab[0], job_file(tmp_path, "versions", Update=now))
    lab.until(lambda: runs_on(lab[0], job, *lab.devices[:3]), "it runs on all three", SOON_S)
    ran(lab, lab[1], job_file(tmp_path, "versions", "exec sleep 2000", Update=now))
    listed = lab.shoal(lab[2], "job", "versions", "versions", "--diff")
    assert listed.code == 0 and '-> "exec sleep 2000"' in listed.out, listed
    done = lab.shoal(lab[2], "job", "rollback", "versions")
    assert done.code == 0 and "generation 1 runs again as 3" in done.err, done

    def back() -> bool:
        with lab[0].client() as client:
            view = client.job(job)
        ours = all(part["revision"] == view["revision"] for part in view["parts"])
        return view["generation"] == 3 and ours and runs_on(lab[0], job, *lab.devices[:3])

    lab.until(back, "all three run it again", SOON_S)
