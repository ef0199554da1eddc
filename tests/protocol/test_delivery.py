"""delivery: a result is offered until somebody who answers for its job has it."""

from __future__ import annotations

from itertools import pairwise

from protocol.clock import NEVER
from protocol.delivery import HINTS_MAX
from protocol.effects import Send
from protocol.events import Booted
from protocol.ids import PeerId
from protocol.messages import ResultOffer
from tests.protocol.jobs import at
from tests.protocol.onedevice import FIRST, MALLORY, SECOND, A, B, C, ack, offered, running


def test_a_result_is_offered_with_growing_pauses_until_it_is_on_disk() -> None:
    it = running()
    it.end(now=0.0)
    offers = [0.0]
    while len(offers) < 9:
        now = it.executor.deadline
        assert it.pass_(now - 0.01) == []
        assert len(it.pass_(now)) == 1
        offers.append(now)
    pauses = [later - earlier for earlier, later in pairwise(offers)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert ack(it, "accepted") == []
    assert it.executor.deadline == NEVER
    it.boots()
    assert it.does(it.executor.boot(Booted(), at(500.0))) == []
    assert it.executor.deadline == NEVER


def test_whoever_may_not_know_of_the_award_gets_it_with_the_result() -> None:
    it = running()
    sends = [*it.end(now=0.0), *it.pass_(1.0), *it.pass_(3.0)]
    awards = [
        (send.peer, send.message.assignment)
        for send in sends
        if isinstance(send, Send) and isinstance(send.message, ResultOffer)
    ]
    # Its coordinator does know, unless its memory failed it: a second try allows for that.
    award = it.book.awarded(FIRST)
    assert awards == [(A, b""), (A, award), (B, award)]


def test_renewals_that_failed_do_not_lead_the_result_astray() -> None:
    it = running()
    for now in (5.0, 10.0, 15.0):
        it.pass_(now)
    assert offered(it.end(now=16.0))[0] == A
    assert it.executor.deadline == 17.0


def test_a_superseded_result_is_not_offered_again() -> None:
    it = running()
    it.end()
    ack(it, "superseded")
    assert it.executor.deadline == NEVER


def test_an_acknowledgement_is_believed_of_those_it_was_offered_to() -> None:
    it = running()
    it.end()
    assert ack(it, "accepted", by=MALLORY) == []
    assert ack(it, "accepted", of=SECOND) == []
    assert it.executor.executions[it.key()].owes
    ack(it, "accepted", by=C)
    assert not it.executor.executions[it.key()].owes
    assert ack(it, "accepted", by=C) == []


def test_a_hint_is_followed_at_once() -> None:
    it = running()
    it.end()
    ack(it, "unknown", hint=PeerId("d"))
    peer, _ = offered(it.pass_(1.0))
    assert peer == "d"
    assert ack(it, "accepted", by=PeerId("d")) == []
    assert it.executor.deadline == NEVER


def test_an_unknown_without_a_hint_waits_for_its_pause() -> None:
    it = running()
    it.end(now=0.0)
    before = it.executor.deadline
    ack(it, "unknown")
    ack(it, "unknown", hint=A)  # says nothing new
    assert it.executor.deadline == before


def test_two_who_name_each_other_do_not_make_a_storm() -> None:
    it = running()
    it.end(now=0.0)
    offers = 0
    for _ in range(40):  # all within one instant
        target = it.executor.executions[it.key()].coordinator
        ack(it, "unknown", by=target, hint=B if target == A else A)
        if it.executor.deadline <= 0.0:
            offers += len(it.pass_(0.0))
    assert offers == HINTS_MAX
    assert it.executor.deadline >= 1.0
