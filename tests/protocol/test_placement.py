"""placement: what becomes of an award that is answered late, or never, and who is next."""

from __future__ import annotations

import pytest

from protocol.config import AuctionConfig, MembershipConfig, NodeConfig
from protocol.effects import Tell
from protocol.ids import PeerId
from protocol.led import Phase
from protocol.messages import (
    Accepted,
    Award,
    Declined,
    JobSync,
    Release,
    Renew,
    ResultOffer,
    SlotState,
    Withdraw,
)
from protocol.records import Fence, Verdict
from tests.protocol.jobs import Book
from tests.protocol.nodenet import NodeNet, batch, drop, keep, offered_to, queue, retry


def declined(net: NodeNet, executor: str, reason: str = "no") -> None:
    """`executor` answers the latest award so, whatever it would have said."""
    fence = net.slot("a").assignment
    assert fence is not None
    net.send(executor, "a", Declined(net.job(), 0, fence.fence, reason))


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
