"""Timers: schedules are submitted, run, and come to an end."""

import itertools
from random import Random

from protocol.sim.invariants import Invariants
from protocol.sim.people import People
from protocol.sim.run import build
from protocol.sim.timers import FIRST_REQUEST, WATCHED_S, Timers, draw_schedule
from protocol.sim.trace import Trace
from protocol.sim.world import World
from tests.protocol.schedulenet import ops_schedule

HEAL_S = 30.0


def _timers(schedules: int) -> tuple[World, Timers, Invariants]:
    world = build("lab", 4, Random(1), Trace())
    invariants = Invariants(world, 1, exclusive=True)
    world.watcher = invariants
    people = People(world, invariants, Random(3), HEAL_S)
    people.draw(2)
    timers = Timers(world, invariants.schedules, Random(3), HEAL_S)
    timers.draw(schedules)
    return world, timers, invariants


def test_what_is_scheduled_runs_until_the_end_and_other_people_are_answered() -> None:
    world, timers, invariants = _timers(3)
    assert timers.busy
    world.heap.run(HEAL_S + WATCHED_S + 1.0)
    assert not timers.busy and world.cron.over
    assert all(timer.accepted for timer in timers.timers)
    assert all(number > FIRST_REQUEST for number in timers._requests)
    assert len(invariants.schedules.handled_at) == 3
    assert min(invariants.schedules.handled_at.values()) > HEAL_S
    assert len(invariants.acknowledged) == 2
    assert invariants.violations == []


def test_a_schedule_that_has_stopped_running_is_a_violation() -> None:
    world, timers, invariants = _timers(1)
    world.heap.run(HEAL_S)
    world.cron.over = True  # the slots end, and nobody was told
    invariants.schedules.handled_at.clear()
    world.heap.run(HEAL_S + WATCHED_S + 1.0)
    assert "has not run since all is well" in invariants.violations[0].text
    assert timers.timers[0].over


def test_what_nobody_knows_need_not_run() -> None:
    world, timers, invariants = _timers(1)
    world.heap.run(0.0)
    for device in world.devices:
        device.buried = True
    world.heap.run(HEAL_S + WATCHED_S + 1.0)
    assert not timers.busy and not timers.timers[0].accepted
    assert invariants.violations == []


def test_what_nobody_matches_any_more_need_not_run() -> None:
    world, timers, invariants = _timers(1)
    timers.timers[0].spec = ops_schedule("timer-0", Scope="each", on=("nobody",))
    world.heap.run(HEAL_S + WATCHED_S + 1.0)
    assert timers.timers[0].accepted and invariants.schedules.handled_at == {}
    assert invariants.violations == []


def test_schedules_differ() -> None:
    drawn = [draw_schedule("timer", Random(seed)).schedule for seed in range(30)]
    assert {each.scope for each in drawn if each} == {"once", "each"}
    assert len({each.overlap for each in drawn if each}) == 3


def test_some_are_of_ops_jobs() -> None:
    _, timers, _ = _timers(40)
    specs = [timer.spec for timer in timers.timers]
    assert {(spec.type, spec.schedule.scope) for spec in specs if spec.schedule} == {
        *itertools.product(("batch", "ops"), ("once", "each"))
    }
    assert {len(spec.constraints) for spec in specs if spec.type == "ops"} == {0, 1}
