"""led: what is being done about each slot, until when, and when that is to be looked at again."""

from __future__ import annotations

from math import inf

from protocol.auction import Auction
from protocol.config import AuctionConfig
from protocol.led import Confirmation, Led, Phase, Plan, requirements_of
from tests.protocol.jobs import Book, fence, task_spec
from tests.protocol.nodenet import batch


def led(*plans: Plan, **times: float) -> Led:
    book = Book(task_spec(len(plans)))
    return Led(book.held("a", "b"), dict(enumerate(plans)), **times)


def waiting(due: float, dry_rounds: int = 0) -> Plan:
    return Plan(Phase.WAITING, due, 0.0, dry_rounds=dry_rounds)


def auction(closes_at: float, awarding: bool = False) -> Auction:
    return Auction(1, AuctionConfig(), 1, [], closes_at, 0, awarding=awarding)


def test_the_wait_begins_when_the_slot_stops_running() -> None:
    plan = waiting(1.0)
    plan.wait(5.0, 2.0)
    assert (plan.phase, plan.due, plan.since) == (Phase.WAITING, 7.0, 0.0)
    for phase in (Phase.BIDDING, Phase.OFFERED):
        plan.phase = phase
        plan.wait(6.0)
        assert (plan.due, plan.since) == (6.0, 0.0)
    plan.dry_rounds = 3
    plan.lease(20.0)
    assert (plan.phase, plan.due, plan.dry_rounds) == (Phase.RUNNING, 20.0, 0)
    plan.wait(10.0)
    assert plan.since == 10.0


def test_slots_are_taken_up_when_their_pause_is_over() -> None:
    job = led(waiting(1.0), waiting(3.0), Plan(Phase.RUNNING, 1.0, 0.0), waiting(2.0))
    assert job.waiting(2.0) == [0, 3]


def test_only_who_never_had_a_peer_queues() -> None:
    job = led(waiting(1.0), waiting(1.0), Plan(Phase.RUNNING, 1.0, 0.0))
    book = Book(task_spec(3))
    award = fence(1, "a", 1)
    job.held.slots[0].offer_assignment(book.assignment(award), book.awarded(award))
    assert job.queueing == [1]
    assert job.current(0, award)
    assert not job.current(0, fence(1, "a", 2))
    assert not job.current(1, award)


def test_the_deadline_is_the_first_of_all_that_pends() -> None:
    job = led(Plan(Phase.RUNNING, 15.0, 0.0), waiting(9.0), Plan(Phase.DONE, 1.0, 0.0))
    assert job.deadline == 9.0
    job.auction = auction(12.0)
    assert job.deadline == 12.0  # what waits is taken up when the round is over
    job.auction = auction(12.0, awarding=True)
    assert job.deadline == 15.0
    job.plans[0].phase = Phase.OFFERED
    assert job.deadline == 15.0
    job.total_due = 11.0
    assert job.deadline == 11.0
    job.confirmations.append(Confirmation(1, 10.0, []))
    assert job.deadline == 10.0


def test_the_queue_timeout_counts_once_somebody_was_asked() -> None:
    job = led(waiting(9.0), queue_due=5.0)
    assert job.deadline == 9.0
    job.plans[0].dry_rounds = 1
    assert job.deadline == 5.0


def test_a_job_that_has_ended_wants_nothing_more() -> None:
    job = led(Plan(Phase.DONE, inf, 0.0), total_due=3.0, queue_due=2.0)
    book = Book(task_spec(1))
    job.held.slots[0].offer_acceptance(book.acceptance(fence(1, "a", 1)), b"data")
    assert job.deadline == inf


def test_a_bidder_is_told_what_the_task_needs_and_no_more() -> None:
    archive = {"Type": "archive", "Params": {"Digest": "ab" * 32, "Size": 10}}
    inline = {"Type": "inline", "Params": {"URL": "data:,hi"}}
    sources = [
        {"Target": "/in", "Source": archive},
        {"Target": "/more", "Source": inline},
    ]
    spec = batch(on=["b"], task={"Resources": {"CPU": "250m", "GPU": 1}, "InputSources": sources})
    needs = requirements_of(Book(spec).held("a"))
    assert (needs.engine, needs.cpu_m, needs.gpus) == ("process", 250, 1)
    assert needs.constraints == (("name", "in", ("b",)),)
    assert needs.inputs == ("ab" * 32,)
    assert led(waiting(1.0)).needs.inputs == ()
