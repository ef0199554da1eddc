"""People: they call, call again, and are answered."""

from random import Random

from protocol.job import JobType
from protocol.sim.faults import HEAL_S
from protocol.sim.invariants import Invariants
from protocol.sim.people import People, draw_ops, draw_spec
from protocol.sim.run import build
from protocol.sim.trace import Trace
from protocol.sim.world import World


def _people(jobs: int, seed: int = 3) -> tuple[World, People]:
    world = build("lab", 4, Random(1), Trace())
    invariants = Invariants(world, 1, exclusive=True)
    world.watcher = invariants
    people = People(world, invariants, Random(seed))
    people.draw(jobs)
    return world, people


def test_everybody_is_answered_and_some_call_twice() -> None:
    world, people = _people(12)
    assert people.busy
    world.heap.run(HEAL_S)
    assert not people.busy
    assert len(people.calls) > 12
    jobs = {call.key: call.job for call in people.calls if call.job}
    for call in people.calls:
        assert call.error or call.job == jobs[call.key]
    assert set(people.invariants.acknowledged) == set(jobs.values())
    assert people.invariants.violations == []


def test_who_finds_nobody_at_home_tries_elsewhere() -> None:
    world, people = _people(3)
    world.heap.run(0.0)
    for device in world.devices[1:]:
        device.buried = True
    world.heap.run(HEAL_S)
    answered = [call for call in people.calls if call.job]
    assert answered
    assert {call.device for call in answered} == {0}


def test_specs_are_batch_jobs_of_all_sorts() -> None:
    specs = [draw_spec(number, Random(number)) for number in range(100)]
    assert {spec.type for spec in specs} == {JobType.BATCH}
    assert {spec.count for spec in specs} == {1, 2, 3, 4}
    assert {bool(spec.task.timeouts.execution_s) for spec in specs} == {True, False}
    assert {spec.disconnect.stop_after_s for spec in specs} == {None, 12, 20}


def test_some_want_ops_jobs_some_of_them_open() -> None:
    specs = [draw_ops(number, Random(number)) for number in range(100)]
    assert {spec.type for spec in specs} == {JobType.OPS}
    assert {bool(spec.not_after_s) for spec in specs} == {True, False}
    assert all(spec.task.timeouts.total_s for spec in specs if spec.not_after_s)
    _, people = _people(60)
    assert {call.spec.type for call in people.calls} == {JobType.BATCH, JobType.OPS}
