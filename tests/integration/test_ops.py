"""Ops jobs on real agents: once on every device, each with its own answer, whatever happens."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from protocol.moment import format_moment
from tests.integration.gated import Gated
from tests.lab import Device, Lab, command_at, environment_of, process_job

UNKNOWN = 125


@pytest.fixture(scope="module")
def three() -> Iterator[Lab]:
    lab = Lab(3)
    for device in lab.devices:
        device.flags = ["--label", f"place={device.name}"]
    with lab:
        yield lab


@pytest.fixture
def lab(three: Lab) -> Iterator[Lab]:
    """All three alive, before and after."""
    yield three
    three.start(*(device for device in three.devices if device.process is None))


@pytest.fixture
def gated(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Gated]:
    made = Gated(lab, request.node.name)
    yield made
    made.open()


def ops_job(*command: str, **more: Any) -> dict[str, Any]:
    job = process_job(*command, **more)
    del job["Count"]
    return {**job, "Type": "ops"}


def slot_of(device: Device, at: Device, job: str) -> dict[str, Any]:
    with at.client() as client:
        slots = client.job(job)["slots"]
    return next((slot for slot in slots if slot["executor"] == device.peer), {})


def executing(lab: Lab, at: Device, *words: str) -> subprocess.Popen[str]:
    """`shoal exec`, going on."""
    return subprocess.Popen(
        [*command_at(at), "exec", *words],
        env=environment_of(at),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_exec_runs_once_on_each_device_and_tells_their_lines_apart(lab: Lab) -> None:
    script = "echo out of $SHOAL_PEER_ID; echo err >&2"
    done = lab.shoal(lab[0], "exec", "--all", "--", "sh", "-c", script)
    assert done.code == 0, done
    lines = {f"{device.name}: out of {device.peer}" for device in lab.devices}
    assert set(done.out.splitlines()) == lines
    assert all(f"{device.name}: err" in done.err.splitlines() for device in lab.devices)
    assert "shoal: done on 3 devices" in done.err


def test_exec_goes_to_those_with_a_label(lab: Lab) -> None:
    done = lab.shoal(lab[0], "exec", "--where", "place=d01", "--", "uname", "-m")
    assert (done.code, done.out) == (0, f"d01: {os.uname().machine}\n")
    done = lab.shoal(lab[0], "exec", "--where", "place=nowhere", "--", "true")
    assert done.code == 1 and "no peer that is alive matches" in done.err, done


def test_a_partial_failure_is_told_and_the_worst_exit_code_is_ours(lab: Lab) -> None:
    script = f"case $SHOAL_PEER_ID in {lab[1].peer}) exit 4;; {lab[2].peer}) exit 9;; esac"
    done = lab.shoal(lab[0], "exec", "--all", "--", "sh", "-c", script)
    assert done.code == 9, done
    assert "2 of 3 not done: " in done.err
    assert "d01 failed with exit code 4" in done.err and "d02 failed with exit code 9" in done.err
    with lab[0].client() as client:
        job = client.jobs()["jobs"][0]["id"]
    assert lab.shoal(lab[2], "job", "wait", job).code == 9
    described = lab.shoal(lab[2], "job", "describe", job).out
    assert "d01" in described and "failed" in described
    why = lab.shoal(lab[0], "why", job).out
    assert "3 of 3 peers" in why and "d01  is on the list" in why
    executions = lab.shoal(lab[0], "job", "executions", job).out
    codes = {line.split()[3]: line.split()[5] for line in executions.splitlines()[1:]}
    assert codes == {"d00": "0", "d01": "4", "d02": "9"}


def test_what_an_agent_killed_with_its_task_ran_is_unknown_and_runs_no_more(
    lab: Lab, gated: Gated
) -> None:
    going = executing(lab, lab[0], "--all", "--", *gated.command())
    lab.until(lambda: len(gated.executions()) == 3, "it runs on all three")
    lab.power_off(lab[1])
    lab.start(lab[1])
    gated.open()
    out, err = going.communicate(timeout=60)
    assert going.returncode == UNKNOWN, (out, err)
    assert "1 of 3 not done: d01 unknown: unknown how it ended" in err
    assert len(gated.executions()) == 3, "it was started once on each"


def test_who_lost_its_database_says_that_it_does_not_know_and_runs_nothing_again(
    lab: Lab, gated: Gated
) -> None:
    going = executing(lab, lab[0], "--all", "--", *gated.command())
    lab.until(lambda: len(gated.executions()) == 3, "it runs on all three")
    lab.power_off(lab[1])
    for path in lab[1].data_dir.glob("shoal.db*"):
        path.unlink()
    lab.start(lab[1])
    gated.open()
    out, err = going.communicate(timeout=60)
    assert going.returncode == UNKNOWN, (out, err)
    assert "1 of 3 not done: d01 unknown" in err
    assert len(gated.executions()) == 3, "it was started once on each"


def test_a_killed_agent_adopts_what_it_runs(lab: Lab, gated: Gated) -> None:
    going = executing(lab, lab[0], "--where", "place=d02", "--", *gated.command(6))
    lab.until(gated.executions, "it runs")
    lab.kill(lab[2])
    lab.start(lab[2])
    gated.open()
    out, err = going.communicate(timeout=60)
    assert going.returncode == 6, (out, err)
    assert len(gated.executions()) == 1


def test_another_device_goes_on_with_the_list_when_the_coordinator_is_killed(
    lab: Lab, gated: Gated
) -> None:
    with lab[0].client() as client:
        job = str(client.submit(ops_job(*gated.command(3)))["job"])
    lab.until(lambda: len(gated.executions()) == 3, "it runs on all three")
    lab.kill(lab[0])
    gated.open()
    done = lab.shoal(lab[1], "job", "wait", job)
    assert done.code == UNKNOWN and "1 of 3" not in done.err, done
    assert [slot_of(device, lab[1], job)["state"] for device in lab.devices] == [
        "lost",
        "failed",
        "failed",
    ]
    lab.start(lab[0])
    lab.until(lambda: slot_of(lab[0], lab[1], job)["exit_code"] == 3, "it tells of its own end")
    assert len(gated.executions()) == 3


def test_an_open_job_reaches_a_device_that_joins_later(lab: Lab) -> None:
    end = format_moment(int(time.time()) + 3600)
    with lab[0].client() as client:
        submitted = client.submit(ops_job("sh", "-c", "echo here; exit 2", NotAfter=end))
        job = str(submitted["job"])
    lab.until(lambda: slot_of(lab[1], lab[0], job).get("exit_code") == 2, "it ran on the others")
    late = lab.add("late")
    lab.start(late)
    lab.until(lambda: slot_of(late, lab[0], job).get("exit_code") == 2, "it ran on the new one")
    with lab[1].client() as client:
        view = client.job(job)
        assert view["state"] == "running" and "open until" in view["reason"], view
        client.stop(job)
    ended = lab.shoal(lab[0], "job", "wait", job)
    assert ended.code == 2, ended
    assert "late: here" in lab.shoal(lab[1], "logs", job).out
