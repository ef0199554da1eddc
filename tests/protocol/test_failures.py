"""failures: which failures and losses count, and what becomes of a slot that had one."""

from __future__ import annotations

import pytest

from protocol.config import AuctionConfig, CoordinationConfig, MembershipConfig, NodeConfig
from protocol.events import PeerDisconnected, ShutdownRequested
from protocol.ids import PeerId
from protocol.led import Phase
from protocol.messages import (
    Accepted,
    Accused,
    Award,
    Bid,
    Declined,
    Message,
    Refusal,
    Renew,
)
from protocol.records import Fence, Verdict
from protocol.retry import ATTEMPTS_DEFAULT
from protocol.tree import Plain
from tests.protocol.nodenet import NodeNet, batch, drop, keep, offered_to, queue, retry

UNTAKEN_MAX = CoordinationConfig().untaken_max
MANY = "bcdefghijkl"  # more than a job may end


def end_by_award(net: NodeNet, *, silently: bool = False) -> list[str]:
    """Award by award the device that it comes to ends before it has answered; which, in turn."""
    ended: list[str] = []

    def end(by: str, at: str, message: Message) -> bool:
        if not isinstance(message, Award) or net.boxes[at].node is None:
            return False
        ended.append(at)
        if silently:
            net.boxes[at].node = None
            net.boxes[at].life += 1
        else:
            net.kill(at)
        return True

    net.drop = end
    return ended


def test_a_task_that_fails_is_not_tried_again_unless_asked() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.1)
    net.end("b", 7)
    net.run(2.0)
    (told,) = net.told("a", "job.failed")
    assert told.fields["exit_code"] == 7
    assert len(net.boxes["b"].started) == 1


def test_a_retry_goes_to_another_peer_first_and_ends_with_the_limit() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"], **retry(3, "failure")))
    homes = []
    for _ in range(3):
        net.until(lambda: net.executors() != [])
        homes.append(net.executor())
        net.run(0.1)
        net.end(homes[-1], 1)
    net.run(10.0)
    assert homes[0] != homes[1]
    assert net.executors() == []
    acceptance = net.slot("a").acceptance
    assert acceptance is not None
    assert (acceptance.verdict, acceptance.fence.attempt) == (Verdict.FAILURE, 3)
    assert len(net.told("a", "job.placed-again")) == 2


def test_a_start_that_failed_is_the_systems_fault() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.1)
    first = net.executor()
    net.end(first, None, reason="start-failed: no such file")
    net.run(3.0)
    assert net.executor() != first


def test_a_dead_peers_slot_is_placed_again_at_once() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.3)
    first = net.executor()
    other = {"b": "c", "c": "b"}[first]
    net.kill(first)
    took = net.until(lambda: other in net.executors())
    assert took < 1.0
    assignment = net.slot("a").assignment
    assert assignment is not None
    assert (assignment.fence.attempt, assignment.failures) == (2, 1)
    (told,) = net.told("a", "job.placed-again")
    assert told.text == f"placed again: {first} is gone"


def test_a_slot_that_loses_every_peer_is_given_up() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on=["b", "c", "d"]))
    for _ in range(3):
        net.until(lambda: net.executors() != [], 20.0)
        net.run(0.3)
        victim = net.executor()
        net.kill(victim)
        net.boxes[victim].running.clear()
        net.run(1.0)
    net.run(5.0)
    acceptance = net.slot("a").acceptance
    assert acceptance is not None
    assert acceptance.verdict == Verdict.FAULT
    assert acceptance.reason.endswith("is gone")


def test_a_lost_slot_that_fits_nobody_else_is_waited_for_a_while() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"], task=queue(0)))
    net.run(100.0)
    net.kill("b")
    net.run(50.0)
    assert not net.held("a").done
    net.run(60.0)
    assert net.held("a").done


def test_a_lease_that_is_not_renewed_is_given_to_somebody_else() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(1.0)
    first = net.executor()
    drop(net, Renew, sender=first)
    net.run(16.0)
    other = {"b": "c", "c": "b"}[first]
    assert net.executors() == [other]  # the first was told to stop
    assert net.told("a", "job.placed-again")[0].text == f"placed again: no word from {first}"


def test_a_job_that_is_not_to_be_replaced_stays_where_it_is() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"], Disconnect={"Replace": False}))
    net.run(1.0)
    first = net.executor()
    others = [name for name in "abc" if name != first]
    net.part([first], others)
    net.run(60.0)
    assert net.executors() == [first]
    net.heal()
    net.run(10.0)
    net.end(first)
    net.run(3.0)
    assert net.told("a", "job.completed")


def test_an_open_award_to_a_peer_that_dies_is_placed_again() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, Award)
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.01)
    first = offered_to(net)
    keep(net)
    net.part([first], [name for name in "abc" if name != first])
    net.run(0.1)
    assert net.executor() != first


@pytest.mark.parametrize("late", [False, True])
def test_awards_that_nobody_took_are_no_losses(late: bool) -> None:
    """Three times whoever gets it dies before it has answered; a third loss would end the job."""
    net = NodeNet("a", "b", "c")
    drop(net, Accepted)
    net.submit("a", batch(on=["b", "c"], task=queue(600)))
    for _ in range(UNTAKEN_MAX):
        net.until(lambda: net.led("a").plans[0].phase is Phase.OFFERED, 20.0)
        net.run(1.5 if late else 0.1)
        assert net.led("a").plans[0].late is late
        victim = offered_to(net)
        net.kill(victim)
        net.boxes[victim].running.clear()
        net.until(lambda victim=victim: offered_to(net) != victim, 20.0)  # type: ignore[misc]
        net.boot(victim)
    keep(net)
    net.until(lambda: net.executors() != [], 20.0)
    assert net.led("a").plans[0].failures == 0


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_job_whose_award_ends_devices_ends_but_a_few(attempts: int) -> None:
    net = NodeNet("a", *MANY)
    ended = end_by_award(net)
    net.submit("a", batch(on=MANY, Retry={"Attempts": attempts}))
    net.until(lambda: net.held("a").done)
    spared = UNTAKEN_MAX if attempts > 1 else 0  # what may have begun is not begun again
    assert len(ended) == spared + attempts
    acceptance = net.slot("a").acceptance
    assert acceptance is not None and acceptance.verdict == Verdict.FAULT
    assert acceptance.reason == f"{ended[-1]} is gone"


def test_a_job_that_stays_and_ends_devices_ends_but_a_few() -> None:
    net = NodeNet("a", *MANY)
    ended = end_by_award(net)
    net.submit("a", batch(on=MANY, Disconnect={"Replace": False}))
    net.until(lambda: net.held("a").done)
    assert len(ended) == UNTAKEN_MAX + ATTEMPTS_DEFAULT


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_job_that_ends_devices_without_a_sign_ends_but_a_few(attempts: int) -> None:
    """Each is known to be dead long after the slot was offered to others."""
    wan = NodeConfig(membership=MembershipConfig.preset("wan"))
    net = NodeNet("a", *MANY, configs=dict.fromkeys(["a", *MANY], wan))
    ended = end_by_award(net, silently=True)
    net.submit("a", batch(on=MANY, task=queue(600), Retry={"Attempts": attempts}))
    net.until(lambda: net.held("a").done, 600.0)
    spared = UNTAKEN_MAX if attempts > 1 else 0
    beside = 31.0 / AuctionConfig().patience_s  # that were offered it while a death was not known
    assert spared + attempts <= len(ended) <= spared + attempts + beside + 1
    acceptance = net.slot("a").acceptance
    assert acceptance is not None and acceptance.verdict == Verdict.FAULT
    assert acceptance.reason.endswith("is gone")


def test_an_award_that_ends_its_volumes_device_again_and_again_does_so_a_few_times() -> None:
    net = NodeNet("a", "b")
    ended = end_by_award(net)
    volumes: Plain = [{"Name": "data", "Target": "data"}]
    net.submit("a", batch(on=["b"], task={"Volumes": volumes}))
    for count in range(1, UNTAKEN_MAX + ATTEMPTS_DEFAULT + 1):
        net.until(lambda count=count: len(ended) == count)  # type: ignore[misc]
        net.run(2.0)
        assert net.held("a").done is (count == UNTAKEN_MAX + ATTEMPTS_DEFAULT)
        net.boot("b")
    net.run(60.0)
    assert len(ended) == UNTAKEN_MAX + ATTEMPTS_DEFAULT


def test_who_was_silent_and_dies_costs_a_slot_that_runs_nothing() -> None:
    net = NodeNet("a", "b", "c")
    net.drop = lambda by, to, m: isinstance(m, Bid if by == "c" else Award)
    net.submit("a", batch(on=["b", "c"], task=queue(600)))
    net.until(lambda: list(net.led("a").plans[0].silent) == ["b"])
    drop(net, Bid, sender="b")
    net.until(lambda: net.executors() == ["c"])
    net.kill("b")
    net.run(2.0)
    plan = net.led("a").plans[0]
    assert (plan.untaken, plan.failures) == (0, 0) and plan.phase is Phase.RUNNING


def silent_once() -> NodeNet:
    """b lives and never answered the one award of a slot that waits for a device with room."""
    net = NodeNet("a", "b")
    drop(net, Award)
    net.submit("a", batch(on=["b"], task=queue(7200)))
    net.until(lambda: list(net.led("a").plans[0].silent) == ["b"])
    drop(net, Bid, Refusal)
    return net


def counted(net: NodeNet, *, left: bool = False) -> int:
    """Deaths that the slot has on its account once b is gone."""
    if left:
        net.handle("b", ShutdownRequested())
        net.run(0.1)
    net.kill("b")
    net.run(20.0)
    assert not net["a"].fleet.alive(PeerId("b"))
    plan = net.led("a").plans[0]
    assert plan.phase in (Phase.WAITING, Phase.BIDDING) and plan.failures == 0
    assert not plan.silent
    return plan.untaken


@pytest.mark.parametrize(("later_s", "deaths"), [(0.0, 1), (250.0, 1), (301.0, 0)])
def test_a_death_long_after_a_silent_award_is_not_of_it(later_s: float, deaths: int) -> None:
    net = silent_once()
    net.run(later_s)
    assert counted(net) == deaths


def test_who_was_silent_and_leaves_did_not_die_of_the_award() -> None:
    assert counted(silent_once(), left=True) == 0


@pytest.mark.parametrize("kind", [Accepted, Declined])
def test_who_answers_late_does_not_die_of_the_award(kind: type[Accepted | Declined]) -> None:
    """The answer is to an award that the slot has not got any more."""
    net = silent_once()
    award = net.slot("a").assignment
    assert award is not None
    why = () if kind is Accepted else ("no",)
    net.send("b", "a", kind(net.job(), 1, award.fence, *why))
    assert list(net.led("a").plans[0].silent) == ["b"], "of a slot that there is not"
    old = Fence(award.fence.term, award.fence.coordinator, award.fence.attempt - 1)
    net.send("b", "a", kind(net.job(), 0, old, *why))
    assert counted(net) == 0


def test_who_is_asked_again_and_answers_does_not_die_of_the_award() -> None:
    net = silent_once()
    net.fill("b")
    keep(net)
    net.until(lambda: not net.led("a").plans[0].silent)
    assert counted(net) == 0


def test_a_job_that_ends_a_device_which_is_soon_back_ends_but_a_few() -> None:
    """It is back, and bids again, before its death is known to anybody."""
    wan = NodeConfig(membership=MembershipConfig.preset("wan"))
    net = NodeNet("a", "b", configs={"a": wan, "b": wan})
    ended = end_by_award(net, silently=True)
    net.submit("a", batch(on=["b"], task=queue(7200)))
    for count in range(1, UNTAKEN_MAX + ATTEMPTS_DEFAULT + 1):
        net.until(lambda count=count: len(ended) == count)  # type: ignore[misc]
        assert not net.held("a").done
        net.run(10.0)
        assert net["a"].fleet.alive(PeerId("b"))
        net.boot("b")
    net.until(lambda: net.held("a").done)
    assert len(ended) == UNTAKEN_MAX + ATTEMPTS_DEFAULT
    acceptance = net.slot("a").acceptance
    assert acceptance is not None and acceptance.verdict == Verdict.FAULT
    assert acceptance.reason == "b did not answer the award, and has started anew since"


def bids_again(net: NodeNet) -> int:
    """Deaths that the slot has on its account once b has answered."""
    net.fill("b")
    keep(net)
    net.until(lambda: not net.led("a").plans[0].silent)
    assert net.led("a").plans[0].failures == 0
    return net.led("a").plans[0].untaken


def test_who_is_heard_of_in_a_later_life_may_have_died_of_the_award() -> None:
    net = silent_once()
    net.boot("b")
    assert bids_again(net) == 1


def test_who_was_cut_off_and_connects_again_did_not_die_of_the_award() -> None:
    """It has refuted its death meanwhile: its incarnation is another, of the same life."""
    net = silent_once()
    before = net["b"].membership.incarnation
    for name, other in ("ab", "ba"):
        net.handle(name, PeerDisconnected(PeerId(other)))
    net.send("a", "b", Accused(before))
    net.connect("a", "b")
    net.run(5.0)
    assert net["b"].membership.incarnation > before
    assert bids_again(net) == 0


def test_who_has_said_that_it_comes_back_did_not_die_of_the_award() -> None:
    net = silent_once()
    net.handle("b", ShutdownRequested(back_in_s=60.0))
    net.run(1.0)
    net.boot("b")
    assert bids_again(net) == 0


def test_who_died_unanswered_is_told_of_and_comes_after_others() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, Accepted)
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.1)
    victim = offered_to(net)
    net.kill(victim)
    net.until(lambda: offered_to(net) != victim)
    (again,) = net.told("a", "job.placed-again")
    assert again.text == f"placed again: {victim} is gone" and again.peer == victim
    first = net.coordination("a").stories.of(net.job()).attempts[0]
    assert (first.peer, first.state, first.reason) == (victim, "lost", f"{victim} is gone")
    assert net.led("a").plans[0].failed_on == {victim: 1}


def test_both_slots_of_a_peer_that_dies_unanswered_are_bid_for_in_one_round() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"a": 0, "c": 0})
    drop(net, Accepted)
    net.submit("a", batch(count=2, on=["b", "c"], task=queue(600)))
    net.run(0.1)
    assert [plan.phase for plan in net.led("a").plans.values()] == [Phase.OFFERED] * 2
    net.kill("b")
    net.boxes["b"].running.clear()
    net.until(lambda: len(net.told("a", "job.placed-again")) == 2)
    phases = {plan.phase for plan in net.led("a").plans.values()}
    assert phases == {Phase.WAITING}, "there is nobody else, and one round for both"
    assert len(net.coordination("a").stories.of(net.job()).rounds) == 2


def test_a_job_that_is_never_to_be_begun_again_is_not() -> None:
    """It may have begun: whoever died may only not have been heard of."""
    net = NodeNet("a", "b", "c")
    drop(net, Accepted)
    net.submit("a", batch(on=["b", "c"], Retry={"Attempts": 1}))
    net.run(0.1)
    net.kill(offered_to(net))
    net.run(5.0)
    acceptance = net.slot("a").acceptance
    assert acceptance is not None and acceptance.verdict == Verdict.FAULT
    assert acceptance.reason.endswith("is gone")


@pytest.mark.parametrize("phase", [Phase.OFFERED, Phase.BIDDING])
def test_an_open_round_of_a_peer_that_dies_goes_on(phase: Phase) -> None:
    """Two slots; one bidder dies while the other's award, or bid, is still awaited."""
    net = NodeNet("a", "b", "c", cpu_m={"b": 1000, "c": 1000, "a": 0})
    half = {"Resources": {"CPU": "600m"}}
    drop(net, Accepted if phase is Phase.OFFERED else Bid, sender="b")
    net.submit("a", batch(count=2, on=["b", "c"], task={**half, **queue(60)}))
    net.run(0.05)
    assert phase in [plan.phase for plan in net.led("a").plans.values()]
    net.kill("c")
    net.run(0.02)
    keep(net)
    net.run(10.0)
    phases = sorted(plan.phase for plan in net.led("a").plans.values())
    assert phases == [Phase.RUNNING, Phase.WAITING]


def test_a_result_for_a_slot_that_is_bid_for_again_ends_it() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(1.0)
    first = net.executor()
    net.drop = lambda by, to, m: isinstance(m, Renew | Bid)
    net.until(lambda: net.led("a").plans[0].phase is Phase.BIDDING, 20.0)
    net.end(first, 0)
    net.run(5.0)
    assert net.told("a", "job.completed")
    assert net.coordination("a").placement.rounds._auctions == {}
    assert sum(len(box.started) for box in net.boxes.values()) == 1


def test_a_failure_that_was_counted_as_a_loss_is_not_counted_again() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"], task=queue(600), **retry(2, "lost", "failure")))
    net.run(1.0)
    net.drop = lambda by, to, m: isinstance(m, Renew | Bid)
    net.until(lambda: net.led("a").plans[0].failures == 1, 20.0)
    net.end("b", 1)
    net.run(3.0)
    assert net.led("a").plans[0].failures == 1
    keep(net)
    net.until(lambda: net.executors() == ["b"], 60.0)


def test_a_failure_that_is_final_ends_a_slot_counted_as_lost() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(1.0)
    first = net.executor()
    net.drop = lambda by, to, m: isinstance(m, Renew | Bid)
    net.until(lambda: net.led("a").plans[0].failures == 1, 20.0)
    net.end(first, 9)
    net.run(3.0)
    assert net.told("a", "job.failed")[0].fields["exit_code"] == 9
    assert sum(len(box.started) for box in net.boxes.values()) == 1
