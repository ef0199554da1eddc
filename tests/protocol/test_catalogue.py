"""catalogue: holders of a job become equal and then fall silent, whatever the network does."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import count
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.catalogue import SPEC_BYTES_MAX, Catalogue
from protocol.clock import NEVER
from protocol.config import CoordinationConfig
from protocol.effects import Bucket, Effect, Save, Send
from protocol.errors import RemoteProtocolError
from protocol.heldjob import HOLDERS_MAX, HeldJob
from protocol.ids import JobId, PeerId
from protocol.messages import JobDigests, JobSync, JobSyncAck, JobWant, Message, SlotState
from protocol.records import Role, Verdict
from protocol.unread import Unread
from protocol.wire import decode_message, dumps, encode_message
from tests.protocol.fakes import FakeShoal
from tests.protocol.jobs import WALL_MS, Book, at, fence, job_spec, task_spec
from tests.protocol.strategies import structs

CONFIG = CoordinationConfig()
FIRST = fence(1, "a", 1)


class Holder:
    """One catalogue and its disk; messages it wants sent wait in `out`."""

    def __init__(self, net: Net, name: str) -> None:
        self.net = net
        self.me = PeerId(name)
        self.disk: dict[Bucket, dict[str, bytes]] = {}
        self.catalogue = self.boots()

    def boots(self, config: CoordinationConfig = CONFIG) -> Catalogue:
        keyring = self.net.shoal.keyring(self.me)
        self.catalogue = Catalogue(keyring, config, lambda peer: self.net.reaches(self.me, peer))
        self.catalogue.seq = self.net.rng.getrandbits(32)
        self.unreadable = self.catalogue.restore(self.disk)
        return self.catalogue

    def does(self, effects: list[Effect]) -> list[Send]:
        """Save at once; a save is on disk before anything after it is sent."""
        sends: list[Send] = []
        for effect in effects:
            if isinstance(effect, Save):
                self.save(effect)
            else:
                assert isinstance(effect, Send)
                assert effect.peer != self.me
                sends.append(effect)
        return sends

    def save(self, save: Save) -> None:
        for bucket, key, value in save.rows:
            rows = self.disk.setdefault(bucket, {})
            if value is None:
                rows.pop(key, None)
            else:
                rows[key] = value

    def held(self, job: JobId) -> HeldJob:
        return self.catalogue.jobs[job]

    def receive(self, sender: PeerId, message: Message, now: float) -> list[Effect]:
        moment = at(now)
        match message:
            case JobSync():
                return self.catalogue.on_sync(sender, message, moment)
            case JobSyncAck():
                return self.catalogue.on_ack(sender, message, moment)
            case JobDigests():
                return self.catalogue.on_digests(sender, message, moment)
            case JobWant():
                return self.catalogue.on_want(sender, message, moment)
            case _:
                raise AssertionError(message)


class Net:
    """Holders and what is between them: delay, loss, repetition, another order, cuts."""

    def __init__(self, *names: str, seed: int = 0) -> None:
        self.rng = Random(f"catalogue/{seed}")
        self.shoal = FakeShoal()
        self.now = 0.0
        self.loss = self.repeat = 0.0
        self.delay_s = (0.001, 0.002)
        self.cuts: set[frozenset[str]] = set()
        self.sent: list[tuple[PeerId, PeerId, Message]] = []
        self.flying: list[tuple[float, int, PeerId, PeerId, bytes]] = []
        self.numbers = count()
        self.holders = {PeerId(name): Holder(self, name) for name in names}

    def __getitem__(self, name: str) -> Holder:
        return self.holders[PeerId(name)]

    def reaches(self, a: str, b: str) -> bool:
        return PeerId(b) in self.holders and frozenset((a, b)) not in self.cuts

    def carry(self, holder: Holder, effects: list[Effect]) -> None:
        for send in holder.does(effects):
            self.sent.append((holder.me, send.peer, send.message))
            frame = encode_message(send.message)
            times = 1 + (self.rng.random() < self.repeat)
            for _ in range(times):
                if self.rng.random() >= self.loss and self.reaches(holder.me, send.peer):
                    due = self.now + self.rng.uniform(*self.delay_s)
                    entry = (due, next(self.numbers), holder.me, send.peer, frame)
                    heapq.heappush(self.flying, entry)

    def meet(self, a: str, b: str) -> None:
        self.cuts.discard(frozenset((a, b)))
        for one, other in ((a, b), (b, a)):
            holder = self[one]
            back = holder.catalogue.on_peer_back(PeerId(other), at(self.now))
            self.carry(holder, back)

    def part(self, a: str, b: str) -> None:
        """Whatever flies between them is lost."""
        self.cuts.add(frozenset((a, b)))
        self.flying = [entry for entry in self.flying if {entry[2], entry[3]} != {a, b}]
        heapq.heapify(self.flying)

    def run(self, seconds: float) -> None:
        """Until nothing more happens, or `seconds` have passed."""
        end = self.now + seconds
        while True:
            due = min((h.catalogue.deadline for h in self.holders.values()), default=NEVER)
            arrival = self.flying[0][0] if self.flying else NEVER
            if min(due, arrival) > end:
                self.now = end
                return
            if arrival <= due:
                self.now, _, sender, peer, frame = heapq.heappop(self.flying)
                message = decode_message(frame)
                assert message is not None
                holder = self.holders[peer]
                self.carry(holder, holder.receive(sender, message, self.now))
                continue
            self.now = max(self.now, due)
            for holder in self.holders.values():
                if holder.catalogue.deadline <= self.now:
                    self.carry(holder, holder.catalogue.on_deadline(at(self.now)))
                    assert holder.catalogue.deadline > self.now, "it wants to be woken for ever"

    def add(self, name: str, book: Book, *standbys: str) -> HeldJob:
        held = book.held(name, *standbys)
        holder = self[name]
        self.carry(holder, holder.catalogue.add(held, at(self.now)))
        return held

    def change(self, name: str, job: JobId, change: Callable[[HeldJob], list[int]]) -> None:
        holder = self[name]
        slots = change(holder.held(job))
        self.carry(holder, holder.catalogue.changed(holder.held(job), slots, at(self.now)))

    def fingerprints(self, job: JobId) -> set[bytes]:
        return {h.held(job).fingerprint() for h in self.holders.values() if job in h.catalogue.jobs}

    def frames(self, kind: type, since: int = 0) -> int:
        return sum(1 for _, _, message in self.sent[since:] if isinstance(message, kind))


def book_for(net: Net, slots: int = 2, key: str = "key") -> Book:
    return Book(job_spec(Count=slots), key=key, shoal=net.shoal)


def award(
    book: Book, slot: int, attempt: int = 1, by: str = "a", term: int = 1
) -> Callable[[HeldJob], list[int]]:
    of = fence(term, by, attempt)

    def change(held: HeldJob) -> list[int]:
        held.slots[slot].offer_assignment(book.assignment(of, slot), book.awarded(of, slot))
        held.follow(term, PeerId(by))
        return [slot]

    return change


def accept(
    book: Book, slot: int, verdict: Verdict = Verdict.SUCCESS, attempt: int = 1, by: str = "a"
) -> Callable[[HeldJob], list[int]]:
    of = fence(1, by, attempt)

    def change(held: HeldJob) -> list[int]:
        data = book.accepted(of, verdict, slot)
        result = b"" if verdict is Verdict.STOPPED else book.resulted(of, verdict, slot)
        held.slots[slot].offer_acceptance(book.acceptance(of, verdict, slot, result), data)
        return [slot]

    return change


# ---- one job and its standbys -----------------------------------------------------------------


def test_a_new_job_reaches_its_standbys_in_one_message_each() -> None:
    net = Net("a", "b", "c")
    book = book_for(net)
    held = net.add("a", book, "b", "c")
    assert net.frames(JobSync) == 1  # the one that is waited for; the other a little later
    net.run(60.0)
    assert net.fingerprints(book.id) == {held.fingerprint()}
    assert len(net.sent) == 4  # and an acknowledgement each
    assert net["b"].held(book.id).holders == ("a", "b", "c")
    assert {h.catalogue.deadline for h in net.holders.values()} == {NEVER}


def test_an_acknowledgement_leaves_after_its_save() -> None:
    net = Net("a", "b")
    book = book_for(net)
    net.add("a", book, "b")
    (_, _, sync) = net.sent[0]
    effects = net["b"].receive(PeerId("a"), sync, 0.0)
    assert [type(effect) for effect in effects] == [Save, Send]
    save = effects[0]
    assert isinstance(save, Save)
    assert {bucket for bucket, _, _ in save.rows} == {"spec", "job", "slot"}


def test_what_is_replicated_is_known_once_acknowledged() -> None:
    net = Net("a", "b", "c")
    book = book_for(net)
    held = net.add("a", book, "b", "c")
    catalogue = net["a"].catalogue
    version = catalogue.version(held)
    assert catalogue.replicated(held, version) == 0
    net.part("a", "c")
    net.run(1.0)
    assert catalogue.replicated(held, version) == 1
    assert catalogue.acked == [(book.id, "b")]
    net.change("a", book.id, award(book, 0))
    assert catalogue.replicated(held, catalogue.version(held)) == 0
    net.run(1.0)
    assert catalogue.replicated(held, catalogue.version(held)) == 1
    net.meet("a", "c")
    net.run(10.0)
    assert catalogue.replicated(held, catalogue.version(held)) == 2


def test_only_what_changed_is_sent() -> None:
    net = Net("a", "b")
    book = book_for(net, 200)
    net.add("a", book, "b")
    net.run(5.0)
    since = len(net.sent)
    net.change("a", book.id, award(book, 7))
    net.run(60.0)
    ((_, _, sync), (_, _, ack)) = net.sent[since:]
    assert isinstance(sync, JobSync)
    assert isinstance(ack, JobSyncAck)
    assert ([slot.slot for slot in sync.slots], sync.spec) == ([7], b"")


def test_a_large_job_goes_in_messages_that_fit() -> None:
    net = Net("a", "b")
    inline = {
        "Source": {"Type": "inline", "Params": {"URL": "data:," + "x" * 60_000}},
        "Target": "/in",
    }
    book = Book(task_spec(count=60, InputSources=[inline]), shoal=net.shoal)
    held = book.held("a", "b")
    for slot in range(60):
        tails = msgspec.structs.replace(
            book.result(FIRST, slot=slot), stdout_tail=b"o" * 16_384, stderr_tail=b"e" * 16_384
        )
        acceptance = book.acceptance(FIRST, slot=slot, result=book.sign(tails, "executor"))
        held.slots[slot].offer_assignment(book.assignment(FIRST, slot), book.awarded(FIRST, slot))
        held.slots[slot].offer_acceptance(acceptance, book.sign(acceptance, "a"))
    net.carry(
        net["a"], net["a"].catalogue.add(held, at(0.0))
    )  # decode_message refuses what is over
    net.run(60.0)
    assert net.fingerprints(book.id) == {held.fingerprint()}
    assert net["b"].held(book.id).done


# ---- meeting again ----------------------------------------------------------------------------


def test_holders_that_meet_in_sync_say_little() -> None:
    net = Net("a", "b")
    books = [book_for(net, key=f"k{number}") for number in range(30)]
    for book in books:
        net.add("a", book, "b")
    net.run(5.0)
    since = len(net.sent)
    net.meet("a", "b")
    net.run(60.0)
    assert [type(message) for _, _, message in net.sent[since:]] == [JobDigests, JobDigests]


def test_a_connection_made_for_a_copy_brings_that_and_no_comparison() -> None:
    net = Net("a", "b")
    net.add("a", book_for(net), "b")
    net.meet("a", "b")
    net.run(60.0)
    assert [type(message) for _, _, message in net.sent] == [JobSync, JobSyncAck]


def test_a_copy_that_was_lost_is_compared_with_the_next_connection() -> None:
    net = Net("a", "b")
    book = book_for(net)
    net.add("a", book, "b")
    net.part("a", "b")
    net.run(20.0)
    net.meet("a", "b")
    assert isinstance(net.sent[-1][2], JobDigests)
    net.run(0.1)
    assert len(net.fingerprints(book.id)) == 1 and book.id in net["b"].catalogue.jobs


def test_holders_that_meet_exchange_what_differs() -> None:
    net = Net("a", "b")
    book, other = book_for(net), book_for(net, key="other")
    net.add("a", book, "b")
    net.add("a", other, "b")
    net.run(5.0)
    net.part("a", "b")
    net.change("a", book.id, award(book, 0))
    net.change("b", book.id, accept(book, 1))
    net.run(50.0)
    assert len(net.fingerprints(book.id)) == 2
    since = len(net.sent)
    net.meet("a", "b")
    net.run(60.0)
    assert len(net.fingerprints(book.id)) == 1
    slots = net["a"].held(book.id).slots
    assert slots[0].assignment is not None
    assert slots[1].acceptance is not None
    jobs = {m.job for _, _, m in net.sent[since:] if isinstance(m, JobSync)}
    assert jobs == {book.id}


def test_what_is_said_on_meeting_may_be_lost() -> None:
    net = Net("a", "b")
    book = book_for(net)
    net.add("a", book, "b")
    net.run(5.0)
    net.part("a", "b")
    net.change("b", book.id, accept(book, 1))
    net.loss = 1.0
    net.meet("a", "b")
    net.run(0.5)
    net.loss = 0.0
    net.run(60.0)
    assert len(net.fingerprints(book.id)) == 1


def test_a_message_under_way_when_the_link_broke_is_sent_again() -> None:
    net = Net("a", "b")
    book = book_for(net)
    net.add("a", book, "b")
    net.run(5.0)
    net.change("a", book.id, award(book, 0))
    net.part("a", "b")
    net.meet("a", "b")
    net.run(60.0)
    assert len(net.fingerprints(book.id)) == 1


def test_a_holder_that_lost_its_disk_gets_the_job_back() -> None:
    net = Net("a", "b")
    book = book_for(net)
    net.add("a", book, "b")
    net.run(5.0)
    net["b"].disk.clear()
    net["b"].boots()
    net.part("a", "b")
    net.meet("a", "b")
    net.run(60.0)
    assert net["b"].held(book.id).fingerprint() == net["a"].held(book.id).fingerprint()


def test_a_standby_added_later_is_given_everything() -> None:
    net = Net("a", "b", "c")
    book = book_for(net)
    net.add("a", book, "b")
    net.run(5.0)
    net.change("a", book.id, lambda held: [] if held.add_holders((PeerId("c"),)) else [0])
    net.run(5.0)
    assert len(net.fingerprints(book.id)) == 1
    assert net["b"].held(book.id).holders == net["c"].held(book.id).holders == ("a", "b", "c")


def test_what_the_hub_learns_all_learn() -> None:
    """b and c cannot reach each other: a, who coordinates, stands between them."""
    net = Net("a", "b", "c")
    book = book_for(net)
    net.add("a", book, "b", "c")
    net.run(5.0)
    net.part("b", "c")
    net.change("b", book.id, accept(book, 1))
    net.run(60.0)
    assert len(net.fingerprints(book.id)) == 1
    assert net["c"].held(book.id).slots[1].acceptance is not None


def test_a_sender_that_is_no_holder_here_yet_is_answered_and_does_not_spin() -> None:
    net = Net("a", "b", "c")
    book = book_for(net)
    net.add("b", book, "a")
    net.run(5.0)
    copy = book.held("b", "a", "c")
    award(book, 0, by="b")(copy)
    net.part("b", "c")
    net.carry(net["c"], net["c"].catalogue.add(copy, at(net.now)))
    net.change("b", book.id, award(book, 1, by="b"))
    net.run(60.0)
    net.meet("b", "c")
    net.run(60.0)
    assert len(net.fingerprints(book.id)) == 1


# ---- one call accepted twice ------------------------------------------------------------------


def test_two_islands_that_accepted_one_call_agree_on_one_job() -> None:
    net = Net("a", "b", "c")
    first = book_for(net)
    second = Book(job_spec(Count=2), author="z", shoal=net.shoal)
    assert second.id == first.id
    net.part("a", "b")
    net.add("a", second, "c")
    net.add("b", first, "c")
    net.run(20.0)
    net.change("a", first.id, accept(first, 0, Verdict.FAILURE))
    net.change("b", first.id, accept(first, 0, Verdict.SUCCESS, by="b"))
    net.meet("a", "b")
    net.run(100.0)
    assert len(net.fingerprints(first.id)) == 1
    held = net["a"].held(first.id)
    assert (held.author, held.coordinator) == ("author", "b")
    assert held.slots[0].acceptance is not None
    assert held.slots[0].acceptance.verdict == Verdict.SUCCESS


def test_a_stop_by_either_author_reaches_both() -> None:
    net = Net("a", "b")
    first = book_for(net)
    second = Book(job_spec(Count=2), author="z", shoal=net.shoal)
    net.part("a", "b")
    net.add("a", first, "b")
    stopped = second.held("b", "a")
    data = second.controlled("z")
    stopped.offer_control(stopped.checked_control(data, net.shoal.keyring("b")), data)
    net.carry(net["b"], net["b"].catalogue.add(stopped, at(0.0)))
    net.meet("a", "b")
    net.run(100.0)
    assert len(net.fingerprints(first.id)) == 1
    for name in "ab":
        assert net[name].held(first.id).control_data == data
        net[name].boots()
        assert net[name].unreadable == []
        assert net[name].held(first.id).control_data == data


# ---- bad luck ---------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    loss=st.sampled_from([0.0, 0.1, 0.4]),
    repeat=st.sampled_from([0.0, 0.5]),
    delay=st.sampled_from([0.002, 0.3, 3.0]),
    steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(0, 4)), max_size=14),
)
def test_holders_become_equal_and_fall_silent(
    seed: int, loss: float, repeat: float, delay: float, steps: list[tuple[int, int, int]]
) -> None:
    net = Net("a", "b", "c", seed=seed)
    net.loss, net.repeat, net.delay_s = loss, repeat, (0.001, delay)
    book = book_for(net, 5)
    net.add("a", book, "b", "c")
    for kind, who, slot in steps:
        name = "abc"[who]
        other = "abc"[(who + 1 + slot % 2) % 3]
        holds = book.id in net[name].catalogue.jobs
        match kind:
            case 0 if holds:
                net.change(name, book.id, award(book, slot, attempt=net.rng.randint(1, 3), by=name))
            case 1 if holds:
                net.change(name, book.id, accept(book, slot, net.rng.choice(list(Verdict))))
            case 2:
                net.part(name, other)
            case 3:
                net.meet(name, other)
            case 4:
                net[name].boots()  # a crash: what was not sent is not, what was saved is there
                for peer in "abc":
                    if peer != name and net.reaches(name, peer):
                        net.meet(name, peer)
            case 5 if holds:
                net.change(name, book.id, award(book, slot, by=name, term=2 + who))
            case _:
                net.run(net.rng.uniform(0.0, 20.0))
    net.loss = 0.0
    for a, b in ("ab", "bc", "ac"):
        net.meet(a, b)
    net.run(300.0)
    assert len(net.fingerprints(book.id)) == 1, "not equal"
    assert all(book.id in net[name].catalogue.jobs for name in "abc")
    assert {h.catalogue.deadline for h in net.holders.values()} == {NEVER}, "not silent"
    for name in "abc":
        before = net[name].held(book.id).fingerprint()
        net[name].boots()
        assert net[name].held(book.id).fingerprint() == before, "not saved"


# ---- bad peers --------------------------------------------------------------------------------


def alone() -> tuple[Net, Book, Holder]:
    net = Net("a", "b")
    book = book_for(net)
    net.add("a", book, "b")
    net.run(5.0)
    return net, book, net["a"]


def quiet(holder: Holder, now: float = 1000.0) -> None:
    """Whatever came, it is not busy with it."""
    for _ in range(30):
        due = holder.catalogue.deadline
        if due == NEVER:
            return
        now = max(now, due)
        holder.does(holder.catalogue.on_deadline(at(now)))
        assert holder.catalogue.deadline > now


def test_a_stranger_that_repeats_another_copy_is_answered_less_and_less() -> None:
    _, book, a = alone()
    mallory = PeerId("b")
    sends = 0
    for second in range(300):
        copy = book.sync(seq=second + 1, spec=b"", fingerprint=b"other")
        for send in a.does(a.receive(mallory, copy, 10.0 + second)):
            sends += isinstance(send.message, JobSync)
            if isinstance(send.message, JobSync):
                lie = JobSyncAck(send.message.seq, book.id, b"other")
                a.does(a.receive(mallory, lie, 10.0 + second))
        due = a.catalogue.deadline
        if due <= 10.0 + second:
            sends += len(a.does(a.catalogue.on_deadline(at(10.0 + second))))
    assert sends < 30
    quiet(a)


def test_who_wants_the_spec_again_and_again_waits_like_others() -> None:
    net, book, a = alone()
    net.change("a", book.id, award(book, 0))
    sync = net.sent[-1][2]
    sends = 0
    for _ in range(50):
        assert isinstance(sync, JobSync)
        ack = JobSyncAck(sync.seq, book.id, b"", want_spec=True)
        for send in a.does(a.receive(PeerId("b"), ack, net.now)):
            sync, sends = send.message, sends + 1
    assert sends == 1
    assert isinstance(sync, JobSync)
    assert sync.spec == book.spec_data


def test_an_ack_of_nothing_says_nothing() -> None:
    net, book, a = alone()
    for peer in ("b", "mallory"):
        for seq in (0, 1, a.catalogue.seq):
            for want in (False, True):
                ack = JobSyncAck(seq, book.id, b"", want_spec=want)
                assert a.receive(PeerId(peer), ack, net.now) == []
    assert a.receive(PeerId("b"), JobSyncAck(1, JobId("x" * 32), b""), 0.0) == []
    assert a.catalogue.deadline == NEVER


def test_a_job_listed_a_thousand_times_is_sent_once() -> None:
    net, book, a = alone()
    sends = a.does(a.receive(PeerId("b"), JobWant((book.id,) * 1000), net.now))
    assert len(sends) == 1
    quiet(a)
    digests = JobDigests(((book.id, b"other"),) * 1000)
    assert len(a.does(a.receive(PeerId("b"), digests, net.now))) == 2  # the job, and a want


def test_a_copy_is_given_to_holders_only() -> None:
    net, book, a = alone()
    assert a.receive(PeerId("mallory"), JobWant((book.id, JobId("x" * 32))), net.now) == []


def test_an_unknown_job_is_asked_for_with_its_spec() -> None:
    net = Net("a", "b")
    book = book_for(net)
    effects = net["b"].receive(PeerId("a"), book.sync(spec=b"", seq=5), 0.0)
    assert effects == [Send(PeerId("a"), JobSyncAck(5, book.id, b"", want_spec=True))]
    effects = net["b"].receive(PeerId("a"), JobDigests(((book.id, b"x"),)), 0.0)
    assert effects == [Send(PeerId("a"), JobWant((book.id,)))]


def refuses(holder: Holder, sync: JobSync) -> None:
    with pytest.raises(RemoteProtocolError):
        holder.receive(PeerId("a"), sync, 0.0)
    assert holder.catalogue.jobs == {}
    assert holder.catalogue.merged == []
    assert holder.catalogue.deadline == NEVER


def test_a_forged_job_is_not_held() -> None:
    net = Net("a", "b")
    book = book_for(net)
    book.keyring("worker", Role.COMPUTE)
    b = net["b"]
    refuses(b, book.sync(holders=("a", "c")))
    refuses(b, book.sync(holders=("b",), spec=book.specified("worker")))
    refuses(b, book.sync(holders=("b",), spec=b"garbage"))
    refuses(b, book.sync(SlotState(9), holders=("b",)))
    refuses(b, book.sync(SlotState(0, book.spec_data), holders=("b",)))


def test_a_copy_that_this_version_cannot_read_is_not_held_and_nobodys_fault() -> None:
    net = Net("a", "b")
    book = book_for(net)
    later = dumps({**book.job.to_plain(), "Later": True})
    spec = book.sign(msgspec.structs.replace(book.spec, body=later), "author")
    b = net["b"]
    assert b.receive(PeerId("a"), book.sync(holders=("b",), spec=spec), 0.0) == []
    assert (b.catalogue.jobs, b.catalogue.merged, b.catalogue.deadline) == ({}, [], NEVER)


def test_holders_are_bounded_whatever_is_claimed() -> None:
    net = Net("a", "b")
    book = book_for(net)
    b = net["b"]
    names = tuple(f"p{number}" for number in range(60))
    b.does(b.receive(PeerId("a"), book.sync(holders=("b", "b", *names)), 0.0))
    assert len(b.held(book.id).holders) == HOLDERS_MAX


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from((JobSync, JobSyncAck, JobDigests, JobWant)).flatmap(structs), max_size=5
    ),
    st.booleans(),
    st.sampled_from(["b", "mallory"]),
)
def test_no_message_ends_the_agent_or_keeps_it_busy(
    messages: list[Message], ours: bool, sender: str
) -> None:
    net, book, a = alone()
    for message in messages:
        if ours and isinstance(message, JobSync | JobSyncAck):
            message = msgspec.structs.replace(message, job=book.id)
        if ours and isinstance(message, JobSync):
            message = msgspec.structs.replace(message, spec=b"", control=b"")
        with suppress(RemoteProtocolError):
            a.does(a.receive(PeerId(sender), message, net.now))
    quiet(a)


# ---- limits, and forgetting -------------------------------------------------------------------


def test_a_full_catalogue_takes_no_more_and_acknowledges_nothing() -> None:
    net = Net("a", "b")
    net["b"].boots(replace(CONFIG, jobs_max=1))
    first, second = book_for(net), book_for(net, key="second")
    net.add("a", first, "b")
    net.add("a", second, "b")
    net.run(20.0)
    assert list(net["b"].catalogue.jobs) == [first.id]
    assert net["b"].catalogue.full
    assert net["a"].catalogue.replicated(net["a"].held(second.id), 1) == 0
    since = len(net.sent)
    net.run(300.0)
    assert len(net.sent) - since <= 11  # it is tried again, not often


def test_specs_are_bounded_in_bytes() -> None:
    net = Net("a")
    book = book_for(net)
    catalogue = net["a"].catalogue
    net.add("a", book)
    assert not catalogue.full
    catalogue._spec_bytes += SPEC_BYTES_MAX
    assert catalogue.full
    net["a"].does(catalogue.forget(net["a"].held(book.id)))
    assert catalogue._spec_bytes == SPEC_BYTES_MAX


def test_a_forgotten_job_leaves_nothing() -> None:
    net, book, a = alone()
    net.part("a", "b")
    net.change("a", book.id, award(book, 0))
    a.does(a.catalogue.forget(a.held(book.id)))
    assert all(not rows for rows in a.disk.values())
    assert a.catalogue.jobs == {}
    assert (a.catalogue._replicas, a.catalogue._pending) == ({}, {})
    net.cuts.clear()
    quiet(a)


def test_a_standby_notes_when_the_job_ended() -> None:
    """Else it would hold it for ever."""
    net, book, _ = alone()
    for slot in (0, 1):
        assert net["b"].held(book.id).ended_ms == 0
        net.change("a", book.id, accept(book, slot))
        net.run(1.0)
    assert net["b"].held(book.id).ended_ms == WALL_MS
    net["b"].boots()
    assert net["b"].held(book.id).ended_ms == WALL_MS


def test_an_ended_job_given_back_did_not_end_anew() -> None:
    net, book, a = alone()
    for slot in (0, 1):
        net.change("a", book.id, accept(book, slot, Verdict.STOPPED))
    net.run(1.0)
    a.does(a.catalogue.forget(a.held(book.id)))
    net.now = 9 * 86_400.0
    net.meet("a", "b")
    net.run(60.0)
    assert a.held(book.id).ended_ms == WALL_MS


# ---- restarts ---------------------------------------------------------------------------------


def test_what_was_saved_is_held_again() -> None:
    net, book, a = alone()
    net.change("a", book.id, award(book, 1))
    before = a.held(book.id).fingerprint()
    a.boots()
    assert a.unreadable == []
    assert a.held(book.id).fingerprint() == before
    assert a.catalogue.deadline == NEVER  # nothing until a peer is met


@pytest.mark.parametrize(
    ("bucket", "key", "value"),
    [
        ("slot", "{job}/1", b"\x80"),
        ("slot", "{job}/first", b"\x82\x40\x40"),
        ("job", "{job}", b"\x80"),
        ("spec", "{job}", b"\xff"),
        ("slot", "{job}/7", b"\x82\x40\x40"),
    ],
)
def test_a_row_that_cannot_be_read_costs_no_more_than_its_job(
    bucket: Bucket, key: str, value: bytes
) -> None:
    net, book, a = alone()
    other = book_for(net, key="other")
    net.add("a", other, "b")
    a.disk[bucket][key.format(job=book.id)] = value
    a.boots()
    assert a.unreadable
    assert other.id in a.catalogue.jobs
    net.part("a", "b")
    net.meet("a", "b")
    net.run(60.0)
    assert len(net.fingerprints(book.id)) == 1  # and the other holder gives it back
    assert book.id in a.catalogue.jobs


def test_a_job_without_its_spec_cannot_be_read() -> None:
    _, book, a = alone()
    del a.disk["spec"][book.id]
    a.boots()
    assert a.unreadable == [Unread("job", book.id, "its spec is not there")]
