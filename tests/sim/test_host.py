"""The host: tasks go on without their agent, and end with the power."""

from random import Random

from protocol.effects import StartTask
from protocol.events import TaskEnded, TaskStarted
from protocol.ids import ExecutionId, JobId
from protocol.sim.host import Host
from protocol.sim.run import build
from protocol.sim.tasks import TERMINATED, Behaviour
from protocol.sim.trace import Trace
from protocol.sim.world import World
from tests.sim.test_tasks import spec_of

News = list[TaskStarted | TaskEnded]


def _host() -> tuple[World, Host, News]:
    world = build("lab", 2, Random(1), Trace())
    news: News = []
    return world, Host(world, news.append), news


def _start(name: str, behaviour: Behaviour, timeout_s: float | None = None) -> StartTask:
    return StartTask(ExecutionId(name), JobId("j"), spec_of(behaviour), {}, timeout_s, ())


def test_a_task_starts_and_ends() -> None:
    world, host, news = _host()
    task = host.start(_start("a", Behaviour(1000, 1000, 0)))
    assert host.start(_start("a", Behaviour(1000, 1000, 0))) is None
    world.heap.run(0.5)
    assert host.running == [task]
    world.heap.run(2.0)
    assert [type(event) for event in news] == [TaskStarted, TaskEnded]
    assert [found.exit_code for found in host.found()] == [0]
    host.remove(ExecutionId("a"))
    assert host.found() == ()


def test_a_stopped_task_ends_soon_and_a_running_one_is_not_removed() -> None:
    world, host, news = _host()
    host.start(_start("a", Behaviour(60_000, 60_000, 0)))
    host.remove(ExecutionId("a"))
    host.stop(ExecutionId("a"))
    host.stop(ExecutionId("never started"))
    world.heap.run(1.0)
    ended = news[-1]
    assert isinstance(ended, TaskEnded)
    assert (ended.exit_code, ended.reason) == (TERMINATED, "stopped")


def test_a_power_cut_ends_all_and_may_take_what_was_on_disk() -> None:
    world, host, news = _host()
    for at in range(40):
        host.start(_start(f"e{at}", Behaviour(60_000, 60_000, 0)))
    world.heap.run(1.0)
    host.power_gone()
    assert host.running == []
    assert 0 < len(host.found()) < 40
    assert all(found.exit_code is None and not found.running for found in host.found())
    heard = len(news)
    world.heap.run(100.0)
    assert len(news) == heard


def test_a_start_may_fail() -> None:
    world, host, news = _host()
    world.start_failures = 1.0
    host.start(_start("a", Behaviour(1000, 1000, 0)))
    world.heap.run(5.0)
    assert [type(event) for event in news] == [TaskEnded]
    assert isinstance(news[0], TaskEnded)
    assert (news[0].exit_code, news[0].reason) == (None, "start-failed")
