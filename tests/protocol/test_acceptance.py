"""acceptance: which results count, who hears of them and when."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from protocol.acceptance import outcome_of, result_of, submitted
from protocol.effects import Effect, Save, Send, Tell
from protocol.heldjob import HeldJob
from protocol.ids import PeerId
from protocol.led import Phase
from protocol.messages import (
    Accepted,
    Award,
    JobSync,
    JobSyncAck,
    Message,
    Renew,
    ResultAck,
    ResultOffer,
    Withdraw,
)
from protocol.records import Fence, Result, Verdict
from protocol.wire import seal
from tests.protocol.jobs import Book, fence, task_spec
from tests.protocol.nodenet import NodeNet, batch, queue, retry


@dataclass
class Case:
    """A job of `a`, awarded to `b`, whose messages the test writes itself."""

    net: NodeNet
    book: Book

    @property
    def held(self) -> HeldJob:
        return self.net.held("a")

    def result(
        self, of: Fence, verdict: Verdict = Verdict.SUCCESS, by: str = "b", slot: int = 0
    ) -> bytes:
        return seal(self.book.result(of, verdict, slot, by), self.net.shoal.keyring(by))

    def offer(
        self,
        of: Fence,
        verdict: Verdict = Verdict.SUCCESS,
        by: str = "b",
        *,
        award: bytes = b"",
        sender: str = "b",
    ) -> str:
        """Offer the result; how it was answered, or "" where it was not yet."""
        effects = self.net.send(sender, "a", ResultOffer(self.result(of, verdict, by), award))
        return status_of(effects)

    def done(self) -> bool:
        return self.held.done


def status_of(effects: list[Effect]) -> str:
    acks = [
        effect.message.status
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, ResultAck)
    ]
    return acks[0] if acks else ""


def case(*others: str, count: int = 1, **fields: object) -> Case:
    """Nobody but the test speaks for `b`: what it says itself about awards is lost."""
    net = NodeNet("a", "b", *others)
    spec = batch(count=count, on=["b"], **fields)  # type: ignore[arg-type]
    net.drop = lambda sender, to, message: isinstance(message, Award)
    net.submit("a", spec)
    net.run(0.4)  # past the later standby, within half of what an award is given
    for slot in net.held("a").slots:
        assert slot.assignment is not None
        net.send("b", "a", Accepted(net.job(), slot.index, slot.assignment.fence))
    return Case(net, Book(spec, author="a", shoal=net.shoal))


FIRST = fence(1, "a", 1)


# ---- results


def test_the_first_success_ends_the_slot_and_is_told_once_a_standby_has_it() -> None:
    it = case()
    assert it.offer(FIRST) == ""
    assert it.done()
    assert it.net.told("a", "job.completed") == []
    it.net.run(0.1)
    (ended,) = it.net.told("a", "execution.ended")
    assert ended.text == "completed on b with exit code 0"
    assert ended.fields["execution"] == it.held.execution_at(it.held.slots[0], FIRST)
    (told,) = it.net.told("a", "job.completed")
    assert told.fields == {"exit_code": 0, "name": "job"}
    acks = [message.status for _, message in it.net.sent("a", ResultAck)]
    assert acks == ["accepted"]


def test_a_result_offered_again_is_answered_again_and_told_once() -> None:
    it = case()
    it.offer(FIRST)
    it.net.run(0.1)
    assert it.offer(FIRST) == "accepted"
    it.net.run(2.0)
    assert len(it.net.told("a", "job.completed")) == 1
    assert it.offer(FIRST, Verdict.FAILURE) == "superseded"


def test_an_answer_waits_for_a_silent_standby_for_a_second_and_no_longer() -> None:
    it = case()
    it.net.drop = lambda sender, to, message: isinstance(message, JobSyncAck | Award)
    it.offer(FIRST)
    it.net.run(0.9)
    assert it.net.sent("a", ResultAck) == []
    it.net.run(0.2)
    assert len(it.net.sent("a", ResultAck)) == 1


def test_a_lone_coordinator_answers_at_once() -> None:
    net = NodeNet("a")
    net.submit("a", batch())
    net.run(0.1)
    net.end("a")
    assert [tell.kind for tell in net.boxes["a"].tells[-2:]] == ["execution.ended", "job.completed"]


def test_a_standby_that_dies_is_not_waited_for() -> None:
    it = case()
    it.net.drop = lambda sender, to, message: isinstance(message, JobSyncAck | Award)
    it.offer(FIRST)
    it.net.kill("b")
    it.net.run(1.1)
    assert it.net.told("a", "job.completed")


def test_a_result_of_an_earlier_attempt_counts_with_its_award() -> None:
    """Its executor was given up, but it was awarded, and its success is one."""
    it = case("c", **retry(5, "failure"))
    award = it.net.slot("a").assignment_data
    assert it.offer(FIRST, Verdict.FAILURE) == "accepted"
    it.net.until(lambda: it.net.led("a").plans[0].phase is Phase.OFFERED)
    assert it.offer(FIRST) == "unknown"
    assert not it.done()
    it.offer(FIRST, award=award)
    it.net.run(0.1)
    assert it.done()
    (stop,) = it.net.sent("a", Withdraw)
    assert stop[1].fence > fence(1, "a", 2)
    (ended,) = it.net.told("a", "execution.ended")
    assert ended.fields["execution"] == it.held.execution_at(it.held.slots[0], FIRST)
    story = it.net.coordination("a").stories.of(it.held.id)
    assert [attempt.state for attempt in story.attempts] == ["completed", "awarded"]


def test_a_result_that_nobody_awarded_is_not_taken() -> None:
    it = case("c")
    for of, by in (
        (fence(1, "a", 9), "b"),
        (fence(1, "zz", 9), "b"),
        (fence(0, "a", 1), "b"),
    ):
        assert it.offer(of, by=by) == "unknown"
        assert it.offer(of, Verdict.FAILURE, by=by) == "unknown"
    assert not it.done()
    assert it.net["a"].messaging.malformed == {}


def test_a_result_of_somebody_else_is_not_taken() -> None:
    it = case("c")
    award = it.net.slot("a").assignment_data
    later = it.book.awarded(fence(1, "b", 2), 0, "b")
    for of, by, data in (
        (FIRST, "c", b""),  # of b's attempt
        (fence(1, "b", 2), "c", later),  # with b's award
        (fence(1, "b", 3), "b", later),  # with that of another attempt
        (fence(1, "b", 2), "b", award),
        (fence(1, "b", 2), "b", b"garbage"),
    ):
        assert it.offer(of, by=by, award=data, sender="c") == ""
    assert not it.done()
    assert it.net["a"].messaging.malformed == {"c": 5}


def test_a_result_that_its_executor_did_not_sign_is_not_taken() -> None:
    it = case("c")
    forged = seal(it.book.result(FIRST, executor="b"), it.net.shoal.keyring("c"))
    for data in (forged, it.net.slot("a").assignment_data, b"garbage"):
        it.net.send("c", "a", ResultOffer(data))
    assert it.net["a"].messaging.malformed == {"c": 3}
    assert not it.done()


def test_a_result_of_another_revision_or_slot_is_past() -> None:
    it = case()
    other = Book(task_spec(2), author="a", shoal=it.net.shoal)
    assert other.id == it.book.id
    for book, slot in ((other, 0), (it.book, 7)):
        data = seal(book.result(FIRST, Verdict.SUCCESS, slot, "b"), it.net.shoal.keyring("b"))
        assert status_of(it.net.send("b", "a", ResultOffer(data))) == "superseded"


def test_who_does_not_answer_for_a_job_says_who_does() -> None:
    it = case("c")
    effects = it.net.send("b", "c", ResultOffer(it.result(FIRST)))
    (send,) = [effect for effect in effects if isinstance(effect, Send)]
    assert send.message == ResultAck(it.held.id, 0, FIRST, "unknown", PeerId("a"))
    stranger = Book(task_spec(), key="other", author="a", shoal=it.net.shoal)
    data = seal(stranger.result(FIRST, executor="b"), it.net.shoal.keyring("b"))
    assert status_of(it.net.send("b", "a", ResultOffer(data))) == "unknown"


def test_a_success_after_all_replaces_a_failure_and_is_told() -> None:
    it = case("c")
    award = it.net.slot("a").assignment_data
    it.offer(FIRST, Verdict.FAILURE)
    it.net.run(2.0)
    assert len(it.net.told("a", "job.failed")) == 1
    it.net["a"].coordination._retire()
    it.offer(FIRST, award=award)
    it.net.run(2.0)
    assert len(it.net.told("a", "job.completed")) == 1
    assert outcome_of(it.held, it.net.shoal.keyring("a")) == ("completed", 0)


def test_a_fault_is_not_the_tasks_failure() -> None:
    it = case(Retry={"Attempts": 1})
    it.offer(FIRST, Verdict.FAULT)
    it.net.run(0.1)
    acceptance = it.held.slots[0].acceptance
    assert acceptance is not None
    assert acceptance.verdict == Verdict.FAULT
    assert it.net.told("a", "job.failed")[0].fields["exit_code"] == 1


def test_a_failure_with_an_award_that_was_not_heard_of_counts() -> None:
    """The award of a predecessor: its executor is heard of first by its failure."""
    net = NodeNet("a", "b")
    spec = batch(on=["b"], task=queue(600))
    net.drop = lambda sender, to, message: isinstance(message, JobSync)
    net.submit("a", batch(on=["nobody"], task=queue(600)))
    book = Book(batch(on=["nobody"], task=queue(600)), author="a", shoal=net.shoal)
    it = Case(net, book)
    it.held.add_holders((PeerId("0"),))
    data = book.awarded(fence(1, "0", 1), 0, "b")
    assert it.offer(fence(1, "0", 1), Verdict.FAILURE, award=data) == ""
    net.run(2.0)
    assert it.done()
    assert net.told("a", "job.failed")[0].fields["exit_code"] == 3
    assert spec.count == 1


def test_a_result_of_a_successors_award_hands_the_job_over() -> None:
    it = case("c")
    later = it.book.awarded(fence(2, "c", 2), 0, "b")
    it.net.send(
        "c", "a", JobSync(1, it.held.id, b"", b"", 1, PeerId("a"), 9**12, (), (PeerId("c"),), b"")
    )
    assert it.offer(fence(2, "c", 2), award=later) == "unknown"
    assert (it.held.term, it.held.coordinator) == (2, "c")
    assert it.net.coordination("a").led == {}


# ---- stopping


def test_a_job_that_is_stopped_ends_each_slot_once() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(count=3, on=["b"]))
    net.run(0.2)
    net.end("b", 0, slot=1)
    net.run(0.1)
    request = net.stop("a", net.job())
    net.run(0.1)
    assert net.reply("a", request).value == {"job": net.job()}
    verdicts = [slot.acceptance.verdict for slot in net.held("a").slots if slot.acceptance]
    assert verdicts == [Verdict.STOPPED, Verdict.SUCCESS, Verdict.STOPPED]
    assert net.executors(0) == net.executors(2) == []
    assert [tell.text for tell in net.told("a", "job.stopped")] == ["job stopped"]
    led = net.coordination("a").led.get(net.job())
    if led is not None:
        assert net.coordination("a").acceptances.stop_slots(led, net.clock("a")) == []


def test_a_stopped_job_taken_in_hand_again_is_not_told_again() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(0.2)
    net.stop("a", net.job())
    net.run(2.0)
    net["a"].coordination._retire()
    held = net.held("a")
    book = Book(batch(on=["b"]), author="a", shoal=net.shoal)
    data = seal(book.result(FIRST, Verdict.FAILURE, executor="b"), net.shoal.keyring("b"))
    net.send("b", "a", ResultOffer(data))
    net.run(2.0)
    assert len(net.told("a", "job.stopped")) == 1
    assert held.done


def test_a_withdrawal_that_is_lost_is_made_up_for_by_the_next_renewal() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    net.drop = lambda sender, to, message: isinstance(message, Withdraw)
    net.stop("a", net.job())
    net.run(1.5)
    assert net.executors() == ["b"]
    net.run(5.0)
    assert net.executors() == []


def test_a_result_while_the_stop_is_under_way_still_counts() -> None:
    net = NodeNet("a", "b")
    net.submit("a", batch(on=["b"]))
    net.run(1.0)
    net.drop = lambda sender, to, message: isinstance(message, Withdraw | Renew)
    net.stop("a", net.job())
    net.end("b")
    net.run(2.0)
    assert net.told("a", "job.completed")


# ---- words for people


def test_the_worst_exit_code_is_the_jobs() -> None:
    book = Book(task_spec(3))
    keyring = book.keyring("a")
    held = book.held("a")
    for index, verdict in enumerate((Verdict.SUCCESS, Verdict.FAILURE, Verdict.FAULT)):
        data = book.accepted(fence(1, "a", 1), verdict, index)
        result = book.resulted(fence(1, "a", 1), verdict, index)
        acceptance = book.acceptance(fence(1, "a", 1), verdict, index, result)
        held.slots[index].offer_acceptance(acceptance, data)
    assert outcome_of(held, keyring) == ("failed", 3)
    first, _, third = held.slots
    assert first.acceptance is not None and third.acceptance is not None
    assert result_of(first.acceptance, keyring) == (0, "executor")
    assert result_of(third.acceptance, keyring) == (None, "executor")
    stopped = book.acceptance(fence(1, "a", 0), Verdict.STOPPED, 2)
    held.slots[2].offer_acceptance(stopped, b"data")
    assert outcome_of(held, keyring) == ("stopped", 3)
    assert result_of(stopped, keyring) == (None, None)


@pytest.mark.parametrize(("copies", "repeated"), [(1, False), (1, True), (2, False)])
def test_an_answer_warns_where_only_this_peer_has_the_job(copies: int, repeated: bool) -> None:
    answer = submitted(Book().held("a"), copies, repeated)
    assert bool(answer["warning"]) == (copies == 1 and not repeated)
    assert answer["unchanged"] == repeated


def test_what_counts_is_saved_before_anybody_is_told() -> None:
    it = case()
    effects = it.net.send("b", "a", ResultOffer(it.result(FIRST)))
    kinds = [type(effect) for effect in effects]
    assert kinds[0] is Save
    assert Tell not in kinds
    messages: list[type[Message]] = [type(e.message) for e in effects if isinstance(e, Send)]
    assert ResultAck not in messages
    assert isinstance(it.book.result(FIRST), Result)
