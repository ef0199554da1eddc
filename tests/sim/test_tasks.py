"""Simulated tasks: drawn from what their command says."""

from random import Random

from protocol.ids import ExecutionId, JobId
from protocol.job import JobSpec
from protocol.sim.tasks import KILLED, Behaviour, Task


def spec_of(behaviour: Behaviour) -> JobSpec:
    engine = {"Type": "process", "Params": {"Command": list(behaviour.command)}}
    return JobSpec.from_plain({"Name": "job", "Type": "batch", "Tasks": [{"Engine": engine}]})


def begin(behaviour: Behaviour, timeout_s: float | None = None, seed: int = 1) -> Task:
    spec, rng = spec_of(behaviour), Random(seed)
    return Task.begin(ExecutionId("e"), JobId("j"), spec, timeout_s, 10.0, rng)


def test_a_command_says_what_the_task_does() -> None:
    behaviour = Behaviour(1000, 2000, 500)
    assert Behaviour.of(spec_of(behaviour)) == behaviour
    tasks = [begin(behaviour, seed=seed) for seed in range(50)]
    assert all(11.0 <= task.ends <= 12.0 for task in tasks)
    assert 10 < sum(task.code == 0 for task in tasks) < 40


def test_a_task_is_killed_at_its_timeout() -> None:
    task = begin(Behaviour(5000, 5000, 0), timeout_s=2.0)
    assert (task.ends, task.code) == (12.0, KILLED)


def test_a_task_ends_once() -> None:
    task = begin(Behaviour(1000, 1000, 0))
    assert task.found().running
    first = task.end(0, "exited", 11.0)
    assert task.end(1, "stopped", 12.0) is first
    found = task.found()
    assert (found.running, found.exit_code, found.duration_ms) == (False, 0, 1000)
