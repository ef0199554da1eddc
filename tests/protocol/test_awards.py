"""awards: bid for, taken once or declined, and withdrawn."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import msgspec
import pytest

from protocol.bidding import DISK_FULL, DRAINING
from protocol.clock import NEVER
from protocol.config import AuctionConfig, PolicyConfig
from protocol.effects import Effect, Save, Send, StartTask, StopTask
from protocol.errors import RemoteProtocolError
from protocol.execution import State
from protocol.ids import JobId, PeerId, revision_of
from protocol.messages import (
    Accepted,
    Announce,
    Award,
    Bid,
    Declined,
    Refusal,
    Release,
    Requirements,
)
from protocol.records import Fence, Role
from protocol.resources import Resources
from protocol.wire import dumps, encode_record
from tests.protocol.jobs import Book, at, fence, job_spec, task_spec
from tests.protocol.onedevice import (
    BROKER,
    CONFIG,
    FIRST,
    MALLORY,
    ME,
    SECOND,
    A,
    B,
    Device,
    ack,
    device,
    keeping,
    offered,
    publishing_to_a_broker,
    running,
    withdraw,
)

# ---- bidding ----------------------------------------------------------------------------------


def announce(it: Device, auction: int = 1, cpu_m: int = 100) -> list[Effect]:
    needs = Requirements("process", cpu_m, 64 << 20, 0, 0)
    message = Announce(
        auction, it.book.id, it.book.revision, "default", PeerId("author"), 2, needs, 500
    )
    return it.executor.awards.on_announce(A, message, at(0.0))


def test_it_bids_and_keeps_the_capacity_until_released() -> None:
    it = device()
    (send,) = announce(it)
    assert isinstance(send, Send)
    assert isinstance(send.message, Bid)
    assert it.used.cpu_m == 200
    assert it.executor.deadline == AuctionConfig().hold_ms / 1000
    it.award(auction=1)
    assert it.used.cpu_m == 200  # one held, one taken
    assert it.executor.awards.on_release(A, Release(1), at(0.0)) == []
    assert it.used.cpu_m == 100


def test_holds_end_by_themselves() -> None:
    it = device()
    announce(it)
    assert it.pass_(5.0) == []
    assert it.used == Resources()
    assert it.executor.deadline == NEVER


def test_it_refuses_with_a_reason() -> None:
    (send,) = announce(device(), cpu_m=99_000)
    assert isinstance(send, Send)
    assert isinstance(send.message, Refusal)


def test_no_more_slots_have_volumes_here_than_a_device_bears() -> None:
    it = device(keeping())
    it.boots(replace(CONFIG, volume_slots_max=2))
    it.award(FIRST, 0, 1)
    why = "it keeps volumes of 2 slots of batch jobs already, each for 7 days"
    (third,) = it.award(FIRST, 2)
    assert isinstance(third, Send) and isinstance(third.message, Declined)
    assert third.message.reason == why
    (accepted, *_) = it.award(SECOND, 0)
    assert isinstance(accepted, Send) and isinstance(accepted.message, Accepted)

    numbers = count(1)

    def answer_to(job: str, asks: tuple[str, ...], kind: str = "batch") -> object:
        needs = Requirements("process", 100, 64 << 20, 0, 0, asks=asks)
        author = PeerId("author")
        message = Announce(
            next(numbers),
            JobId(job),
            it.book.revision,
            "default",
            author,
            1,
            needs,
            500,
            job_type=kind,
        )
        (send,) = it.executor.awards.on_announce(A, message, at(0.0))
        assert isinstance(send, Send)
        return send.message

    refusal = answer_to("other", ("volume data",))
    assert isinstance(refusal, Refusal) and (refusal.reason, refusal.final) == (why, False)
    assert isinstance(answer_to(it.book.id, ("volume data",)), Bid), "it may come back to them"
    assert isinstance(answer_to("other", ()), Bid)
    assert isinstance(answer_to("other", ("volume data",), "service"), Bid)


# ---- taking -----------------------------------------------------------------------------------


def test_an_award_is_journaled_then_accepted_then_started() -> None:
    it = device()
    award = Award(1, (it.book.awarded(FIRST),), it.book.spec_data, b"", (A, B))
    save, accepted, start = it.executor.awards.on_award(A, award, at(0.0))
    assert isinstance(save, Save)
    assert [bucket for bucket, _, _ in save.rows] == ["execution", "fence"]
    assert accepted == Send(A, Accepted(it.book.id, 0, FIRST))
    assert isinstance(start, StartTask)
    assert (start.execution, start.job, start.spec) == (it.key(), it.book.id, it.book.job)
    assert start.sources == (A, "author", B)
    assert start.timeout_s is None
    assert start.environment["SHOAL_PEER_ID"] == ME


def test_a_timeout_goes_with_the_start() -> None:
    it = device(Book(task_spec(Timeouts={"ExecutionTimeout": 90})))
    start = it.award()[1]
    assert isinstance(start, StartTask)
    assert start.timeout_s == 90.0


def test_a_forged_award_starts_nothing() -> None:
    it = device()
    book = it.book
    book.keyring("worker", Role.COMPUTE)
    good = book.awarded(FIRST)
    for spec, assignment in (
        (book.specified("worker"), good),
        (book.spec_data, book.sign(book.assignment(FIRST), "b")),
        (book.spec_data, book.sign(book.assignment(FIRST, executor="b"), "a")),
        (book.spec_data, book.awarded(FIRST, slot=3)),
        (b"", good),
        (book.spec_data, b""),
    ):
        for assignments in ((assignment,), (good, assignment)):
            with pytest.raises(RemoteProtocolError):
                it.executor.awards.on_award(A, Award(1, assignments, spec, b"", (A,)), at(0.0))
            # Not half of it either: that would be neither saved nor started.
            assert it.executor.executions == {}
            assert it.used == Resources()
            assert it.executor.awards.fences.known == {}


def test_a_job_of_a_later_version_is_declined_for_good() -> None:
    it = device()
    book = it.book
    later = dumps({**book.job.to_plain(), "Later": True})
    record = msgspec.structs.replace(book.spec, body=later)
    spec, revision = book.sign(record, "author"), revision_of(encode_record(record))
    award = msgspec.structs.replace(book.assignment(FIRST), revision=revision)
    message = Award(1, (book.sign(award, "a"),), spec, b"", (A,))
    (send,) = it.does(it.executor.awards.on_award(A, message, at(0.0)))
    assert isinstance(send, Send)
    declined = send.message
    assert isinstance(declined, Declined)
    assert declined.final
    assert declined.reason.startswith("this version cannot read its spec: Later: unknown key")
    assert it.disk == {}


# ---- objections -------------------------------------------------------------------------------


def test_an_award_beyond_the_capacity_is_declined() -> None:
    it = device(Book(task_spec(Resources={"CPU": "3"})))
    assert isinstance(it.award()[1], StartTask)
    other = Book(task_spec(Resources={"CPU": "3"}), key="other", shoal=it.book.shoal)
    it.book = other
    (send,) = it.award()
    assert isinstance(send, Send)
    assert isinstance(send.message, Declined)
    assert send.message.reason.startswith("busy")
    assert it.used.cpu_m == 3000
    assert "fence" in it.disk
    assert len(it.disk["fence"]) == 1  # a declined award leaves no trace


def declines(it: Device, of: Fence = FIRST) -> str:
    (send,) = it.award(of)
    assert isinstance(send, Send)
    assert isinstance(send.message, Declined)
    assert (send.message.job, send.message.slot, send.message.fence) == (it.book.id, 0, of)
    assert it.used == Resources()
    return send.message.reason


@pytest.mark.parametrize(
    ("book", "policy", "reason"),
    [
        (Book(), PolicyConfig(roles=("operate",)), "its author holds no role"),
        (Book(), PolicyConfig(authors=("friend",)), "jobs of author are not taken"),
        (Book(), PolicyConfig(namespaces=("lab",)), "namespace default is not taken"),
        (Book(), PolicyConfig(types=("service",)), "batch jobs are not taken"),
        (Book(), PolicyConfig(engines=("docker",)), "engine process is not taken"),
        (Book(), PolicyConfig(hours=("22:00-06:00",)), "does not know the time"),
        (
            Book(task_spec(Timeouts={"ExecutionTimeout": "2h"})),
            PolicyConfig(job_timeout_max_s=3600),
            "a timeout of 2h is over 1h",
        ),
        (
            Book(job_spec(Constraints=[{"Key": "arch", "Operator": "=", "Values": ["x"]}])),
            PolicyConfig(),
            "label arch",
        ),
    ],
)
def test_the_owners_word_counts_for_the_job_itself(
    book: Book, policy: PolicyConfig, reason: str
) -> None:
    """Whatever it was announced as, or whether at all: the announcement is only a claim."""
    assert reason in declines(device(book, policy))


def test_an_engine_that_is_not_here_runs_nothing() -> None:
    it = device()
    it.executor.bidder.engines = ()
    assert declines(it) == "engine process is not here"


def test_the_owner_may_welcome_any_role() -> None:
    it = device(policy=PolicyConfig(roles=()))
    assert len(it.award()) == 2


def test_a_draining_device_declines_what_it_bid_for_and_keeps_what_runs() -> None:
    it = running()
    it.executor.bidder.draining = True
    (send,) = it.award(FIRST, 1)
    assert isinstance(send, Send) and isinstance(send.message, Declined)
    assert send.message.reason == DRAINING
    assert it.award() == [Send(A, Accepted(it.book.id, 0, FIRST))], "it runs already"
    it.executor.bidder.draining = False
    assert isinstance(it.award(FIRST, 1)[1], StartTask)


def test_a_device_whose_disk_is_full_declines_what_it_bid_for_and_keeps_what_runs() -> None:
    it = running()
    it.executor.bidder.disk_full = True
    (send,) = it.award(FIRST, 1)
    assert isinstance(send, Send) and isinstance(send.message, Declined)
    assert send.message.reason == DISK_FULL
    assert it.award() == [Send(A, Accepted(it.book.id, 0, FIRST))], "it runs already"


def test_an_award_that_publishes_is_declined_without_its_broker_or_room_for_it() -> None:
    it = publishing_to_a_broker()
    it.executor.bidder.labels = {"arch": "arm64"}
    (declined,) = it.award()
    assert isinstance(declined, Send) and isinstance(declined.message, Declined)
    assert "[mqtt.brokers.home]" in declined.message.reason and declined.message.final
    it.executor.bidder.labels = BROKER
    it.executor.bidder.hindrance = lambda asks: "busy: many results wait"
    (declined,) = it.award(SECOND)
    assert isinstance(declined, Send) and isinstance(declined.message, Declined)
    assert declined.message.reason == "busy: many results wait" and not declined.message.final


# ---- again, later and earlier -----------------------------------------------------------------


def test_a_resent_award_is_accepted_again_and_started_once() -> None:
    it = device()
    it.award()
    for _ in range(2):
        assert it.award() == [Send(A, Accepted(it.book.id, 0, FIRST))]
    assert it.used.cpu_m == 100
    ended = it.end()
    assert offered(it.award()) == offered(ended)


def awarded_again(it: Device) -> Send:
    (answer,) = it.award(FIRST, now=5.0)
    assert isinstance(answer, Send) and answer.peer == A
    return answer


def test_of_what_has_ended_an_award_sent_again_is_told_how() -> None:
    """Who took the job over would wait a lease for what does not run."""
    it = running()
    before = offered(it.end(3))
    ack(it, "accepted")
    assert offered([awarded_again(it)]) == before


def test_of_what_was_stopped_an_award_sent_again_is_told_so() -> None:
    it = running()
    withdraw(it, SECOND, reason="enough")
    it.end(None)
    message = awarded_again(it).message
    assert isinstance(message, Declined) and message.reason == "it was stopped here: enough"
    assert message.known == SECOND, "it had begun"


def test_a_later_award_stops_an_older_one_here() -> None:
    it = running()
    accepted, stop, start = it.award(SECOND)
    assert accepted == Send(A, Accepted(it.book.id, 0, SECOND))
    assert stop == StopTask(it.key(), "superseded by a later award")
    assert isinstance(start, StartTask)
    assert it.used.cpu_m == 200
    assert it.award(fence(1, "a", 3))[1:2] == [StopTask(it.key(SECOND), stop.reason)]
    assert it.end(None) == []
    assert it.state() is State.SUPERSEDED
    assert it.used.cpu_m == 200


def test_another_slot_or_job_supersedes_nothing() -> None:
    it = running()
    assert len(it.award(fence(9, "a", 9), 1)) == 2
    it.book = Book(key="other", shoal=it.book.shoal)
    assert len(it.award(fence(9, "a", 9))) == 2


def test_an_older_award_comes_too_late() -> None:
    it = running()
    it.award(SECOND)
    late = Award(1, (it.book.awarded(fence(0, "z", 9)),), it.book.spec_data, b"", ())
    (send,) = it.executor.awards.on_award(B, late, at(0.0))
    assert isinstance(send, Send)
    assert isinstance(send.message, Declined)
    assert send.message.reason.startswith("superseded")


def test_an_award_that_was_run_and_forgotten_is_not_run_again() -> None:
    it = running()
    it.end()
    ack(it, "accepted")
    it.does(it.executor.retention.forget_ended(0, 0))
    assert it.executor.executions == {}
    assert "superseded" in declines(it)
    it.boots()
    assert "superseded" in declines(it)
    assert len(it.award(SECOND)) == 2


# ---- withdrawals ------------------------------------------------------------------------------


def test_a_withdrawal_stops_what_is_below_its_fence() -> None:
    it = running()
    assert withdraw(it, FIRST) == []  # at the fence is not below it
    assert withdraw(it, SECOND, reason="the job was stopped") == [
        StopTask(it.key(), "the job was stopped")
    ]
    assert withdraw(it, SECOND) == []
    it.end(None)
    assert it.state() is State.STOPPED
    assert it.used == Resources()
    assert it.executor.deadline == NEVER  # nobody waits for its result


def test_a_withdrawal_before_its_award_leaves_nothing_to_start() -> None:
    it = device()
    assert withdraw(it, SECOND) == []
    it.boots()
    assert "superseded" in declines(it)


def test_a_withdrawal_without_a_reason_still_gives_one() -> None:
    it = running()
    assert withdraw(it, SECOND) == [StopTask(it.key(), "withdrawn")]


def test_only_who_may_place_the_slot_withdraws_it() -> None:
    it = running()
    with pytest.raises(RemoteProtocolError):
        withdraw(it, SECOND, by=MALLORY)
    assert it.state() is State.RUNNING
    assert it.executor.awards.fences.known == {(it.book.id, 0): FIRST}
    with pytest.raises(RemoteProtocolError):
        withdraw(it, SECOND, by=B, slot=1)  # nothing of it is known here
    # A holder speaks for the coordinator that it follows; a successor for itself.
    assert len(withdraw(it, SECOND, by=B)) == 1
    assert withdraw(it, fence(2, "d", 1), by=PeerId("d"), slot=2) == []
