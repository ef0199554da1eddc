"""placement: who is asked, who is awarded, who is next, and what becomes of a slot that fails."""

from __future__ import annotations

import pytest

from protocol.auction import Auction
from protocol.config import AuctionConfig, CoordinationConfig, MembershipConfig, NodeConfig
from protocol.effects import Send, Tell
from protocol.events import PeerDisconnected, ShutdownRequested
from protocol.ids import PeerId
from protocol.led import Phase
from protocol.messages import (
    Accepted,
    Announce,
    Award,
    Bid,
    Declined,
    Facts,
    JobSync,
    Message,
    Refusal,
    Release,
    Renew,
    ResultOffer,
    SlotState,
    Vacancy,
    Withdraw,
)
from protocol.placement import NEAR_PER_FAR
from protocol.records import Fence, Verdict
from protocol.retry import ATTEMPTS_DEFAULT
from protocol.tree import Plain
from tests.protocol.jobs import Book
from tests.protocol.nodenet import NodeNet, batch, queue, retry

UNTAKEN_MAX = CoordinationConfig().untaken_max
MANY = "bcdefghijkl"  # more than a job may end


def drop(net: NodeNet, *kinds: type[Message], sender: str = "", to: str = "") -> None:
    """From now on lose these messages, of this sender and to this receiver where one is named."""

    def lost(by: str, at: str, message: Message) -> bool:
        return isinstance(message, kinds) and sender in ("", by) and to in ("", at)

    net.drop = lost


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


def keep(net: NodeNet) -> None:
    net.drop = lambda sender, to, message: False


def declined(net: NodeNet, executor: str, reason: str = "no") -> None:
    """`executor` answers the latest award so, whatever it would have said."""
    fence = net.slot("a").assignment
    assert fence is not None
    net.send(executor, "a", Declined(net.job(), 0, fence.fence, reason))


def offered_to(net: NodeNet) -> str:
    assignment = net.slot("a").assignment
    assert assignment is not None
    return assignment.executor


# ---- a round of bidding


def test_a_slot_goes_to_the_peer_that_fits() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b"]))
    net.run(0.1)
    assert net.executor() == "b"
    assert net.led("a").plans[0].phase is Phase.RUNNING
    assert [to for to, _ in net.sent("a", Announce)] == ["b"]
    filtered = net.coordination("a").stories.of(net.job()).rounds[0].answers[PeerId("c")]
    assert filtered.kind == "filtered"
    assert "name" in filtered.reason


def test_everybody_who_bid_and_did_not_win_is_released() -> None:
    net = NodeNet("a", "b", "c", "d")
    net.submit("a", batch(on=["b", "c", "d"]))
    net.run(0.1)
    losers = [name for name in ("b", "c", "d") if name != net.executor()]
    assert sorted(to for to, _ in net.sent("a", Release)) == losers
    for name in "abcd":
        holds = net[name].executor.bidder.holds
        assert not holds, (name, holds)


def test_the_window_closes_on_the_silent() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, Bid, sender="c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.4)
    assert net.executors() == []
    net.run(0.2)
    assert net.executor() == "b"


def test_a_bid_after_its_round_is_released_at_once() -> None:
    net = NodeNet("a", "b")
    effects = net.send("b", "a", Bid(77, 500, 1, 5000, Facts()))
    assert effects == [Send(PeerId("b"), Release(77))]
    assert net.send("b", "a", Refusal(77, "no")) == []


def test_who_dies_during_the_window_is_not_waited_for() -> None:
    net = NodeNet("a", "b", "c", configs={"a": NodeConfig(auction=AuctionConfig(window_s=60.0))})
    drop(net, Bid, sender="c")
    net.submit("a", batch(on=["b", "c"]))
    net.run(1.0)
    net.kill("c")
    net.run(1.0)
    assert net.executor() == "b"


def test_more_are_asked_until_enough_have_bid() -> None:
    few = NodeConfig(auction=AuctionConfig(ask_first=1))
    net = NodeNet("a", *"bcdefg", configs={"a": few}, cpu_m=dict.fromkeys("bcdefg", 1000))
    net.submit("a", batch(count=4, on="bcdefg", task={"Resources": {"CPU": "800m"}}))
    net.run(0.2)
    assert sorted(net.executors(index)[0] for index in range(4)) == sorted(
        {net.executors(index)[0] for index in range(4)}
    )
    asked = [to for to, _ in net.sent("a", Announce)]
    assert len(asked) == len(set(asked)) >= 4


def test_slots_are_spread_but_may_share_a_peer() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=6, on=["a", "b"]))
    net.run(0.1)
    homes = [net.executor(index) for index in range(6)]
    assert sorted(set(homes)) == ["a", "b"]


def test_many_slots_for_one_peer_come_in_several_awards() -> None:
    net = NodeNet("a", "b", cpu_m={"b": 64_000})
    task: dict[str, object] = {"Resources": {"CPU": "10m", "Memory": "1Mi"}}
    net.submit("a", batch(count=40, on=["b"], task=task))
    net.run(0.3)
    assert len(net.boxes["b"].running) == 40
    sizes = [len(award.assignments) for _, award in net.sent("a", Award)]
    assert sizes == [16, 16, 8]


# ---- awards that come to nothing


def test_declined_it_goes_to_the_next_best_of_the_round() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, Award)
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.01)
    first = offered_to(net)
    keep(net)
    declined(net, first)
    net.run(0.1)
    assert net.executor() == {"b": "c", "c": "b"}[first]
    attempt = net.slot("a").assignment
    assert attempt is not None
    assert (attempt.fence.attempt, attempt.failures) == (2, 0)
    assert len(net.coordination("a").stories.of(net.job()).rounds) == 1


def test_an_award_is_sent_again_for_a_while_before_another_gets_the_slot() -> None:
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"]))
    drop(net, Award)
    net.run(0.01)
    first = offered_to(net)
    net.run(0.6)
    assert [to for to, _ in net.sent("a", Award)] == [first, first]
    assert not net.sent("a", Release)
    net.run(0.6)
    (released,) = [to for to, _ in net.sent("a", Release)]
    assert released != first, "who lost is not held up for so long"
    net.run(AuctionConfig().patience_s - 1.3)
    assert [to for to, _ in net.sent("a", Award)] == [first] * 5, "at 0, 0.5, 1, 2 and 4 s"
    keep(net)
    net.run(2.0)
    assert net.executor() != first
    assert [to for to, _ in net.sent("a", Withdraw)] == [first]


def test_a_slot_whose_executor_was_waited_for_is_not_given_up_for_that() -> None:
    """Its time to wait for a peer may be over meanwhile."""
    net = NodeNet("a", "b", "c")
    net.submit("a", batch(on=["b", "c"], task=queue(1)))
    drop(net, Award)
    net.run(0.01)
    net.led("a").plans[0].since -= 3600
    net.run(AuctionConfig().patience_s - 0.1)
    keep(net)
    net.run(2.0)
    assert net.led("a").plans[0].phase is Phase.RUNNING


def test_other_slots_are_placed_while_one_is_waited_for() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"a": 0})
    net.submit("a", batch(count=2))
    drop(net, Accepted, sender="b")
    net.run(0.01)
    late, plans = net.slot("a").assignment, net.led("a").plans
    assert late is not None
    waited = 0 if late.executor == "b" else 1
    net.run(1.5)
    assert plans[waited].phase is Phase.OFFERED and plans[1 - waited].phase is Phase.RUNNING
    assert net.led("a").auction is None
    net.end("c", 1)
    net.submit("a", batch(), "another")
    net.run(1.0)
    assert net.held("a", "another").slots[0].assignment is not None
    keep(net)
    net.run(4.0)
    assert plans[waited].phase is Phase.RUNNING and len(net.boxes["b"].started) <= 2


@pytest.mark.parametrize("seconds", [1.5, 4.0, 7.0])
def test_who_lives_and_is_late_with_its_answer_to_an_award_is_the_only_one_to_run_it(
    seconds: float,
) -> None:
    """Its journal stalls, say: given to another as well, the task runs twice."""
    net = NodeNet("a", "b", "c")
    drop(net, Accepted)
    net.submit("a", batch(on=["b", "c"]))
    net.run(seconds)
    keep(net)
    net.run(3.0)
    assert sum(len(box.started) for box in net.boxes.values()) == 1
    assert net.led("a").plans[0].phase is Phase.RUNNING


def test_an_answer_to_an_award_counts_once_and_from_its_executor_only() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, Award)
    net.submit("a", batch(on=["b", "c"]))
    net.run(0.01)
    first = offered_to(net)
    other = {"b": "c", "c": "b"}[first]
    assignment = net.slot("a").assignment
    assert assignment is not None
    for sender, message in (
        (other, Accepted(net.job(), 0, assignment.fence)),
        (other, Declined(net.job(), 0, assignment.fence, "no")),
        (first, Accepted(net.job(), 1, assignment.fence)),
        (first, Accepted(net.job("other"), 0, assignment.fence)),
        (first, Accepted(net.job(), 0, Fence(1, PeerId("a"), 2))),
    ):
        assert net.send(sender, "a", message) == []
    net.send(first, "a", Accepted(net.job(), 0, assignment.fence))
    assert net.led("a").plans[0].phase is Phase.RUNNING
    assert net.send(first, "a", Accepted(net.job(), 0, assignment.fence)) == []
    assert net.send(first, "a", Declined(net.job(), 0, assignment.fence, "late")) == []


def test_an_acceptance_that_comes_late_is_not_placed_again() -> None:
    """Nobody else is there, so the slot waits; then its executor is heard after all."""
    net = NodeNet("a", "b")
    drop(net, Accepted, Renew)
    net.submit("a", batch(on=["b"]))
    net.until(lambda: net.led("a").plans[0].phase is Phase.WAITING)
    assert net.executors() == ["b"]
    assignment = net.slot("a").assignment
    assert assignment is not None
    net.send("b", "a", Accepted(net.job(), 0, assignment.fence))
    assert net.led("a").plans[0].phase is Phase.RUNNING
    net.run(5.0)
    assert len(net.boxes["b"].started) == 1


def test_a_job_that_everybody_declines_ends_with_their_reason() -> None:
    """They bid and then decline: the wait counts from when it was to be placed first."""
    net = NodeNet("a", "b", "c")
    drop(net, Award)

    def refuse() -> bool:
        held = net.held("a")
        if not held.done and net.led("a").plans[0].phase is Phase.OFFERED:
            declined(net, offered_to(net), "not in this house")
        return held.done

    net.submit("a", batch(on=["b", "c"], task=queue(0)))
    net.until(refuse, 120.0)
    net.run(2.0)
    (told,) = net.told("a", "job.failed")
    assert told.fields["exit_code"] == 1
    acceptance = net.slot("a").acceptance
    assert acceptance is not None
    assert acceptance.verdict == Verdict.FAULT
    assert "not in this house" in acceptance.reason


# ---- a result while the award is still open


def test_a_failure_before_the_acceptance_is_placed_again() -> None:
    """The acceptance is lost, the task fails at once: the round must not stay open for ever."""
    net = NodeNet("a", "b", "c")
    drop(net, Accepted)
    net.submit("a", batch(on=["b", "c"], **retry(3, "failure")))
    net.run(0.01)
    first = net.executor()
    net.end(first, 1)
    net.run(0.1)
    assert net.led("a").auction is None
    keep(net)
    net.run(3.0)
    assert net.executor() != first


def test_a_success_before_the_acceptance_closes_the_round() -> None:
    net = NodeNet("a", "b", cpu_m={"a": 0})
    drop(net, Accepted)
    net.submit("a", batch(count=2, on=["b"], **retry(3, "failure")))
    net.run(0.01)
    keep(net)
    net.end("b", 0, slot=0)
    assignment = net.slot("a", 1).assignment
    assert assignment is not None
    net.send("b", "a", Accepted(net.job(), 1, assignment.fence))
    net.run(0.1)
    assert net.led("a").auction is None
    net.end("b", 1, slot=1)
    net.run(3.0)
    assert net.executor(1) == "b"


def test_a_failure_after_the_award_was_given_up_still_counts() -> None:
    """Both acceptances were lost, so the slot waits; that its task failed counts all the same."""
    net = NodeNet("a", "b")
    drop(net, Accepted, Renew)
    net.submit("a", batch(on=["b"]))
    net.until(lambda: net.led("a").plans[0].phase is Phase.WAITING)
    net.end("b", 3)
    net.run(2.0)
    assert net.told("a", "job.failed")[0].fields["exit_code"] == 3
    assert len(net.boxes["b"].started) == 1


# ---- nobody fits


def test_without_patience_a_job_that_fits_nobody_fails_with_the_reasons() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["nobody"], task=queue(0)))
    net.run(0.1)
    (told,) = net.told("a", "execution.ended")
    assert "no peer took it: a: label name: wanted one of nobody, found 'a'; b: " in told.text
    assert net.held("a").done


def test_a_job_waits_and_says_why_once() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["late"], task=queue(300)))
    net.run(60.0)
    (told,) = net.told("a", "job.waiting")
    assert {reason["peer"] for reason in told.fields["reasons"]} == {"a", "b"}
    assert net.led("a").plans[0].dry_rounds > 3


def test_a_waiting_job_is_placed_soon_after_a_peer_comes_that_fits() -> None:
    net = NodeNet("a", "b", "late", settle_s=0.0)
    net.kill("late")
    net.run(5.0)
    net.submit("a", batch(on=["late"], task=queue(600)))
    net.run(100.0)
    net.boot("late")
    net.run(2.0)
    assert net.executor() == "late"


def test_the_queue_timeout_ends_the_wait() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["nobody"], task=queue(20)))
    net.run(19.0)
    assert not net.held("a").done
    net.run(2.0)
    acceptance = net.slot("a").acceptance
    assert acceptance is not None
    assert acceptance.verdict == Verdict.FAULT
    assert "QueueTimeout of 20 s is over" in acceptance.reason


def test_busy_peers_are_asked_again() -> None:
    net = NodeNet("a", "b", cpu_m={"b": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("one", on=["b"], task=full), "one")
    net.run(0.1)
    net.submit("a", batch("two", on=["b"], task=full), "two")
    net.run(0.1)
    assert net.executors(0, net.job("two")) == []
    net.end("b")
    net.run(3.0)
    assert net.executors(0, net.job("two")) == ["b"]


def test_a_device_with_room_again_takes_the_most_urgent_that_waits() -> None:
    """Each of two coordinators has jobs in line; neither knows of the other's."""
    net = NodeNet("a", "b", "c", cpu_m={"c": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("now", on=["c"], task=full), "now")
    net.run(0.1)
    order = [("a", "low", 10), ("b", "high", 80), ("a", "middle", 50), ("b", "last", 10)]
    for at, name, priority in order:
        net.submit(at, batch(name, on=["c"], task=full, Priority=priority), name)
        net.run(0.1)
    placed = []
    for _ in order:
        net.end("c")
        net.run(0.2)  # well before anybody asks again of itself
        placed += [
            name
            for _, name, _ in order
            if name not in placed and net.executors(0, net.job(name)) == ["c"]
        ]
    assert placed == ["high", "middle", "low", "last"]


def test_a_vacancy_counts_once_and_only_from_who_refused_as_busy() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"b": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("one", on=["b"], task=full), "one")
    net.run(0.1)
    net.submit("a", batch("two", on=["b"], task=full), "two")
    net.run(0.1)
    asked = len(net.sent("a", Announce))
    vacancy = Vacancy(net.job("two"))
    assert net.send("c", "a", vacancy) == []
    one = net.job("one")  # it has found its place: the room is for somebody else
    assert net.send("b", "a", Vacancy(one)) == [Send(PeerId("b"), Release(0, one))]
    net.send("b", "a", vacancy)
    assert len(net.sent("a", Announce)) == asked + 1
    net.run(0.2)
    assert net.send("b", "a", vacancy) != []  # it refused once more, and may tell once more


def test_who_has_room_is_asked_before_all_others() -> None:
    net = NodeNet("a", *"bcdefgh", cpu_m=dict.fromkeys("bcdefgh", 1000))
    full = {"Resources": {"CPU": "900m"}}
    for number, name in enumerate("bcdefgh"):
        net.submit("a", batch(f"n{number}", on=[name], task=full), f"n{number}")
    net.run(0.2)
    net.submit("a", batch("next", on=list("bcdefgh"), task=full), "next")
    net.run(0.3)
    asked = len(net.sent("a", Announce))
    net.end("e")
    net.run(0.2)
    assert net.executors(0, net.job("next")) == ["e"]
    assert [to for to, _ in net.sent("a", Announce)[asked:]] == ["e"]
    # The others keep no room for what has found its place.
    for name in "bcdfgh":
        assert net[name].executor.bidder.queue.waiters == {}


def test_room_that_comes_while_others_are_waited_for_counts_in_the_same_round() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"b": 1000})
    full = {"Resources": {"CPU": "900m"}}
    net.submit("a", batch("one", on=["b"], task=full), "one")
    net.run(0.1)
    drop(net, Bid, sender="c")
    net.submit("a", batch("two", on=["b", "c"], task=full), "two")
    net.run(0.1)
    net.end("b")
    net.run(0.1)
    keep(net)
    net.run(0.5)
    assert net.executors(0, net.job("two")) == ["b"]


def test_the_summary_tells_the_commonest_reasons_first() -> None:
    net = NodeNet("a", "b")
    placement = net.coordination("a").placement
    assert placement.summary([]) == "no other peer is known"
    reasons = [(PeerId(f"p{i}"), f"r{i}") for i in range(6)] + [(PeerId("q"), "r5")]
    assert placement.summary(reasons) == (
        "2 peers: r5; p0: r0; p1: r1; p2: r2; and 2 other reasons"
    )


# ---- failures


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
    assert net.coordination("a").placement._auctions == {}
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


def test_stopping_a_slot_names_a_fence_above_every_award() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=2, on=["b"]))
    led = net.led("a")
    placement = net.coordination("a").placement
    assert placement.stop(led, 0, "why") == []  # nobody was asked yet
    net.run(0.1)
    (send,) = placement.stop(led, 0, "why")
    assert isinstance(send, Send) and isinstance(send.message, Withdraw)
    assignment = net.slot("a").assignment
    assert assignment is not None
    assert send.message.fence > assignment.fence
    led.plans[0].phase = Phase.DONE
    assert placement.stop(led, 0, "why") == []


def test_announcements_go_mostly_to_those_who_are_connected() -> None:
    net = NodeNet("a", *"bcdefghij")
    net.submit("a", batch(on=["nobody"], task=queue(600)))
    placement = net.coordination("a").placement
    for far in "hij":
        net.handle("a", PeerDisconnected(PeerId(far)))
    led = net.led("a")
    led.held.job = batch(on="bcdefghij")
    auction = Auction(1, AuctionConfig(), 1, [], 0.0, 0)
    order = placement._candidates(led, auction, {})
    assert sorted(order) == list("bcdefghij")
    assert set(order[:NEAR_PER_FAR]) < set("bcdefg")
    assert order[NEAR_PER_FAR] in "hij"
    assert auction.answers[PeerId("a")].kind == "filtered"


def test_filtered_peers_are_remembered_up_to_a_bound() -> None:
    config = NodeConfig(coordination=CoordinationConfig(asked_max=2))
    net = NodeNet("a", "b", "c", "d", configs={"a": config})
    net.submit("a", batch(on=["nobody"], task=queue(0)))
    net.run(0.1)
    assert len(net.coordination("a").stories.of(net.job()).rounds[0].answers) == 2


def test_tells_name_the_slot_where_there_are_several() -> None:
    net = NodeNet("a", "b", "c", cpu_m={"a": 0})
    net.submit("a", batch(count=2, on=["b", "c"]))
    net.run(0.3)
    texts = [tell.text for tell in net.told("a", "job.awarded")]
    assert sorted(text.split(" to ")[0] for text in texts) == ["awarded slot 0", "awarded slot 1"]
    net.kill(net.executor(0))
    net.run(1.0)
    assert net.told("a", "job.placed-again")[0].text.startswith("slot ")


def test_nothing_is_lost_where_the_standbys_hear_nothing() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, JobSync, ResultOffer)
    net.submit("a", batch(on=["b"]))
    net.run(0.1)
    net.end("b")
    net.run(3.0)
    assert not net.held("a").done
    drop(net, JobSync)
    net.run(30.0)
    assert net.told("a", "job.completed")
    assert isinstance(net.boxes["a"].tells[-1], Tell)


def test_an_open_award_of_a_job_that_stays_is_not_waited_for_beyond_its_time() -> None:
    """Its round is over with the peer's death; whether the award arrived, nobody knows."""
    net = NodeNet("a", "b", "c")
    drop(net, Award)
    net.submit("a", batch(on=["b", "c"], Disconnect={"Replace": False}))
    net.run(0.01)
    first = offered_to(net)
    net.kill(first)
    keep(net)
    net.until(lambda: net.executors() != [], 10.0)
    assert net.executor() != first


def test_an_open_award_that_another_holder_overrules_is_repeated_to_whom_it_went() -> None:
    net = NodeNet("a", "b", "c")
    drop(net, Award)
    spec = batch(on=["b", "c"])
    net.submit("a", spec)
    net.run(0.01)
    book = Book(spec, author="a", shoal=net.shoal)
    later = SlotState(0, book.awarded(Fence(1, PeerId("a"), 5), 0, "zz"), b"")
    net.send("b", "a", book.sync(later, spec=b"", seq=9))
    net.run(0.6)
    assert [to for to, _ in net.sent("a", Award)][-1] == "zz"
    keep(net)
    net.run(1.0)
    assert len(net.executors()) == 1
    assignment = net.slot("a").assignment
    assert assignment is not None
    assert assignment.fence.attempt == 6


# ---- devices on metered links


def test_a_leaf_bids_and_runs_like_any_other() -> None:
    metered = NodeConfig(membership=MembershipConfig.preset("metered"))
    net = NodeNet("a", "b", "c", configs={"b": metered})
    net.submit("a", batch(on=["b"]))
    net.run(2.0)
    assert net.slot("a").assignment is not None
    assert len(net.boxes["b"].started) == 1
