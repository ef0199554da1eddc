"""executor: awards taken once, leases renewed, results brought home, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count, pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.bidding import DISK_FULL, DRAINING, Bidder
from protocol.clock import NEVER, Now
from protocol.config import AuctionConfig, CoordinationConfig, PolicyConfig, StandingConfig
from protocol.effects import (
    Bucket,
    Effect,
    Publish,
    RemoveTask,
    Save,
    Send,
    StartTask,
    StopTask,
    StreamLines,
    Tell,
)
from protocol.errors import RemoteProtocolError
from protocol.events import Booted, BrokerChanged, TaskEnded, TaskFound, TaskProgressed
from protocol.execution import State
from protocol.executions import Executions
from protocol.executor import (
    CUT_OFF,
    DOING_CHARS_MAX,
    HINTS_MAX,
    RENEWALS_PER_MESSAGE,
    TAIL_BYTES,
    Executor,
)
from protocol.ids import ExecutionId, JobId, PeerId, execution_id, revision_of
from protocol.messages import (
    Accepted,
    Announce,
    Award,
    Bid,
    Declined,
    Refusal,
    Release,
    Renew,
    RenewAck,
    RenewAnswer,
    Requirements,
    ResultAck,
    ResultOffer,
    Withdraw,
)
from protocol.opsjournal import OpsJournal
from protocol.publishing import Publishing
from protocol.records import Fence, Keyring, Result, Role, Verdict
from protocol.resources import Resources
from protocol.restarts import Restarts
from protocol.tree import Plain
from protocol.wire import dumps, encode_record, open_sealed
from tests.protocol.jobs import Book, at, fence, job_spec, task_spec
from tests.protocol.strategies import structs

CONFIG = CoordinationConfig()
A, B, C, ME, MALLORY = (PeerId(name) for name in ("a", "b", "c", "executor", "mallory"))
MEMORY = b"memory"
FIRST, SECOND = fence(1, "a", 1), fence(1, "a", 2)
Disk = dict[Bucket, dict[str, bytes]]


def executor_of(
    keyring: Keyring,
    config: CoordinationConfig,
    bidder: Bidder,
    reachable: Callable[[PeerId], bool],
) -> Executor:
    restarts = Restarts(StandingConfig(), Random(1))
    return Executor(
        keyring,
        config,
        bidder,
        reachable,
        OpsJournal(MEMORY),
        restarts,
        lambda job, generation: "",
        lambda job: None,
        lambda: NEVER,
        Publishing(ME),
    )


class Device:
    """One executor, with a disk that is as durable as it is asked to be, and what it says."""

    def __init__(self, book: Book, policy: PolicyConfig | None = None) -> None:
        self.book = book
        self.policy = policy or PolicyConfig()
        self.disk: Disk = {}
        self.away: set[PeerId] = set()
        self.said: list[Effect] = []
        self.executor = self.boots()

    def boots(self, config: CoordinationConfig = CONFIG) -> Executor:
        capacity = Resources(4000, 1 << 33, 1 << 33)
        bidder = Bidder(AuctionConfig(), self.policy, ("process",), capacity, {"arch": "arm64"})
        self.executor = executor_of(
            self.book.keyring(ME),
            config,
            bidder,
            lambda peer: peer not in self.away,
        )
        assert self.executor.restore(self.disk) == []
        return self.executor

    def does(self, effects: list[Effect]) -> list[Effect]:
        """Carry saves out; the rest is what is left to look at."""
        for effect in effects:
            if isinstance(effect, Save):
                for bucket, key, value in effect.rows:
                    rows = self.disk.setdefault(bucket, {})
                    if value is None:
                        del rows[key]
                    else:
                        rows[key] = value
        return [effect for effect in effects if not isinstance(effect, Save | Tell)]

    def award(
        self,
        of: Fence = FIRST,
        *slots: int,
        now: float = 0.0,
        holders: tuple[str, ...] = ("a", "b", "c"),
        auction: int = 1,
    ) -> list[Effect]:
        award = Award(
            auction,
            tuple(self.book.awarded(of, slot) for slot in slots or (0,)),
            self.book.spec_data,
            b"",
            tuple(PeerId(name) for name in holders),
        )
        return self.does(self.executor.on_award(of.coordinator, award, at(now)))

    def end(
        self, code: int | None = 0, now: float = 1.0, of: Fence = FIRST, **more: object
    ) -> list[Effect]:
        event = replace(TaskEnded(self.key(of), code), **more)  # type: ignore[arg-type]
        return self.does(self.executor.on_ended(event, at(now)))

    def pass_(self, now: float) -> list[Effect]:
        effects = self.does(self.executor.on_deadline(at(now)))
        assert self.executor.deadline > now, "it wants to be woken for ever"
        return effects

    def key(self, of: Fence = FIRST, slot: int = 0) -> ExecutionId:
        return execution_id(self.book.revision, slot, of.term, of.coordinator, of.attempt)

    def state(self, of: Fence = FIRST, slot: int = 0) -> State:
        return self.executor.executions[self.key(of, slot)].state

    @property
    def used(self) -> Resources:
        return self.executor.reserved


def device(book: Book | None = None, policy: PolicyConfig | None = None) -> Device:
    return Device(book or Book(job_spec(Count=3)), policy)


def _offers(send: Send) -> bool:
    return isinstance(send.message, ResultOffer)


def running(book: Book | None = None, now: float = 0.0) -> Device:
    it = device(book)
    it.award(now=now)
    it.executor.on_started(it.key(), at(now))
    return it


def offered(effects: list[Effect]) -> tuple[PeerId, Result]:
    (effect,) = effects
    assert isinstance(effect, Send)
    assert isinstance(effect.message, ResultOffer)
    result = open_sealed(effect.message.result, Book().keyring("me")).record
    assert isinstance(result, Result)
    return effect.peer, result


def ack(
    it: Device, status: str, by: PeerId = A, of: Fence = FIRST, hint: PeerId | None = None
) -> list[Effect]:
    message = ResultAck(it.book.id, 0, of, status, hint)
    return it.does(it.executor.on_result_ack(by, message))


def answer(
    it: Device,
    verdict: str,
    by: PeerId = A,
    of: Fence = FIRST,
    now: float = 0.0,
    hint: PeerId | None = None,
    holders: tuple[PeerId, ...] = (),
) -> list[Effect]:
    message = RenewAck((RenewAnswer(it.book.id, 0, of, verdict, hint, holders),))
    return it.does(it.executor.on_renew_ack(by, message, at(now)))


def withdraw(
    it: Device, of: Fence, by: PeerId = A, slot: int = 0, reason: str = ""
) -> list[Effect]:
    return it.does(it.executor.on_withdraw(by, Withdraw(it.book.id, slot, of, reason), at(0.0)))


# ---- bidding ----------------------------------------------------------------------------------


def announce(it: Device, auction: int = 1, cpu_m: int = 100) -> list[Effect]:
    needs = Requirements("process", cpu_m, 64 << 20, 0, 0)
    message = Announce(
        auction, it.book.id, it.book.revision, "default", PeerId("author"), 2, needs, 500
    )
    return it.executor.on_announce(A, message, at(0.0))


def test_it_bids_and_keeps_the_capacity_until_released() -> None:
    it = device()
    (send,) = announce(it)
    assert isinstance(send, Send)
    assert isinstance(send.message, Bid)
    assert it.used.cpu_m == 200
    assert it.executor.deadline == AuctionConfig().hold_ms / 1000
    it.award(auction=1)
    assert it.used.cpu_m == 200  # one held, one taken
    assert it.executor.on_release(A, Release(1), at(0.0)) == []
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


# ---- awards -----------------------------------------------------------------------------------


def test_an_award_is_journaled_then_accepted_then_started() -> None:
    it = device()
    award = Award(1, (it.book.awarded(FIRST),), it.book.spec_data, b"", (A, B))
    save, accepted, start = it.executor.on_award(A, award, at(0.0))
    assert isinstance(save, Save)
    assert [bucket for bucket, _, _ in save.rows] == ["execution", "fence"]
    assert accepted == Send(A, Accepted(it.book.id, 0, FIRST))
    assert isinstance(start, StartTask)
    assert (start.execution, start.job, start.spec) == (it.key(), it.book.id, it.book.job)
    assert start.sources == (A, "author", B)
    assert start.timeout_s is None
    assert start.environment["SHOAL_PEER_ID"] == ME


def test_a_resent_award_is_accepted_again_and_started_once() -> None:
    it = device()
    it.award()
    for _ in range(2):
        assert it.award() == [Send(A, Accepted(it.book.id, 0, FIRST))]
    assert it.used.cpu_m == 100
    ended = it.end()
    assert offered(it.award()) == offered(ended)


def test_a_timeout_goes_with_the_start() -> None:
    it = device(Book(task_spec(Timeouts={"ExecutionTimeout": 90})))
    start = it.award()[1]
    assert isinstance(start, StartTask)
    assert start.timeout_s == 90.0


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
                it.executor.on_award(A, Award(1, assignments, spec, b"", (A,)), at(0.0))
            # Not half of it either: that would be neither saved nor started.
            assert it.executor.executions == {}
            assert it.used == Resources()
            assert it.executor.fences.known == {}


def test_a_job_of_a_later_version_is_declined_for_good() -> None:
    it = device()
    book = it.book
    later = dumps({**book.job.to_plain(), "Later": True})
    record = msgspec.structs.replace(book.spec, body=later)
    spec, revision = book.sign(record, "author"), revision_of(encode_record(record))
    award = msgspec.structs.replace(book.assignment(FIRST), revision=revision)
    message = Award(1, (book.sign(award, "a"),), spec, b"", (A,))
    (send,) = it.does(it.executor.on_award(A, message, at(0.0)))
    assert isinstance(send, Send)
    declined = send.message
    assert isinstance(declined, Declined)
    assert declined.final
    assert declined.reason.startswith("this version cannot read its spec: Later: unknown key")
    assert it.disk == {}


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
    (send,) = it.executor.on_award(B, late, at(0.0))
    assert isinstance(send, Send)
    assert isinstance(send.message, Declined)
    assert send.message.reason.startswith("superseded")


def test_an_award_that_was_run_and_forgotten_is_not_run_again() -> None:
    it = running()
    it.end()
    ack(it, "accepted")
    it.does(it.executor.forget_ended(0, 0))
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
    assert it.executor.fences.known == {(it.book.id, 0): FIRST}
    with pytest.raises(RemoteProtocolError):
        withdraw(it, SECOND, by=B, slot=1)  # nothing of it is known here
    # A holder speaks for the coordinator that it follows; a successor for itself.
    assert len(withdraw(it, SECOND, by=B)) == 1
    assert withdraw(it, fence(2, "d", 1), by=PeerId("d"), slot=2) == []


# ---- a task's life ----------------------------------------------------------------------------


def test_a_result_is_on_disk_before_it_is_offered() -> None:
    it = running()
    event = TaskEnded(it.key(), 3, "exited", 1500, b"o" * 5000, b"e" * 5000)
    save, tell, offer = it.executor.on_ended(event, at(2.0))
    assert isinstance(save, Save)
    assert isinstance(tell, Tell)
    assert tell.text == "job slot 0 failed here with exit code 3: exited"
    peer, result = offered([offer])
    assert peer == A
    assert (result.verdict, result.exit_code, result.reason) == (Verdict.FAILURE, 3, "exited")
    assert (result.stdout_tail, result.stderr_tail) == (b"o" * TAIL_BYTES, b"e" * TAIL_BYTES)
    assert (result.executor, result.fence, result.revision) == (ME, FIRST, it.book.revision)
    assert (result.started_ms, result.ended_ms) == (at(0.0).wall_ms, at(2.0).wall_ms)
    assert result.duration_ms == 1500
    assert it.used == Resources()


def test_a_task_ends_once() -> None:
    it = running()
    assert len(it.end()) == 1
    assert it.end(7) == []
    assert it.state() is State.COMPLETED
    assert it.end(of=SECOND) == []  # nothing is known of it


def test_a_start_counts_once_and_only_for_what_starts() -> None:
    it = device()
    assert it.executor.on_started(it.key(), at(0.0)) == []
    it.award()
    (tell,) = it.executor.on_started(it.key(), at(4.0))
    assert isinstance(tell, Tell)
    assert it.executor.on_started(it.key(), at(9.0)) == []
    assert it.executor.executions[it.key()].started_ms == at(4.0).wall_ms


def test_what_the_engine_swallows_is_given_up_and_stopped_should_it_start_after_all() -> None:
    it = device(Book())
    it.award()
    late = CONFIG.start_max_s
    assert StopTask(it.key(), "") not in it.pass_(late - 1)
    effects = it.pass_(late)
    _, result = offered([e for e in effects if isinstance(e, Send) and _offers(e)])
    assert (result.verdict, result.reason) == (
        Verdict.FAULT,
        f"the device did not start it within {late:.0f} s",
    )
    assert any(isinstance(effect, StopTask) for effect in effects)
    assert (it.state(), it.used) == (State.FAILED, Resources())
    assert it.executor.on_started(it.key(), at(late + 1)) == [
        StopTask(it.key(), "it started too late")
    ]


def test_what_was_withdrawn_and_never_started_is_no_longer_waited_for() -> None:
    it = device(Book())
    it.award()
    it.does(it.executor.on_withdraw(A, Withdraw(it.book.id, 0, SECOND, "not wanted"), at(0.0)))
    effects = it.pass_(CONFIG.start_max_s)
    assert [type(effect) for effect in effects if not isinstance(effect, Send)] == [StopTask]
    assert (it.state(), it.used) == (State.STOPPED, Resources())


def test_what_could_not_start_is_a_fault_not_a_failure() -> None:
    it = device(Book())
    it.award()
    _, result = offered(it.end(None, reason="no such program"))
    assert (result.verdict, result.exit_code) == (Verdict.FAULT, -1)
    assert result.reason == "no such program"
    assert result.started_ms == result.ended_ms
    assert it.state() is State.FAILED


# ---- bringing results home --------------------------------------------------------------------


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


def test_it_asks_the_coordinator_twice_and_then_the_holders_in_turn() -> None:
    it = running()
    peers = [offered(it.end(now=0.0))[0]]
    while len(peers) < 6:
        peers.append(offered(it.pass_(it.executor.deadline))[0])
    assert peers == [A, A, B, C, A, B]


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


def test_who_cannot_be_reached_is_passed_over() -> None:
    it = running()
    it.away = {A, C}
    assert offered(it.end(now=0.0))[0] == B
    it.away = {A, B, C}
    assert offered(it.pass_(it.executor.deadline))[0] == A  # it may come back: it is dialled


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


# ---- leases -----------------------------------------------------------------------------------


def renewals(effects: list[Effect]) -> list[tuple[PeerId, int]]:
    found = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Renew)
        found.append((effect.peer, len(effect.message.items)))
    return found


def test_leases_are_renewed_together() -> None:
    it = device()
    it.award(FIRST, 0)
    it.award(FIRST, 1, now=0.3)
    assert it.pass_(4.9) == []
    assert renewals(it.pass_(5.0)) == [(A, 2)]
    assert it.executor.deadline == 10.0


def test_a_lease_that_is_not_due_yet_waits_for_its_own_time() -> None:
    it = device()
    it.award(FIRST, 0)
    it.award(FIRST, 1, now=2.0)
    assert renewals(it.pass_(5.0)) == [(A, 1)]
    assert it.executor.deadline == 7.0


def test_renewals_are_a_few_to_a_message() -> None:
    it = device(Book(task_spec(count=50, Resources={"CPU": "1m", "Memory": "1Mi"})))
    for slot in range(40):
        it.award(FIRST, slot)
    assert renewals(it.pass_(5.0)) == [(A, RENEWALS_PER_MESSAGE), (A, 40 - RENEWALS_PER_MESSAGE)]


def test_a_successor_gets_the_award_with_the_renewal() -> None:
    it = running()
    (to_a,) = it.pass_(5.0)
    it.away = {A}
    (to_b,) = it.pass_(10.0)
    assert isinstance(to_a, Send)
    assert isinstance(to_b, Send)
    assert isinstance(to_a.message, Renew)
    assert isinstance(to_b.message, Renew)
    assert to_a.message.items[0].assignment == b""
    assert to_b.peer == B
    assert to_b.message.items[0].assignment == it.book.awarded(FIRST)
    assert (to_b.message.items[0].state, to_b.message.items[0].fence) == ("running", FIRST)


def test_a_lease_that_is_kept_says_who_holds_the_job_now() -> None:
    it = running()
    it.pass_(5.0)
    answer(it, "kept", now=5.1, hint=A, holders=(A, PeerId("d")))
    execution = it.executor.executions[it.key()]
    assert (execution.heard_at, execution.tries) == (5.1, 0)
    assert execution.holders == (A, "d")
    answer(it, "kept", now=6.0)
    assert execution.holders == (A, "d")


def test_unknown_leads_to_the_next_holder_and_a_hint_to_the_one_named() -> None:
    it = running()
    assert renewals(it.pass_(5.0)) == [(A, 1)]
    answer(it, "unknown")
    assert renewals(it.pass_(10.0)) == [(A, 1)]
    answer(it, "unknown")
    assert renewals(it.pass_(15.0)) == [(B, 1)]
    answer(it, "unknown", by=B, hint=C)
    assert renewals(it.pass_(20.0)) == [(C, 1)]


def test_over_stops_the_task_for_good() -> None:
    it = running()
    assert answer(it, "over") == [StopTask(it.key(), "superseded: the slot was decided without it")]
    assert answer(it, "over") == []
    assert it.end(None) == []
    assert it.state() is State.SUPERSEDED


def test_an_answer_is_about_its_own_fence_and_from_whom_it_was_asked() -> None:
    it = running()
    for by, of in ((MALLORY, FIRST), (A, SECOND), (A, fence(0, "a", 1))):
        assert answer(it, "over", by=by, of=of) == []
        assert answer(it, "kept", by=by, of=of, hint=MALLORY, now=9.0) == []
    execution = it.executor.executions[it.key()]
    assert (execution.stopping, execution.coordinator, execution.heard_at) == ("", A, 0.0)


def test_a_lost_coordinator_hurries_what_it_was_to_hear() -> None:
    it = running()
    it.award(FIRST, 1)
    it.end(now=1.0)
    it.executor.on_peer_lost(B, at(1.0))
    assert it.executor.deadline == 2.0
    it.away = {A}
    assert it.executor.on_peer_lost(A, at(1.1)) == []
    assert it.executor.deadline == 1.6
    effects = it.pass_(1.6)
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == [B, B]


def test_what_was_sent_before_its_connection_stood_is_said_again_when_it_does() -> None:
    it = running()
    it.award(FIRST, 1)
    it.end(now=1.0)
    it.pass_(2.0)
    it.pass_(4.0)
    pending = it.executor.deadline
    it.executor.on_peer_back(B, at(4.1))
    assert it.executor.deadline == pending > 4.6, "that is another"
    assert it.executor.on_peer_back(A, at(4.1)) == []
    effects = it.pass_(4.6)
    assert [effect.peer for effect in effects if isinstance(effect, Send)] == [A, A]


# ---- being cut off ----------------------------------------------------------------------------


def test_by_default_a_task_that_is_cut_off_runs_on() -> None:
    it = running()
    for now in range(5, 500, 5):
        assert all(isinstance(effect, Send) for effect in it.pass_(now))
    assert it.state() is State.RUNNING


CUT = Book(job_spec(Disconnect={"StopAfter": 30, "Replace": False}))


def test_a_job_may_want_to_be_stopped_when_cut_off() -> None:
    it = running(CUT)
    it.pass_(5.0)
    answer(it, "kept", now=6.0)
    assert StopTask(it.key(), CUT_OFF) not in it.pass_(35.9)
    assert StopTask(it.key(), CUT_OFF) in it.pass_(36.0)
    it.pass_(41.0)  # once


def test_what_was_stopped_so_is_a_fault_that_its_coordinator_hears_of() -> None:
    """Or a slot that may not be placed elsewhere would be waited for without end."""
    it = running(CUT)
    it.pass_(30.0)
    peer, result = offered(it.end(143, now=31.0))
    assert (peer in (A, B), result.verdict, result.reason) == (True, Verdict.FAULT, CUT_OFF)
    assert it.state() is State.STOPPED
    it.boots()
    it.executor.boot(Booted(), at(32.0))
    assert it.executor.executions[it.key()].owes


def test_a_success_counts_even_while_it_is_stopped_for_being_cut_off() -> None:
    it = running(CUT)
    it.pass_(30.0)
    _, result = offered(it.end(0, now=30.1))
    assert result.verdict == Verdict.SUCCESS
    assert it.state() is State.COMPLETED


def test_a_short_stop_after_still_leaves_time_for_two_renewals() -> None:
    it = running(Book(job_spec(Disconnect={"StopAfter": 1})))
    it.pass_(9.9)
    assert it.executor.executions[it.key()].stopping == ""
    it.pass_(10.0)
    assert it.executor.executions[it.key()].stopping == CUT_OFF


# ---- restarts ---------------------------------------------------------------------------------


def boot(it: Device, *found: TaskFound, now: float = 100.0) -> list[Effect]:
    it.boots()
    return it.does(it.executor.boot(Booted(found), at(now)))


def test_what_still_runs_is_adopted() -> None:
    it = device()
    it.award()
    assert boot(it, TaskFound(it.key(), running=True, duration_ms=60_000)) == []
    assert it.state() is State.RUNNING
    assert it.used.cpu_m == 100
    assert it.executor.executions[it.key()].started_ms == at(40.0).wall_ms
    assert renewals(it.pass_(100.0)) == [(A, 1)]


def test_what_ended_meanwhile_has_its_result() -> None:
    it = running()
    peer, result = offered(boot(it, TaskFound(it.key(), False, 4, "exited", 7000)))
    assert (peer, result.exit_code, result.duration_ms) == (A, 4, 7000)
    assert it.used == Resources()


def test_what_nothing_is_left_of_is_lost() -> None:
    it = running()
    _, result = offered(boot(it))
    assert result.verdict == Verdict.FAULT
    assert "power cut" in result.reason
    assert it.state() is State.LOST


def test_a_result_still_owed_is_offered_at_once() -> None:
    it = running()
    it.end()
    assert boot(it) == []
    assert offered(it.pass_(100.0))[1].verdict == Verdict.SUCCESS


def test_a_stop_under_way_goes_on() -> None:
    it = running()
    withdraw(it, SECOND, reason="the job was stopped")
    assert boot(it, TaskFound(it.key(), running=True)) == [
        StopTask(it.key(), "the job was stopped")
    ]
    it.end(None)
    assert it.state() is State.STOPPED


@pytest.mark.parametrize("found", [(), (TaskFound(ExecutionId("x"), False, 0),)])
def test_a_stop_that_was_done_meanwhile_owes_no_result(found: tuple[TaskFound, ...]) -> None:
    it = running()
    withdraw(it, SECOND)
    here = tuple(replace(task, execution=it.key()) for task in found)
    assert boot(it, *here) == []
    assert it.state() is State.STOPPED
    assert it.executor.deadline == NEVER


@pytest.mark.parametrize("key", ["a", "b", "c", "d", "e", "f"])  # ids, and so their order, differ
def test_what_an_end_meanwhile_makes_room_for_starts_once(key: str) -> None:
    """A later award of a service's slot waits for the older to stop, which it did unseen."""
    it = running(Book(job_spec(Type="service"), key))
    assert [type(effect) for effect in it.award(SECOND)] == [Send, StopTask]
    started = boot(it, TaskFound(it.key(), False, 0))
    assert [e.execution for e in started if isinstance(e, StartTask)] == [it.key(SECOND)]
    assert it.state(SECOND) is State.STARTING


def test_a_cut_off_task_that_vanished_is_still_told_of() -> None:
    it = running(CUT)
    it.pass_(30.0)
    assert offered(boot(it))[1].reason == CUT_OFF


def test_what_waited_for_one_that_was_cut_off_starts_when_that_has_ended() -> None:
    it = running(Book(job_spec(Type="service", Disconnect={"StopAfter": 30})))
    assert StopTask(it.key(), CUT_OFF) in it.pass_(36.0)
    it.award(SECOND, now=37.0)
    assert it.state(SECOND) is State.PENDING
    started = it.end(None, now=38.0)
    assert [e.execution for e in started if isinstance(e, StartTask)] == [it.key(SECOND)]


def test_strays_are_stopped_and_what_is_left_of_them_removed() -> None:
    it = running()
    it.end()
    runs, ended = ExecutionId("r" * 32), ExecutionId("e" * 32)
    effects = boot(
        it,
        TaskFound(runs, running=True),
        TaskFound(ended, running=False, exit_code=0),
        TaskFound(it.key(), running=True),  # it was said to have ended
    )
    assert effects == [
        StopTask(runs, "nothing is known of it"),
        RemoveTask(ended),
        StopTask(it.key(), "nothing is known of it"),
    ]
    assert boot(it, TaskFound(it.key(), running=False)) == []  # its output is kept


def test_a_row_that_cannot_be_read_is_named() -> None:
    it = running()
    it.disk["execution"]["broken"] = b"\x80"
    it.disk["fence"]["broken"] = b"\x80"
    fresh = executor_of(it.book.keyring(ME), CONFIG, it.executor.bidder, lambda peer: True)
    assert [each.key for each in fresh.restore(it.disk)] == ["broken", "broken"]
    assert list(fresh.executions) == [it.key()]


# ---- forgetting -------------------------------------------------------------------------------


def ended(count: int, it: Device | None = None, owed: bool = False) -> Device:
    it = it or device()
    for attempt in range(1, count + 1):
        of = fence(1, "a", attempt)
        it.award(of, now=attempt)
        it.executor.on_started(it.key(of), at(attempt))
        it.end(of=of, now=float(attempt))
        if not owed:
            ack(it, "accepted", of=of)
    return it


def test_the_oldest_are_forgotten_beyond_the_number_kept() -> None:
    it = ended(4)
    effects = it.does(it.executor.forget_ended(3, 0))
    assert effects == [RemoveTask(it.key(FIRST))]
    assert sorted(it.disk["execution"]) == sorted(it.executor.executions)
    assert it.does(it.executor.forget_ended(3, 0)) == []


def test_time_counts_from_the_end() -> None:
    it = running(now=0.0)
    it.end(now=1_000_000.0)  # it ran for longer than anything is kept
    ack(it, "accepted")
    assert it.does(it.executor.forget_ended(500, at(999_999.0).wall_ms)) == []
    assert len(it.does(it.executor.forget_ended(500, at(1_000_001.0).wall_ms))) == 1


def test_an_adopted_or_stopped_one_is_kept_as_long_as_others() -> None:
    it = running()
    withdraw(it, SECOND)
    it.end(None, now=100.0)
    assert it.does(it.executor.forget_ended(500, at(99.0).wall_ms)) == []
    it = device()
    it.award()
    boot(it, TaskFound(it.key(), running=True), now=100.0)
    it.end(now=101.0)
    ack(it, "accepted")
    assert it.does(it.executor.forget_ended(500, at(100.0).wall_ms)) == []


def test_what_runs_or_is_owed_counts_for_nothing_but_its_age() -> None:
    it = ended(3, owed=True)
    it.award(fence(2, "a", 9))
    assert it.does(it.executor.forget_ended(0, 0)) == []
    removed = it.does(it.executor.forget_ended(0, at(1000.0).wall_ms))
    assert len(removed) == 3
    assert list(it.executor.executions) == [it.key(fence(2, "a", 9))]
    assert it.executor.deadline < NEVER


def test_a_busy_device_forgets_between_the_sweeps_too() -> None:
    it = device()
    it.boots(replace(CONFIG, executions_kept=5))
    ended(60, it)
    assert len(it.executor.executions) <= 11


def keeping() -> Book:
    return Book(task_spec(3, Volumes=[{"Name": "data", "Target": "data"}]))


def test_of_what_has_volumes_the_latest_of_each_slot_is_kept() -> None:
    """A slot may come back to them; but attempts without end are no more than others."""
    it = ended(4, device(keeping()))
    it.award(fence(1, "a", 1), 1)
    it.end(of=FIRST, now=9.0)
    removed = it.does(it.executor.forget_ended(0, 0))
    gone = [effect.execution for effect in removed if isinstance(effect, RemoveTask)]
    latest = fence(1, "a", 4)
    assert gone == [it.key(fence(1, "a", number)) for number in (1, 2, 3)]
    assert list(it.executor.executions) == [it.key(latest), it.key(FIRST, 1)]
    assert it.executor.keeps(it.book.id)


def test_while_an_execution_cannot_be_read_no_volume_is_given_up() -> None:
    """After a downgrade: it may be of any job."""
    it = device(keeping())
    assert not it.executor.keeps(it.book.id)
    unread = it.executor.restore({"execution": {"later": dumps(["of a later version"])}})
    assert [each.key for each in unread] == ["later"]
    assert it.executor.keeps(it.book.id)


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
        (send,) = it.executor.on_announce(A, message, at(0.0))
        assert isinstance(send, Send)
        return send.message

    refusal = answer_to("other", ("volume data",))
    assert isinstance(refusal, Refusal) and (refusal.reason, refusal.final) == (why, False)
    assert isinstance(answer_to(it.book.id, ("volume data",)), Bid), "it may come back to them"
    assert isinstance(answer_to("other", ()), Bid)
    assert isinstance(answer_to("other", ("volume data",), "service"), Bid)


def test_what_has_volumes_is_not_sorted_at_each_award(monkeypatch: pytest.MonkeyPatch) -> None:
    it = device(keeping())
    it.boots(replace(CONFIG, executions_kept=1))
    sorts: list[int] = []
    surplus = Executions.surplus

    def counted(self: Executions, keep: int, before_ms: int) -> list[ExecutionId]:
        sorts.append(len(self))
        return surplus(self, keep, before_ms)

    monkeypatch.setattr(Executions, "surplus", counted)
    for slot in range(3):
        it.award(FIRST, slot)
    assert len(it.executor.executions) == 3 and sorts == []


# ---- anything at all --------------------------------------------------------------------------

MESSAGES = (Announce, Award, Release, Withdraw, RenewAck, ResultAck)


@settings(max_examples=150)
@given(st.lists(st.sampled_from(MESSAGES).flatmap(structs), max_size=4), st.integers(0, 1))
def test_no_message_ends_the_agent_or_leaks_capacity(messages: list[object], ran: int) -> None:
    it = running()
    if ran:
        it.end()
    for message in messages:
        try:
            match message:
                case Announce():
                    it.executor.on_announce(A, message, at(1.0))
                case Award():
                    it.executor.on_award(A, message, at(1.0))
                case Release():
                    it.executor.on_release(A, message, at(1.0))
                case Withdraw():
                    it.executor.on_withdraw(A, message, at(1.0))
                case RenewAck():
                    it.executor.on_renew_ack(A, message, at(1.0))
                case ResultAck():
                    it.executor.on_result_ack(A, message)
        except RemoteProtocolError:
            pass
    it.pass_(100.0)
    if not ran:
        it.end()
    assert it.used == Resources()


def saved(disk: Mapping[Bucket, Mapping[str, bytes]]) -> list[str]:
    return sorted(disk.get("execution", {}))


def test_the_wall_clock_may_say_anything() -> None:
    it = device()
    it.award()
    it.executor.on_started(it.key(), Now(0.0, 5.0, wall_trusted=False))
    it.does(it.executor.on_ended(TaskEnded(it.key(), 0, duration_ms=9000), Now(1.0, 0.0)))
    assert it.executor.executions[it.key()].ended_ms == 0
    assert saved(it.disk) == [it.key()]


def test_ports_that_were_chosen_are_told_at_once_and_with_each_renewal() -> None:
    it = device()
    it.award()
    it.executor.on_started(it.key(), at(1.0), (("web", 20_001),))
    assert it.executor.deadline == 1.0
    (send,) = [e for e in it.executor.on_deadline(at(1.0)) if isinstance(e, Send)]
    assert isinstance(send.message, Renew)
    assert [item.ports for item in send.message.items] == [(("web", 20_001),)]


def test_the_ports_of_a_task_that_is_found_again_are_told_too() -> None:
    it = running()
    found = TaskFound(it.key(), True, ports=(("web", 20_002),))
    it.executor.boot(Booted((found,)), at(5.0))
    assert it.executor.executions[it.key()].ports == (("web", 20_002),)


def test_what_takes_long_before_a_start_is_told_with_the_next_renewal_at_once() -> None:
    it = device()
    it.award()
    assert it.executor.on_progress(TaskProgressed(it.key(), "pulling " + "x" * 900), at(1.0)) == []
    assert it.executor.deadline == 1.0
    effects = it.executor.on_deadline(at(1.0))
    assert not any(isinstance(effect, Save) for effect in effects)
    assert [len(doing) for doing in renewed(effects)] == [DOING_CHARS_MAX]
    it.executor.on_started(it.key(), at(2.0))
    assert renewed(it.executor.on_deadline(at(2.0))) == [""], "that is news too"
    it.executor.on_progress(TaskProgressed(it.key(), "late"), at(3.0))
    it.executor.on_progress(TaskProgressed(ExecutionId("other"), "x"), at(3.0))
    assert it.executor.executions[it.key()].doing == ""


def renewed(effects: list[Effect]) -> list[str]:
    sent = [e.message for e in effects if isinstance(e, Send)]
    return [item.doing for message in sent if isinstance(message, Renew) for item in message.items]


# ---- publishing --------------------------------------------------------------------------------


def publishing(book: Book | None = None) -> Device:
    it = running(book)
    it.said = it.does(it.executor.on_publishing(it.key(), at(1.0)))
    return it


def test_while_results_are_published_the_device_is_free_for_others_and_the_lease_goes_on() -> None:
    it = publishing()
    assert it.state() is State.PUBLISHING
    assert it.used == Resources()
    assert it.executor.deadline <= 1.0, "its coordinator hears of it at once"
    (send,) = it.pass_(1.0)
    assert isinstance(send, Send) and isinstance(send.message, Renew)
    assert [item.state for item in send.message.items] == ["publishing"]
    assert it.does(it.executor.on_publishing(it.key(), at(2.0))) == []
    assert it.state() is State.PUBLISHING


def test_where_results_are_stands_in_what_is_told_of_them() -> None:
    _, result = offered(publishing().end(0, published="s3://results/a.tar.gz"))
    assert (result.verdict, result.exit_code) == (Verdict.SUCCESS, 0)
    assert result.published == "s3://results/a.tar.gz"


def test_what_was_not_published_is_no_success_and_no_failure_of_the_task() -> None:
    it = publishing()
    _, result = offered(it.end(0, unpublished="no bucket", archive="ab" * 32, archive_bytes=9))
    assert (result.verdict, result.exit_code, result.reason) == (Verdict.FAULT, -1, "no bucket")
    assert it.state() is State.FAILED
    assert (result.archive, result.archive_bytes) == ("ab" * 32, 9), "its files are still here"


def test_a_task_that_failed_has_failed_whether_or_not_that_was_published() -> None:
    _, result = offered(publishing().end(3, unpublished="no bucket", archive_note="b: a link"))
    assert (result.verdict, result.exit_code) == (Verdict.FAILURE, 3)
    assert result.archive_note == "b: a link; no bucket"


def test_what_of_its_output_is_not_kept_is_told_with_its_result() -> None:
    _, result = offered(publishing().end(3, output_note="5 bytes of it found no room"))
    assert result.output_note == "5 bytes of it found no room"


def test_a_restart_in_the_midst_of_publishing_goes_on_with_it() -> None:
    it = publishing()
    it.does([Save((it.executor.executions[it.key()].row(),))])
    it.boots()
    it.does(it.executor.boot(Booted((TaskFound(it.key(), running=True),)), at(5.0)))
    assert it.used.cpu_m == 100, "until its engine says that it has ended"
    it.does(it.executor.on_publishing(it.key(), at(5.0)))
    assert (it.state(), it.used) == (State.PUBLISHING, Resources())
    again = TaskFound(it.key(), False, 0, published="s3://results/a.tar.gz")
    it.boots()
    _, result = offered(it.does(it.executor.boot(Booted((again,)), at(6.0))))
    assert result.published == "s3://results/a.tar.gz"


# ---- publishing to brokers ---------------------------------------------------------------------

BROKER = {"arch": "arm64", "broker.home": "true"}


def publishing_to_a_broker(**params: Plain) -> Device:
    publisher: Plain = {"Type": "mqtt", "Params": {"Broker": "home", **params}}
    it = device(Book(task_spec(Publisher=publisher)))
    it.executor.bidder.labels = BROKER
    return it


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


def test_a_results_message_is_saved_with_it_and_goes_out_behind() -> None:
    it = publishing_to_a_broker()
    it.award()
    it.executor.publishing.on_event(BrokerChanged("home", True), at(0.5))
    event = TaskEnded(it.key(), 0, stdout=b"21.5\n", stdout_bytes=5)
    effects = it.executor.on_ended(event, at(1.0))
    save, publish = effects[0], next(e for e in effects if isinstance(e, Publish))
    assert isinstance(save, Save)
    assert [row[0] for row in save.rows] == ["execution", "outbox"]
    assert publish.id == it.key() and b"21.5" in publish.payload


def test_lines_are_begun_with_the_start_and_read_once_it_runs() -> None:
    it = publishing_to_a_broker(Lines=True)
    it.award()
    assert list(it.disk["stream"]) == [it.key()]
    started = it.executor.on_started(it.key(), at(0.1))
    assert [e.execution for e in started if isinstance(e, StreamLines)] == [it.key()]
    assert "outbox" not in it.disk or not it.disk["outbox"]
    it.end()
    assert not it.disk.get("outbox")


def test_what_is_retained_is_taken_back_when_its_job_is_forgotten_and_no_sooner() -> None:
    it = publishing_to_a_broker()
    it.award()
    it.end()
    assert len(it.executor.publishing.outbox.messages) == 1
    it.does(it.executor.forget_ended(0, 0))
    ack(it, "accepted")
    it.does(it.executor.forget_ended(0, 0))
    assert not it.executor.executions and len(it.executor.publishing.outbox.messages) == 1
    it.does(it.executor.forget_ended(0, at(1000.0).wall_ms))
    topics = [(m.topic, m.payload) for m in it.executor.publishing.outbox.messages.values()]
    assert len(topics) == 2 and topics[0][0] == topics[1][0] and topics[1][1] == b""


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
