"""The watch over services: what it says of a shoal that keeps its word, and of another."""

from __future__ import annotations

from random import Random

import pytest

from protocol.events import ControlRequested, SubmitRequested
from protocol.execution import State
from protocol.ids import JobId, job_id
from protocol.job import JobSpec
from protocol.records import Desired
from protocol.resources import Resources
from protocol.sim.host import Host
from protocol.sim.invariants import Invariants
from protocol.sim.keepers import draw_service
from protocol.sim.run import build
from protocol.sim.servicewatch import ServiceWatch, services_need
from protocol.sim.trace import Trace
from protocol.sim.world import World

NAME = "service-0"


def _running(seed: int = 3) -> tuple[World, Invariants, JobId]:
    """A shoal of four that run a service."""
    world = build("lab", 4, Random(1), Trace())
    invariants = Invariants(world, 1, exclusive=True)
    world.watcher = invariants
    world.heap.run(5.0)
    world.devices[0].handle(SubmitRequested(1, _spec(), NAME))
    world.heap.run(20.0)
    shoal = world.devices[0].keyring.shoal
    return world, invariants, job_id(shoal, "default", "standing", NAME)


def _spec() -> JobSpec:
    tree = draw_service(NAME, 0, Random(3)).to_plain()
    tree |= {"Count": 2, "Spread": True}
    for key in ("Constraints", "Disconnect"):
        tree.pop(key, None)
    command = ["simulate", "100000000", "100000000", "0"]
    task = {"Engine": {"Type": "process", "Params": {"Command": [*command]}}}
    return JobSpec.from_plain({**tree, "Tasks": [task]})


def _texts(watch: ServiceWatch) -> str:
    return "\n".join(text for _, text in watch.unrest())


def test_a_service_that_runs_in_full_is_at_rest() -> None:
    world, invariants, job = _running()
    assert invariants.violations == [] and invariants.services.unrest() == []
    tasks = [task for d in world.devices for task in d.host.running if task.job == job]
    assert len(tasks) == 2 and all(task.service for task in tasks)
    needs = [services_need(d.node) for d in world.devices if d.node is not None]
    assert sum(each != Resources() for each in needs) == 2


def test_a_slot_that_runs_nowhere_and_one_that_runs_twice_are_noticed() -> None:
    world, invariants, _ = _running()
    device = next(d for d in world.devices if d.host.running)
    (task,) = device.host.running
    task.end(1, "unseen", world.heap.now)
    assert "runs 0 times" in _texts(invariants.services)
    assert device.node is not None
    execution = device.node.executor.executions[task.execution]
    execution.state = State.FAILED
    assert "runs nowhere, and would fit here" in _texts(invariants.services)
    execution.state = State.RUNNING
    device.node.executor.executions[execution.id] = execution
    other = next(
        d for d in world.devices if d.node is not None and d is not device and d.host.running
    )
    assert other.node is not None
    other.node.executor.executions[execution.id] = execution
    texts = _texts(invariants.services)
    assert "has 2 executions" in texts and "are not spread" in texts


def test_one_that_was_stopped_and_runs_on_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, invariants, job = _running()
    monkeypatch.setattr(Host, "stop", lambda self, execution: None)
    world.devices[0].handle(ControlRequested(2, job, Desired.STOPPED))
    world.heap.run(25.0)
    assert f"service {job} runs, and should not" in _texts(invariants.services)


def test_one_that_nobody_coordinates_is_noticed() -> None:
    world, invariants, job = _running()
    for device in world.devices:
        assert device.node is not None
        device.node.coordination.led.pop(job, None)
    assert "has 0 coordinators" in _texts(invariants.services)


def test_a_second_run_of_one_award_is_a_violation() -> None:
    world, invariants, _ = _running()
    device = next(d for d in world.devices if d.host.running)
    (task,) = device.host.running
    assert device.node is not None
    first = device.node.executor.executions[task.execution]
    again = first.again()
    again.state = State.STARTING
    device.node.executor.executions[again.id] = again
    device._carry_out(device.node.executor.lifecycle.start(again, device.now()))
    assert any("runs twice" in violation.text for violation in invariants.violations)
