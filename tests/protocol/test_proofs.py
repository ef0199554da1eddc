"""proofs: what became of a slot, by signed records, however peers answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest

from protocol.effects import Effect, Reply, Send
from protocol.errors import RemoteProtocolError
from protocol.heldjob import HeldJob
from protocol.ids import JobId, PeerId
from protocol.inquiry import ANSWER_S, OPEN_MAX
from protocol.messages import ResultQuery, ResultReport
from protocol.proofs import BUSY, UNPROVEN, Proofs
from protocol.records import Fence, Role, Verdict
from tests.protocol.jobs import Book, at, fence
from tests.protocol.nodenet import NodeNet, batch

DIGEST = "cd" * 32
FENCE = fence(1, "coordinator", 1)


@dataclass
class Asker:
    """A peer that holds nothing, and asks those that it takes for holders."""

    holders: list[str] = field(default_factory=lambda: ["b", "c"])
    jobs: dict[JobId, HeldJob] = field(default_factory=dict)
    book: Book = field(default_factory=Book)

    def __post_init__(self) -> None:
        self.proofs = Proofs(
            self.book.keyring("me"), self.jobs, lambda job: [PeerId(p) for p in self.holders]
        )

    def ask(self, slot: int = 0) -> list[Effect]:
        return self.proofs.ask(1, self.book.id, slot, at(0.0))

    def report(self, sender: str, data: bytes = b"", seq: int = 1) -> list[Effect]:
        return self.proofs.on_report(PeerId(sender), ResultReport(seq, data))

    def accepted(
        self,
        of: Fence,
        verdict: Verdict = Verdict.SUCCESS,
        *,
        archive: str = DIGEST,
        slot: int = 0,
        by: str = "coordinator",
    ) -> bytes:
        result = self.book.result(of, verdict, slot)
        result = msgspec.structs.replace(result, archive=archive, archive_bytes=9)
        data = self.book.sign(result, "executor")
        return self.book.sign(self.book.acceptance(of, verdict, slot, data), by)


def told(effects: list[Effect]) -> tuple[object, object]:
    (reply,) = effects
    assert isinstance(reply, Reply) and reply.error == "", reply
    return reply.value["archive"], reply.value["executor"]


def test_all_that_may_hold_the_job_are_asked_and_the_record_is_taken_apart() -> None:
    it = Asker()
    query = ResultQuery(1, it.book.id, 0)
    assert it.ask() == [Send(PeerId("b"), query), Send(PeerId("c"), query)]
    assert it.report("b", it.accepted(FENCE)) == []
    effects = it.report("c")
    assert told(effects) == (DIGEST, "executor")
    assert it.proofs.deadline == float("inf")
    assert it.report("c") == [], "it was answered"


def test_of_two_records_the_one_counts_that_a_holder_would_keep() -> None:
    it = Asker()
    it.ask()
    it.report("b", it.accepted(fence(1, "coordinator", 1), Verdict.FAILURE, archive="ab" * 32))
    assert told(it.report("c", it.accepted(fence(2, "coordinator", 2)))) == (DIGEST, "executor")


def test_the_silent_are_waited_for_up_to_a_bound() -> None:
    it = Asker()
    it.ask()
    it.report("b", it.accepted(FENCE))
    assert it.proofs.deadline == ANSWER_S
    assert it.proofs.on_deadline(at(ANSWER_S / 2)) == []
    assert told(it.proofs.on_deadline(at(ANSWER_S))) == (DIGEST, "executor")


def test_what_nobody_has_a_record_of_is_not_proven() -> None:
    it = Asker()
    it.ask()
    it.report("b")
    assert it.report("c") == [Reply(1, error=UNPROVEN)]
    assert Asker(holders=[]).ask() == [Reply(1, error=UNPROVEN)]


def test_a_record_of_another_slot_or_job_proves_nothing() -> None:
    it = Asker()
    it.ask(slot=1)
    it.report("b", it.accepted(FENCE, slot=0))
    other = Asker(book=Book(key="other"))
    assert it.report("c", other.accepted(FENCE, slot=1)) == [Reply(1, error=UNPROVEN)]


@pytest.mark.parametrize("data", [b"nothing", b"\x80"])
def test_a_forged_record_is_refused_and_the_others_still_count(data: bytes) -> None:
    it = Asker()
    it.ask()
    with pytest.raises(RemoteProtocolError):
        it.report("b", data)
    assert told(it.report("c", it.accepted(FENCE))) == (DIGEST, "executor")


def test_one_that_forges_last_keeps_nobody_waiting() -> None:
    it = Asker()
    it.ask()
    it.report("c", it.accepted(FENCE))
    with pytest.raises(RemoteProtocolError):
        it.report("b", b"nothing")
    assert it.proofs.deadline <= 0.1
    assert told(it.proofs.on_deadline(at(0.1))) == (DIGEST, "executor")


def test_the_word_of_one_that_may_not_coordinate_is_refused() -> None:
    it = Asker()
    it.ask()
    it.book.keyring("guest", Role.COMPUTE)
    with pytest.raises(RemoteProtocolError):
        it.report("b", it.accepted(fence(1, "guest", 1), by="guest"))


def test_strangers_are_not_heard_and_questions_are_bounded() -> None:
    it = Asker()
    it.ask()
    assert it.report("stranger", it.accepted(FENCE)) == []
    for number in range(2, OPEN_MAX + 1):
        it.proofs.ask(number, it.book.id, 0, at(0.0))
    assert it.ask() == [Reply(1, error=BUSY)]


def test_who_holds_the_job_answers_and_who_does_not_says_so() -> None:
    net = NodeNet("a", "b", "c", "d", "e", "f")
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    net.end("b")
    net.run(0.5)
    job = net.job()
    for name in net.boxes:
        (send,) = net[name].proofs.on_query(PeerId("x"), ResultQuery(4, job, 0))
        assert isinstance(send, Send) and isinstance(send.message, ResultReport)
        assert (send.message.acceptance != b"") == (job in net[name].jobs), name
    (send,) = net["a"].proofs.on_query(PeerId("x"), ResultQuery(4, job, 7))
    assert isinstance(send, Send) and send.message == ResultReport(4)


def test_one_that_holds_nothing_of_it_learns_it_from_the_others() -> None:
    net = NodeNet("a", "b", "c", "d", "e", "f")
    net.submit("a", batch(on=["b"]))
    net.run(0.5)
    net.end("b")
    net.run(0.5)
    for name in net.boxes:
        request = net.result(name, net.job(), 0)
        net.run(ANSWER_S + 0.1)
        assert net.reply(name, request).value["executor"] == "b", name
