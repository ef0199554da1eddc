"""Schedules on whole nodes: one run a slot, whoever fires it and whatever happens to the clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from protocol.clock import CLOCK_LABEL, CLOCK_UNKNOWN, Now
from protocol.config import MembershipConfig, NodeConfig, PolicyConfig
from protocol.derived import derive, source_of
from protocol.errors import JobSpecError
from protocol.events import FactsSampled, SelfDescribed
from protocol.heldjob import HeldJob
from protocol.ids import PeerId, peer_slot, revision_of
from protocol.job import JobSpec
from protocol.messages import Award, Facts, JobSyncAck
from protocol.records import Assignment, Desired, Fence, Role, Spec
from protocol.schedules import BACK_S, CATCH_UP_S, GRACE_S
from protocol.wire import dumps, seal
from tests.protocol.nodenet import WALL
from tests.protocol.schedulenet import ScheduleNet, ops_schedule, schedule
from tests.protocol.standingbook import StandingBook

WORKER = (Role.COMPUTE,)


class SkewedNet(ScheduleNet):
    """With clocks that a test sets."""

    offset = 0.0

    def clock(self, name: str) -> Now:
        now = super().clock(name)
        return Now(now.mono, now.wall + self.offset, now.wall_trusted)

    def jump(self, seconds: float) -> None:
        """The clocks are set, and each node hears of it with its next sample of facts."""
        self.offset += seconds
        for name in self.boxes:
            self.handle(name, FactsSampled(Facts(cpu_free_m=4000)))


# ---- once -------------------------------------------------------------------------------------


def test_a_slot_is_one_job_of_the_schedules_author_fired_by_the_first_rank() -> None:
    net = ScheduleNet("a", "b", "c")
    answer = net.ran("a")
    assert answer.value["durable_on"] == 2 and not answer.error
    net.minute()
    (run,) = net.runs()
    assert run.coordinator == net.ranks[0]
    assert run.author == "a" and run.spec.kind == "derived"
    assert run.job == net.standing("b").job.one_off
    assert run.source == source_of(run.spec) == net.id
    assert len(net.starts()) == 1
    (told,) = net.told(net.ranks[0], "schedule.fired")
    assert told.fields["slot_s"] == int(WALL + net.now) // 60 * 60


def test_each_minute_has_its_own_job() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    for _ in range(3):
        net.minute()
        net.finish()
    assert len(net.runs()) == 3
    assert len({job for _, job in net.starts()}) == len(net.starts()) == 3


def test_a_mark_and_its_run_are_saved_together_before_anything_leaves() -> None:
    net = ScheduleNet("a")
    net.ran("a")
    net.minute()
    slot = int(WALL + net.now) // 60 * 60
    assert net.boxes["a"].disk["schedule"] == {net.id: dumps([1, slot])}
    assert net.runs()[0].id in net.boxes["a"].disk["job"]


def test_a_restart_fires_no_slot_again() -> None:
    net = ScheduleNet("a")
    net.ran("a")
    net.minute()
    net.kill("a")
    net.boot("a")
    net.run(30.0)
    assert len(net.runs()) == 1
    net.finish()
    net.minute()
    assert len(net.runs()) == 2


def test_the_next_rank_takes_over_from_one_that_died_before_the_slot() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    first, second = net.ranks[:2]
    net.minute(1, -5.0)
    net.kill(first)
    net.minute(1, 3.0)
    (run,) = net.runs()
    assert run.coordinator == second


def test_one_that_dies_at_the_slot_unheard_is_stood_in_for() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    first = net.ranks[0]
    net.minute(1, -0.2)
    net.kill(first)  # the others still hold it for alive at the minute
    net.minute(1, 5.0)
    assert len(net.runs()) == 1
    assert len(net.starts()) == 1


def test_one_that_dies_after_the_slot_is_not_stood_in_for_twice() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    first, second = net.ranks[:2]
    net.minute(1, 0.5)
    (run,) = net.runs()
    net.kill(first)
    net.run(20.0)
    assert [each.id for each in net.runs()] == [run.id]
    assert net.watch(second).mark == int(WALL + net.now) // 60 * 60
    assert not net.told(second, "schedule.fired")


def test_a_first_rank_that_comes_back_asks_before_it_fires_a_slot_again() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    first, second = net.ranks[:2]
    net.minute(1, -5.0)
    net.kill(first)
    net.minute(1, 2.0)
    net.boot(first)
    net.run(10.0)
    assert [run.coordinator for run in net.runs()] == [second]
    assert not net.told(first, "schedule.fired")
    assert len(net.starts()) == 1


def test_two_islands_fire_one_job_and_agree_when_they_meet() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    first = net.ranks[0]
    others = [name for name in "abc" if name != first]
    net.part([first], others)
    net.minute()
    assert len(net.runs()) == 1
    assert len(net.starts()) == 2  # each side keeps its word to those it reaches
    net.heal()
    net.run(10.0)
    run = net.runs()[0].id
    prints = {net[name].jobs[run].fingerprint() for name in "abc" if run in net[name].jobs}
    assert len(prints) == 1


def test_peers_that_may_not_coordinate_fire_nothing() -> None:
    net = ScheduleNet("a", "w", "x", roles={"w": WORKER, "x": WORKER})
    net.ran("a")
    net.minute()
    assert net.runs()[0].coordinator == "a"
    net.kill("a")
    net.minute()
    assert net.watch("w").first is None
    assert len(net.starts()) == 1


# ---- late, early, untrusted -------------------------------------------------------------------


def test_a_slot_within_the_grace_is_fired_late() -> None:
    net = ScheduleNet("a")
    net.ran("a")
    net.minute(1, -5.0)
    net.kill("a")
    net.minute(1, 30.0)
    net.boot("a")
    net.run(5.0)
    (run,) = net.runs()
    assert run.spec.key.endswith(f"/{int(WALL + net.now) // 60 * 60}")


def test_who_does_not_know_the_time_is_passed_over_until_it_does() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a")
    first, second, third = net.ranks
    net.boxes[first].trusted = False
    net.sample(first)
    net.minute()
    (run,) = net.runs()
    assert run.coordinator == second
    (view,) = [each for each in net[third].views.peers(net.clock(third)) if each["id"] == first]
    assert view["labels"][CLOCK_LABEL] == CLOCK_UNKNOWN
    net.boxes[first].trusted = True
    net.sample(first)
    net.finish()
    net.minute()
    assert [each.coordinator for each in net.runs()] == [second, first]


def test_nothing_is_fired_on_a_clock_that_is_not_trusted() -> None:
    net = ScheduleNet("a")
    net.ran("a")
    net.boxes["a"].trusted = False
    net.minute(2)
    assert net.runs() == []
    assert "the time is not known" in net.watch("a").problem
    assert net.schedules("a").next_s(net.standing("a").job.schedule, net.clock("a")) == 0
    net.boxes["a"].trusted = True
    net.sample("a")
    net.run(1.0)
    assert len(net.runs()) == 1  # the one of this minute
    assert net.watch("a").problem == ""


def test_a_clock_that_jumps_ahead_fires_the_latest_slot_once() -> None:
    net = SkewedNet("a")
    net.ran("a")
    net.jump(3600.0)
    net.run(1.0)
    assert len(net.runs()) == 1  # within the grace; those between were never waited for


def test_a_clock_that_goes_back_a_little_fires_no_slot_twice() -> None:
    net = SkewedNet("a")
    net.ran("a")
    net.minute()
    net.finish()
    net.jump(-30.0)
    net.run(45.0)
    assert len(net.runs()) == 1
    assert len(net.starts()) == 1


def test_slots_count_again_from_a_clock_that_was_far_ahead() -> None:
    net = SkewedNet("a")
    net.ran("a")
    net.jump(BACK_S * 100.0)
    net.run(1.0)
    net.finish()
    net.jump(BACK_S * -100.0)
    net.minute(2)
    assert len(net.runs()) >= 2


def test_a_generation_begins_with_the_first_slot_after_it_came() -> None:
    net = SkewedNet("a")
    net.jump(30.0)
    net.ran("a", schedule(CatchUp=1))
    net.run(1.0)
    assert net.runs() == []
    net.minute()
    net.finish()
    net.ran("a", schedule(CatchUp=1, Priority=7))
    net.run(2.0)
    assert len(net.runs()) == 1


@pytest.mark.parametrize("reboot", [False, True])
def test_a_generation_that_came_before_the_time_was_known_begins_when_it_is(reboot: bool) -> None:
    net = SkewedNet("a")
    net.ran("a", schedule(CatchUp=1))
    net.minute()
    net.finish()
    net.boxes["a"].trusted = False
    net.sample("a")
    net.minute(2, 20.0)
    net.offset = -WALL
    net.ran("a", schedule(CatchUp=1, Priority=7))
    net.run(2.0)
    if reboot:
        net.kill("a")
        net.boot("a")
    net.offset = 0.0
    net.boxes["a"].trusted = True
    net.sample("a")
    net.run(5.0)
    assert len(net.runs()) == 1
    net.minute()
    assert len(net.runs()) == 2


@pytest.mark.parametrize("catch_up", [0, 1])
def test_what_was_missed_while_nobody_was_there(catch_up: int) -> None:
    net = ScheduleNet("a")
    spec = schedule(CatchUp=catch_up)
    net.ran("a", spec)
    net.kill("a")
    net.run(GRACE_S * 10.0)
    watches = net.boxes["a"].disk
    net.boot("a")
    # A simple cron has no slots that are rarer than the grace is long: look at the decision itself.
    schedules = net.schedules("a")
    schedules.cron = Rare()
    net.run(5.0)
    assert len(net.runs()) == catch_up
    assert len(net.told("a", "schedule.missed")) == 1 - catch_up
    net.run(30.0)
    assert len(net.runs()) == catch_up
    assert watches["schedule"] == net.boxes["a"].disk["schedule"]


def test_what_was_missed_too_long_ago_is_not_made_up_for() -> None:
    net = SkewedNet("a")
    net.ran("a", schedule(CatchUp=1))
    net.schedules("a").cron = Rare()
    net.jump(CATCH_UP_S + 1000.0)
    net.run(2.0)
    assert net.runs() == []
    assert len(net.told("a", "schedule.missed")) == 1


class Rare:
    """A cron with one slot, two minutes after the tests begin, and none after it."""

    slot = int(WALL) + 240

    def next(self, schedule: object, after_s: int) -> int | None:
        return self.slot if after_s < self.slot else None

    def last(self, schedule: object, until_s: int) -> int | None:
        return self.slot if until_s >= self.slot else None


# ---- overlap ----------------------------------------------------------------------------------


def test_a_run_is_skipped_while_the_one_before_has_not_ended() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a")
    net.minute(2)
    assert len(net.runs()) == 1
    (told,) = net.told(net.ranks[0], "schedule.skipped")
    assert "has not ended" in told.text
    net.finish()
    net.minute()
    assert len(net.runs()) == 2


@pytest.mark.parametrize("scope", ["once", "each"])
def test_on_a_full_disk_a_run_is_skipped(scope: str) -> None:
    net = ScheduleNet("a")
    net.ran("a", schedule(Scope=scope))
    net.fill("a")
    net.minute()
    (told,) = net.told("a", "schedule.skipped")
    assert "its disk is full" in told.text and not net.runs()
    net.fill("a", full=False)
    net.minute()
    assert len(net.runs()) == len(net.starts()) == 1


def test_runs_may_overlap() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", schedule(Overlap="allow"))
    net.minute(2)
    assert len(net.runs()) == 2
    assert all(not run.done for run in net.runs())


def test_a_run_takes_the_place_of_the_one_before() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", schedule(Overlap="replace"))
    net.minute(2, 5.0)
    before, after = net.runs()
    assert before.done and not after.done
    assert before.desired is Desired.STOPPED


def test_who_takes_over_knows_whether_the_run_before_has_ended() -> None:
    net = ScheduleNet("a", "b", "c", "d")
    net.ran("a", schedule(Overlap="skip"))
    net.minute(1, 5.0)
    first, second = net.ranks[:2]
    assert net.runs()[0].id in net[second].jobs
    net.kill(first)
    net.minute(1, 5.0)
    assert len(net.told(second, "schedule.skipped")) == 1


def test_who_takes_over_replaces_a_run_that_another_fired() -> None:
    net = ScheduleNet("a", "b", "c", "d")
    net.ran("a", schedule(Overlap="replace", on=("a", "b", "c", "d")))
    net.minute(1, 5.0)
    first = net.ranks[0]
    before = net.runs()[0]
    net.kill(first)
    net.minute(1, 20.0)
    assert len(net.runs()) == 2
    assert before.id in [run.id for run in net.runs() if run.desired is Desired.STOPPED]


# ---- each -------------------------------------------------------------------------------------


def test_each_matching_peer_runs_its_own() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a", schedule(Scope="each", on=("a", "b")))
    net.minute()
    assert sorted(name for name, _ in net.starts()) == ["a", "b"]
    assert len(net.runs()) == 2


def test_each_peer_runs_its_own_while_it_is_cut_off() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", schedule(Scope="each"))
    net.run(2.0)
    net.part(["a"], ["b"])
    net.minute()
    assert sorted(name for name, _ in net.starts()) == ["a", "b"]


def test_a_peer_that_may_not_submit_runs_its_own_all_the_same() -> None:
    net = ScheduleNet("a", "w", roles={"w": WORKER})
    net.ran("a", schedule(Scope="each"))
    net.minute()
    assert sorted(name for name, _ in net.starts()) == ["a", "w"]
    net.finish()
    net.run(2.0)
    assert all(run.done for run in net.runs())
    assert [box.node.messaging.malformed for box in net.boxes.values() if box.node] == [{}, {}]
    net.kill("w")
    net.boot("w")
    net.minute()
    assert len([name for name, _ in net.starts() if name == "w"]) == 2


def test_a_peer_that_may_not_submit_replaces_its_own_run() -> None:
    net = ScheduleNet("a", "w", roles={"w": WORKER})
    net.ran("a", schedule(Scope="each", Overlap="replace", on=("w",)))
    net.minute(2)
    assert len(net.starts()) == 2
    assert [run.desired for run in net.runs()] == [Desired.STOPPED, Desired.RUNNING]
    net.kill("w")
    net.boot("w")
    assert net["w"].unreadable == []
    assert len(net.runs()) == 2


@pytest.mark.parametrize("make", [schedule, ops_schedule], ids=("batch", "ops"))
def test_of_runs_that_are_due_at_once_the_last_takes_the_place_of_all(
    make: Callable[..., JobSpec],
) -> None:
    net = SkewedNet("a", "b")
    net.ran("a", make(cron="*/20 * * * * *", Scope="each", Overlap="replace", on=("b",)))
    net.run(21.0)
    assert len(net.starts()) == 1
    net.jump(45.0)  # it slept: two slots have come, and neither is too late
    net.run(1.0)
    assert len(net.starts()) == 2
    (told,) = net.told("b", "schedule.skipped")
    assert "the one after it is due as well" in told.text
    net.run(5.0)
    assert len(net.boxes["b"].running) == 1


def test_a_peer_that_comes_to_match_begins_with_the_next_slot() -> None:
    net = ScheduleNet("a")
    net.ran("a", schedule(Scope="each", CatchUp=1, on=("z",)))
    net.minute()
    net.handle("a", SelfDescribed((), {"name": "z"}, 4000, 1 << 30, 1 << 33))
    net.run(1.0)
    assert net.starts() == []
    net.minute()
    assert len(net.starts()) == 1


def test_a_run_of_ones_own_is_skipped_while_the_one_before_has_not_ended() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", schedule(Scope="each"))
    net.minute()
    net.end("a")
    net.minute()
    assert sorted(name for name, _ in net.starts()) == ["a", "a", "b"]


# ---- ops --------------------------------------------------------------------------------------


def test_an_ops_job_runs_once_on_every_peer_that_matches_when_its_time_has_come() -> None:
    net = ScheduleNet("a", "b", "c", "d")
    net.ran("a", ops_schedule(on=("a", "b", "c")))
    net.minute()
    (run,) = net.runs()
    assert run.coordinator == net.ranks[0] and run.author == "a"
    assert run.job == net.standing("b").job.one_off and run.closed
    assert sorted(name for name, _ in net.starts()) == ["a", "b", "c"]
    net.finish()
    net.run(1.0)
    assert run.done
    net.minute()
    assert len(net.runs()) == 2 and len(net.starts()) == 6


def test_its_list_is_frozen_when_it_is_fired() -> None:
    net = ScheduleNet("a", "b", "late")
    net.kill("late")
    net.ran("a", ops_schedule())
    net.minute()
    net.boot("late")
    net.run(10.0)
    assert sorted(name for name, _ in net.starts()) == ["a", "b"]
    net.finish()
    net.minute()
    assert [name for name, _ in net.starts()].count("late") == 1


def test_nobody_starts_before_a_standby_has_the_list() -> None:
    net = ScheduleNet("a", "b", "c")
    net.ran("a", ops_schedule())
    net.drop = lambda sender, to, message: isinstance(message, JobSyncAck)
    net.minute(1, 0.9)
    assert len(net.runs()) == 1 and net.starts() == []
    net.run(0.5)
    assert len(net.starts()) == 3


def test_two_islands_fire_one_ops_job_each_for_its_own_peers() -> None:
    net = ScheduleNet("a", "b", "c", "d")
    net.ran("a", ops_schedule())
    one, other = net.ranks[:2]
    net.part([one, net.ranks[2]], [other, net.ranks[3]])
    net.minute(1, 5.0)
    assert len(net.told(one, "schedule.fired")) == len(net.told(other, "schedule.fired")) == 1
    assert Counter(name for name, _ in net.starts()) == Counter("abcd")
    net.finish()
    net.heal()
    net.run(30.0)
    (run,) = net.runs()
    assert run.done and len(run.slots) == 4
    assert Counter(name for name, _ in net.starts()) == Counter("abcd")
    prints = {net[name].jobs[run.id].fingerprint() for name in "abcd" if run.id in net[name].jobs}
    assert len(prints) == 1


def test_a_slot_that_two_peers_fire_starts_an_ops_job_once_on_each_peer() -> None:
    net = ScheduleNet(*"abcd")
    net.ran("a", ops_schedule())
    net.minute(1, 5.0)
    (run,) = net.runs()
    (stranger,) = [name for name in "abcd" if run.id not in net[name].jobs]
    net.part([name for name in "abcd" if name != stranger], [stranger])
    net.run(20.0)
    assert len(net.told(stranger, "schedule.fired")) == 1  # it runs it, and knows of no list
    assert net[stranger].jobs[run.id].revision == run.revision
    assert Counter(name for name, _ in net.starts()) == Counter("abcd")
    net.finish()
    net.heal()
    net.run(30.0)
    merged = [net[name].jobs[run.id] for name in "abcd"]
    assert all(held.done and len(held.slots) == 4 for held in merged)
    assert len({held.fingerprint() for held in merged}) == 1
    assert net[stranger].views.job(merged[0])["state"] == "completed"
    assert Counter(name for name, job in net.starts() if job == run.id) == Counter("abcd")


@pytest.mark.parametrize("dies_after_s", [-0.2, 0.003, 0.005, 0.01, 0.1, 1.5])
def test_who_takes_over_fires_no_ops_job_twice(dies_after_s: float) -> None:
    net = ScheduleNet("a", "b", "c", "d")
    net.ran("a", ops_schedule(on=("b", "c", "d")))
    first = net.ranks[0]
    net.minute(1, dies_after_s)
    net.kill(first)
    net.minute(1 if dies_after_s < 0 else 0, 20.0)
    (run,) = net.runs()
    assert run.coordinator != first
    began = {name for name, _ in net.starts()}
    assert len(net.starts()) == len(began) and began >= {"b", "c", "d"} - {first}
    net.finish()
    net.boot(first)
    net.run(20.0)
    assert len(net.runs()) == 1
    assert len(net.starts()) == len(began)


def test_an_ops_run_is_skipped_while_any_peer_still_runs_the_one_before() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", ops_schedule())
    net.minute()
    net.end("a")
    net.minute()
    (told,) = net.told(net.ranks[0], "schedule.skipped")
    assert "has not ended" in told.text and len(net.runs()) == 1
    net.end("b")
    net.minute()
    assert len(net.runs()) == 2


def test_an_ops_run_takes_the_place_of_the_one_before() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", ops_schedule(Overlap="replace"))
    net.minute(2, 5.0)
    before, after = net.runs()
    assert before.done and before.desired is Desired.STOPPED and not after.done
    assert Counter(name for name, _ in net.starts()) == Counter("aabb")
    assert all(len(net.boxes[name].running) == 1 for name in "ab")


def test_a_run_that_nobody_matches_is_skipped_with_the_reason_and_replaces_nothing() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", ops_schedule(Overlap="replace", on=("b",)))
    net.minute()
    net.handle("b", SelfDescribed((), {"name": "z"}, 4000, 1 << 30, 1 << 33))
    net.minute()
    (told,) = net.told(net.ranks[0], "schedule.skipped")
    assert "no peer that is alive matches" in told.text
    (run,) = net.runs()
    assert run.desired is Desired.RUNNING
    assert net.watch(net.ranks[0]).mark == told.fields["slot_s"]


def test_each_peer_runs_an_ops_job_of_its_own_also_while_it_is_cut_off() -> None:
    net = ScheduleNet("a", "b", "w", roles={"w": WORKER})
    net.ran("a", ops_schedule(Scope="each", on=("b", "w")))
    net.run(2.0)
    net.part(["w"], ["a", "b"])
    net.minute()
    assert sorted(name for name, _ in net.starts()) == ["b", "w"]
    assert [len(run.slots) for run in net.runs()] == [1, 1]
    net.finish()
    net.run(1.0)
    assert all(run.done for run in net.runs())
    net.kill("w")
    net.boot("w")
    net.heal()
    net.minute()
    assert Counter(name for name, _ in net.starts()) == Counter("bbww")
    assert [box.node.messaging.malformed for box in net.boxes.values() if box.node] == [{}, {}, {}]


def test_the_run_of_a_peers_own_that_another_fires_too_starts_once() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", ops_schedule(Scope="each", on=("b",)))
    net.minute()
    (run,) = net.runs()
    slot = int(WALL + net.now) // 60 * 60
    sealed = derive(net.standing("a").spec_data, f"{slot}/b", {}, net.boxes["a"].keyring)
    net["a"].catalogue.jobs.pop(run.id, None)
    mine = HeldJob.create(sealed, PeerId("a"), 1, int(net.now * 1000), (PeerId("a"),))
    coordination, now = net.coordination("a"), net.clock("a")
    assert coordination.direct.freeze(mine, now) == ""
    for effect in coordination.accept(mine, None, now):
        net._carry_out("a", effect)
    net.run(5.0)
    assert net.starts() == [("b", run.id)]


def test_a_device_owner_who_takes_jobs_of_operators_only_declines_a_run_too() -> None:
    policy = NodeConfig(policy=PolicyConfig(roles=("operate",)))
    net = ScheduleNet("a", "b", configs={"b": policy})
    net.ran("a", ops_schedule())
    net.minute()
    assert [name for name, _ in net.starts()] == ["a"]
    assert "holds no role that is taken here" in told_of(net, "b")
    net = ScheduleNet("a", "b", configs={"b": policy}, roles={"a": tuple(Role)})
    net.ran("a", ops_schedule())
    net.minute()
    assert sorted(name for name, _ in net.starts()) == ["a", "b"]


def told_of(net: ScheduleNet, peer: str) -> str:
    """Why a peer that was on the list gave no result."""
    (run,) = net.runs()
    acceptance = run.slots[peer_slot(run.id, PeerId(peer))].acceptance
    assert acceptance is not None
    return acceptance.reason


def test_a_run_of_an_author_who_may_not_submit_is_refused_where_it_should_start() -> None:
    net = ScheduleNet("a", "b", "o", roles={"o": (Role.COMPUTE, Role.OPERATE)})
    body = ops_schedule().encode()
    source = StandingBook("backup", shoal=net.shoal).spec_of(body, by="o")
    run = derive(source, "60", {}, net.boxes["a"].keyring)
    assert isinstance(run.record, Spec)
    award = Assignment(
        job=run.record.job,
        revision=revision_of(run.body),
        slot=peer_slot(run.record.job, PeerId("b")),
        fence=Fence(1, PeerId("a"), 1),
        executor=PeerId("b"),
        lease_ms=1000,
        memory=net["b"].executor.journal.memory,
    )
    data = seal(award, net.boxes["a"].keyring)
    net.send("a", "b", Award(0, (data,), run.data, b"", (PeerId("a"),)))
    assert net.starts() == []
    assert sum(net["b"].messaging.malformed.values()) == 1


# ---- a device that lost its database ------------------------------------------------------------


@pytest.mark.parametrize("scope", ["once", "each"])
def test_what_was_fired_before_a_database_was_lost_is_not_fired_again(scope: str) -> None:
    """The device boots in 1970, gets the schedule, and hears the time when it has it already."""
    net = ScheduleNet("a", "b", configs={"b": NodeConfig(policy=PolicyConfig(types=("batch",)))})
    net.ran("a", ops_schedule(Scope=scope, CatchUp=1))
    net.minute()
    assert [name for name, _ in net.starts()] == ["a"]
    net.kill("a")
    net.forget("a")
    net.boxes["a"].running.clear()
    for run in net.runs():  # and whoever else knew of the run is no help
        net.kill("b")
        for bucket in ("spec", "job", "slot"):
            rows = net.boxes["b"].disk[bucket]
            for key in [key for key in rows if key.startswith(run.id)]:
                del rows[key]
    net.boxes["a"].trusted = False
    net.boot("a")
    net.boot("b")
    net.run(3.0)
    assert net.watch("a").generation == 0
    net.kill("a")
    net.boxes["a"].trusted = True
    net.boot("a")
    net.run(20.0)
    assert [name for name, _ in net.starts()] == ["a"]
    net.minute()
    assert [name for name, _ in net.starts()] == ["a", "a"]


# ---- the record -------------------------------------------------------------------------------


def test_a_schedule_that_is_stopped_fires_nothing_and_leaves_out_what_it_missed() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a", schedule(CatchUp=1))
    net.controlled("a")
    net.minute(2)
    assert net.runs() == []
    net.ran("a", schedule(CatchUp=1))
    net.run(2.0)
    assert net.runs() == []
    net.minute()
    assert len(net.runs()) == 1


def test_a_deleted_schedule_is_watched_no_more_and_its_runs_end_by_themselves() -> None:
    net = ScheduleNet("a", "b")
    net.ran("a")
    net.minute()
    net.controlled("a", Desired.DELETED)
    assert net.id not in net.schedules("b").watches
    assert not net.runs()[0].done
    net.finish()
    net.run(2.0)
    assert net.runs()[0].done


def test_a_schedule_expires() -> None:
    net = ScheduleNet("a")
    net.ran("a", schedule(NotAfter="2027-01-15T08:03:30Z"))
    net.minute()
    net.finish()
    assert len(net.runs()) == 1
    net.minute(3)
    assert len(net.runs()) == 1


def test_a_cron_that_means_nothing_here_is_refused_with_its_field() -> None:
    net = ScheduleNet("a")
    answer = net.ran("a", schedule(cron="5 4 * * *"))
    assert "Schedule.Cron" in answer.error
    assert net.ran("a", schedule()).error == ""


def test_a_peer_that_cannot_tell_the_slots_says_so() -> None:
    net = ScheduleNet("a")
    net.ran("a")
    net.schedules("a").cron = Unwilling()
    net.sample("a")
    assert "Schedule.TimeZone" in net.watch("a").problem
    assert net.schedules("a").next_s(schedule().schedule, net.clock("a")) == 0


class Unwilling:
    def next(self, schedule: object, after_s: int) -> int | None:
        raise JobSpecError("Schedule.TimeZone", "unknown")

    last = next


def test_a_full_peer_skips_a_run_and_says_why() -> None:
    net = ScheduleNet("a")
    net.ran("a")
    net["a"].catalogue._spec_bytes = 1 << 40
    net.minute()
    assert net.runs() == []
    assert "as many jobs" in net.told("a", "schedule.skipped")[0].text


def test_marks_that_cannot_be_read_are_told_of() -> None:
    net = ScheduleNet("a")
    net.boxes["a"].disk["schedule"] = {"x" * 32: b"\xff", "y" * 32: dumps([1, 5])}
    net.kill("a")
    net.boot("a")
    assert "x" * 32 in [each.key for each in net["a"].unreadable]
    net.run(1.0)
    assert net.schedules("a").review("y" * 32, net.clock("a"))
    assert net.schedules("a").review("y" * 32, net.clock("a")) == []


# ---- devices on metered links


@pytest.mark.parametrize("leaf", ["a", "b", "c"])
def test_a_leaf_fires_nothing_while_another_can(leaf: str) -> None:
    metered = NodeConfig(membership=MembershipConfig.preset("metered"))
    net = ScheduleNet("a", "b", "c", configs={leaf: metered})
    net.ran("a")
    for name in "abc":
        first = net.watch(name).first
        assert first is not None and first != leaf
    net.kill(leaf)
    net.run(5.0)
    net.boot(leaf)
    net.run(5.0)
    assert len({net.watch(name).first for name in "abc"}) == 1, "all agree"
    assert net.watch("a").first != leaf


def test_one_that_is_no_leaf_takes_over_from_leaves_when_it_comes() -> None:
    metered = NodeConfig(membership=MembershipConfig.preset("metered"))
    net = ScheduleNet("a", "b", "c", configs={"a": metered, "b": metered})
    net.kill("c")
    net.run(5.0)
    net.ran("a")
    assert net.watch("a").first in ("a", "b")
    net.boot("c")
    net.run(5.0)
    assert [net.watch(name).first for name in "abc"] == ["c", "c", "c"]
