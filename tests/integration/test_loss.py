"""Agents, tasks and whole devices are lost in the middle of a job; the job is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.gated import Gated
from tests.lab import Device, Lab, command_at, environment_of, process_job, supervisors_of

FOUND_S = 40.0  # a lost peer's work is placed again; the aim is 2 s killed, 10 s frozen


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
    for device in three.devices:
        if device.process is not None:
            three.thaw(device)
    three.start(*(device for device in three.devices if device.process is None))


@pytest.fixture
def gated(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Gated]:
    made = Gated(lab, request.node.name)
    yield made
    made.open()


def submit(lab: Lab, at: Device, gated: Gated, code: int = 0, **fields: Any) -> str:
    with at.client() as client:
        return str(client.submit(process_job(*gated.command(code), **fields))["job"])


def job_at(device: Device, job: str) -> dict[str, Any]:
    with device.client() as client:
        return client.job(job)


def until(lab: Lab, at: Device, job: str, what: str, holds: Callable[[Any], bool]) -> Any:
    """The job as `at` sees it, once its first slot is as wanted."""

    def looked() -> dict[str, Any] | None:
        view = job_at(at, job)
        return view if holds(view["slots"][0]) else None

    return lab.until(looked, what, FOUND_S)


def running_on(lab: Lab, at: Device, job: str, gated: Gated) -> Device:
    """The device that runs it, once its task has begun."""
    view = until(lab, at, job, "it runs", lambda slot: slot["state"] == "running")
    lab.until(gated.executions, "its task has begun")
    return next(d for d in lab.devices if d.peer == view["slots"][0]["executor"])


def only_on(device: Device) -> dict[str, Any]:
    return {"Constraints": [{"Key": "place", "Operator": "=", "Values": [device.name]}]}


def not_on(device: Device) -> dict[str, Any]:
    return {"Constraints": [{"Key": "place", "Operator": "!=", "Values": [device.name]}]}


STAY = {"Disconnect": {"Replace": False}}


# ---- the agent alone --------------------------------------------------------------------------


def test_a_killed_agent_adopts_its_running_task(lab: Lab, gated: Gated) -> None:
    job = submit(lab, lab[0], gated, 5, **only_on(lab[1]), **STAY)
    running_on(lab, lab[0], job, gated)
    lab.kill(lab[1])
    assert supervisors_of(lab[1]), "the task runs on"
    lab.start(lab[1])
    gated.open()
    done = lab.shoal(lab[0], "job", "wait", job)
    assert done.code == 5, done
    assert len(gated.executions()) == 1, "it was not started again"
    assert lab.shoal(lab[2], "logs", job).out == "begun\nthrough\n"


def test_a_killed_agent_learns_how_its_task_ended_meanwhile(lab: Lab, gated: Gated) -> None:
    job = submit(lab, lab[0], gated, 6, **only_on(lab[1]), **STAY)
    running_on(lab, lab[0], job, gated)
    lab.kill(lab[1])
    gated.open()
    lab.until(lambda: not supervisors_of(lab[1]), "the task has ended, and nobody saw it")
    lab.start(lab[1])
    done = lab.shoal(lab[2], "job", "wait", job)
    assert done.code == 6, done
    assert len(gated.executions()) == 1


def test_a_device_that_coordinates_and_runs_alone_comes_back_to_its_job(
    lab: Lab, gated: Gated
) -> None:
    job = submit(lab, lab[2], gated, 0, **only_on(lab[2]), **STAY)
    running_on(lab, lab[2], job, gated)
    lab.kill(lab[2])
    lab.start(lab[2])
    gated.open()
    assert lab.shoal(lab[2], "job", "wait", job).code == 0
    assert len(gated.executions()) == 1


def test_a_planned_restart_moves_nothing(lab: Lab, gated: Gated) -> None:
    job = submit(lab, lab[0], gated, 0, **not_on(lab[0]))
    executor = running_on(lab, lab[0], job, gated)
    assert executor.process is not None
    executor.process.terminate()
    assert executor.process.wait(60) == 0
    executor.process = None
    lab.start(executor)
    gated.open()
    assert lab.shoal(lab[0], "job", "wait", job).code == 0
    assert len(gated.executions()) == 1
    assert job_at(lab[0], job)["slots"][0]["executor"] == executor.peer


def test_who_watches_a_job_is_told_when_its_own_agent_goes(lab: Lab, gated: Gated) -> None:
    run = ("run", "--name", "watched", "--constraint", "place!=d00", "--")
    command = [*command_at(lab[0]), *run, *gated.command()]
    watching = subprocess.Popen(
        command, env=environment_of(lab[0]), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with watching:
        assert watching.stdout is not None and watching.stdout.readline() == b"begun\n"
        lab.kill(lab[0])
        _, err = watching.communicate(timeout=30)
    assert watching.returncode == 3, err
    assert b"the job goes on" in err and b"shoal logs -f" in err
    gated.open()
    assert lab.shoal(lab[1], "job", "wait", "watched").code == 0


# ---- the whole device -------------------------------------------------------------------------


def test_work_of_a_device_without_power_is_placed_again(lab: Lab, gated: Gated) -> None:
    job = submit(lab, lab[0], gated, 0, **not_on(lab[0]))
    lost = running_on(lab, lab[0], job, gated)
    begun = time.monotonic()
    lab.power_off(lost)
    until(
        lab, lab[0], job, "it runs again",
        lambda slot: slot["executor"] != lost.peer and slot["state"] == "running",
    )  # fmt: skip
    print(f"placed again after {time.monotonic() - begun:.1f} s")
    gated.open()
    done = lab.shoal(lab[0], "job", "wait", job)
    assert done.code == 0, done
    told = [entry["state"] for entry in job_at(lab[0], job)["executions"]]
    assert told == ["lost", "completed"]


def test_a_device_that_comes_back_from_a_power_cut_says_what_it_lost(
    lab: Lab, gated: Gated
) -> None:
    job = submit(lab, lab[0], gated, 0, **only_on(lab[1]), Retry={"Attempts": 1})
    running_on(lab, lab[0], job, gated)
    lab.power_off(lab[1])
    lab.start(lab[1])
    done = lab.shoal(lab[0], "job", "wait", job)
    assert done.code == 125, done
    assert "d01" in done.err, done


def test_work_of_a_frozen_device_is_placed_again_and_stops_there_when_it_thaws(
    lab: Lab, gated: Gated
) -> None:
    job = submit(lab, lab[0], gated, 0, **not_on(lab[0]))
    frozen = running_on(lab, lab[0], job, gated)
    (supervisor,) = supervisors_of(frozen)
    begun = time.monotonic()
    lab.freeze(frozen)
    until(
        lab, lab[0], job, "it runs elsewhere",
        lambda slot: slot["executor"] != frozen.peer and slot["state"] == "running",
    )  # fmt: skip
    print(f"placed again after {time.monotonic() - begun:.1f} s")
    assert os.path.exists(f"/proc/{supervisor}")
    lab.thaw(frozen)
    lab.until(lambda: not supervisors_of(frozen), "the superseded task is stopped")
    gated.open()
    assert lab.shoal(lab[0], "job", "wait", job).code == 0
    lab.wait_alive(*lab.devices)


# ---- the coordinator --------------------------------------------------------------------------


def test_another_takes_over_when_the_coordinator_is_killed(lab: Lab, gated: Gated) -> None:
    job = submit(lab, lab[0], gated, 7, **not_on(lab[0]))
    running_on(lab, lab[0], job, gated)
    lab.kill(lab[0])

    def taken() -> bool:
        view = job_at(lab[1], job)
        return view["coordinator"] != lab[0].peer and view["term"] > 1

    lab.until(taken, "another coordinates", FOUND_S)
    gated.open()
    for device in lab.devices[1:]:
        done = lab.shoal(device, "job", "wait", job)
        assert done.code == 7, done
    assert len(gated.executions()) == 1, "its task ran on all the while"
    lab.start(lab[0])
    assert lab.shoal(lab[0], "job", "wait", job).code == 7


def test_a_result_that_came_while_the_coordinator_was_away_is_known_to_all(
    lab: Lab, gated: Gated
) -> None:
    job = submit(lab, lab[0], gated, 0, **not_on(lab[0]))
    running_on(lab, lab[0], job, gated)
    lab.kill(lab[0])
    gated.open()
    lab.until(lambda: job_at(lab[2], job)["state"] == "completed", "it is known", FOUND_S)
    lab.start(lab[0])
    for device in lab.devices:
        assert lab.shoal(device, "job", "wait", job).code == 0
    assert len(gated.executions()) == 1


def test_a_frozen_coordinator_is_replaced_and_gives_way_when_it_thaws(
    lab: Lab, gated: Gated
) -> None:
    job = submit(lab, lab[0], gated, 0, **not_on(lab[0]))
    running_on(lab, lab[0], job, gated)
    lab.freeze(lab[0])
    lab.until(lambda: job_at(lab[1], job)["term"] > 1, "another coordinates", FOUND_S)
    lab.thaw(lab[0])
    gated.open()
    for device in lab.devices:
        assert lab.shoal(device, "job", "wait", job).code == 0
    lab.until(lambda: job_at(lab[0], job)["term"] > 1, "the former one has given way")
    assert len(gated.executions()) == 1
    lab.wait_alive(*lab.devices)


def test_a_job_outlives_the_loss_of_coordinator_and_executor_together(
    lab: Lab, gated: Gated
) -> None:
    job = submit(lab, lab[0], gated, 0, **not_on(lab[0]))
    executor = running_on(lab, lab[0], job, gated)
    survivor = next(d for d in lab.devices[1:] if d is not executor)
    begun = time.monotonic()
    lab.until(lambda: time.monotonic() > begun + 1, "its award has reached a standby as well")
    for device in (lab[0], executor):
        lab.power_off(device)
    until(
        lab, survivor, job, "the survivor runs it",
        lambda slot: slot["executor"] == survivor.peer and slot["state"] == "running",
    )  # fmt: skip
    gated.open()
    assert lab.shoal(survivor, "job", "wait", job).code == 0


# ---- all of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_jobs_are_known_after_all_agents_were_restarted(
    lab: Lab, gated: Gated, number: signal.Signals
) -> None:
    ended = lab.shoal(lab[1], "run", "--name", "before", "--", "sh", "-c", "echo kept; exit 3")
    assert ended.code == 3
    job = submit(lab, lab[0], gated, 4, **not_on(lab[0]))
    running_on(lab, lab[0], job, gated)
    for device in lab.devices:
        os.kill(device.pid, number)
    for device in lab.devices:
        assert device.process is not None
        device.process.wait(60)
        device.process = None
    lab.start(*lab.devices)
    for device in lab.devices:
        listed = json.loads(lab.shoal(device, "jobs", "--json").out)["jobs"]
        assert {job, "before"} <= {value for view in listed for value in (view["id"], view["name"])}
    gated.open()
    for device in lab.devices:
        done = lab.shoal(device, "job", "wait", job)
        assert done.code == 4, done
    assert len(gated.executions()) == 1, "it was adopted"
    before = next(view["id"] for view in listed if view["name"] == "before")
    assert lab.shoal(lab[2], "logs", before).out == "kept\n"
    assert lab.shoal(lab[2], "job", "wait", before).code == 3


def test_nothing_of_a_test_is_left(lab: Lab) -> None:
    """No capacity stays taken by what was lost: each device offers all it has."""
    for device in lab.devices:
        with device.client() as client:
            lab.until(lambda client=client: client.status()["running"] == 0, "nothing runs")
