"""replication: what a holder lacks is sent until it is on its disk, and then no more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.clock import NEVER
from protocol.config import CoordinationConfig
from protocol.replication import SLOTS_PER_SYNC, SYNC_BYTES, Replica

CONFIG = CoordinationConfig()


def light(slot: int) -> int:
    return 16


def take(
    replica: Replica, seq: int = 1, version: int = 1, now: float = 0.0, beside: int = 0
) -> list[int]:
    return replica.take(seq, version, now, CONFIG, light, beside)


def test_a_new_holder_lacks_everything() -> None:
    replica = Replica.empty(range(3))
    assert (replica.unsent, replica.pending, replica.with_spec) == (True, True, True)
    assert take(replica) == [0, 1, 2]
    assert (replica.unsent, replica.pending) == (False, True)
    assert replica.acked == -1
    assert replica.ack(1, 0.1)
    assert (replica.pending, replica.with_spec, replica.acked) == (False, False, 1)
    assert replica.next_at == NEVER


def test_an_equal_holder_lacks_nothing() -> None:
    replica = Replica.equal(4)
    assert (replica.pending, replica.acked) == (False, 4)
    replica.touch([2], head=False, at=5.0)
    assert (replica.unsent, replica.next_at) == (True, 5.0)
    assert take(replica, version=5) == [2]


def test_only_the_ack_of_what_is_under_way_counts() -> None:
    replica = Replica.empty(range(1))
    assert not replica.ack(0, 0.0)  # nothing is, and zero is nothing
    take(replica, seq=7)
    assert not replica.ack(6, 0.0)
    assert not replica.ack(0, 0.0)
    assert replica.ack(7, 0.0)
    assert not replica.ack(7, 0.0)


def test_it_is_repeated_with_growing_pauses() -> None:
    replica = Replica.empty(range(1))
    now, pauses = 0.0, []
    for seq in range(1, 8):
        assert take(replica, seq, now=now) == [0]
        pauses.append(replica.next_at - now)
        now = replica.next_at
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert not replica.ack(1, now)  # of a message that was repeated since
    assert replica.ack(7, now)
    replica.touch([0], head=False, at=now)
    take(replica, 8, now=now)
    assert replica.next_at == now + 1.0


def test_what_changes_meanwhile_goes_with_the_next_message() -> None:
    replica = Replica.empty(range(2))
    take(replica, seq=1, version=1)
    replica.touch([1], head=True, at=0.2)
    assert replica.next_at == 1.0  # the message under way keeps its time
    assert replica.ack(1, 0.5)
    assert replica.acked == 1
    assert replica.next_at == 0.5
    assert take(replica, seq=2, version=2) == [1]
    replica.ack(2, 0.6)
    assert replica.acked == 2


def test_news_may_wait_for_company_but_not_beyond_its_time() -> None:
    replica = Replica.equal(1)
    replica.touch([0], head=False, at=5.0)
    replica.touch([1], head=False, at=3.0)
    replica.touch([2], head=False, at=9.0)
    assert replica.next_at == 3.0
    assert take(replica, now=3.0) == [0, 1, 2]
    replica.touch([0], head=False, at=7.0)
    replica.ack(1, 3.1)
    assert replica.next_at == 7.0


def test_what_does_not_fit_goes_in_parts_and_counts_with_the_last() -> None:
    replica = Replica.empty(range(SLOTS_PER_SYNC + 2))
    assert take(replica, 1, version=3) == list(range(SLOTS_PER_SYNC))
    replica.ack(1, 0.0)
    assert (replica.acked, replica.next_at) == (-1, 0.0)
    assert take(replica, 2, version=3) == [SLOTS_PER_SYNC, SLOTS_PER_SYNC + 1]
    replica.ack(2, 0.0)
    assert replica.acked == 3


@pytest.mark.parametrize(
    ("weight", "beside", "slots"), [(20_000, 0, 4), (20_000, 66_000, 1), (200_000, 0, 1)]
)
def test_a_message_is_bounded_in_bytes_and_brings_one_slot_at_least(
    weight: int, beside: int, slots: int
) -> None:
    replica = Replica.empty(range(9))
    part = replica.take(1, 1, 0.0, CONFIG, lambda slot: weight, beside)
    assert len(part) == slots


@given(st.lists(st.integers(16, 40_000), max_size=30), st.integers(0, 67_000))
def test_parts_fit_and_are_all_of_it(weights: list[int], beside: int) -> None:
    replica = Replica.empty(range(len(weights)))
    sent: list[int] = []
    for seq in range(1, len(weights) + 2):
        if not replica.unsent:
            break
        part = replica.take(seq, 1, 0.0, CONFIG, weights.__getitem__, beside)
        assert len(part) <= 1 or sum(weights[slot] for slot in part) + beside <= SYNC_BYTES
        assert part or not weights
        replica.ack(seq, 0.0)
        sent += part
    assert sent == list(range(len(weights)))
    assert replica.acked == 1


def test_after_a_reconnect_what_was_under_way_is_sent_again() -> None:
    replica = Replica.empty(range(2))
    take(replica, 1)
    replica.ack(1, 0.0)
    replica.touch([1], head=False, at=0.0)
    take(replica, 2)
    replica.restart(9.0)
    assert not replica.ack(2, 9.0)
    assert (replica.pending, replica.next_at, replica.acked) == (True, 9.0, -1)
    assert take(replica, 3) == [1]


def test_after_a_reconnect_copies_are_compared_even_if_nothing_was_under_way() -> None:
    replica = Replica.equal(3)
    replica.restart(9.0)
    assert (replica.pending, replica.next_at, replica.acked) == (True, 9.0, -1)
    assert take(replica, 1) == []  # the head alone, with the fingerprint


def test_copies_that_differ_are_sent_whole_later_each_time() -> None:
    replica = Replica.equal(1)
    pauses = []
    for seq in range(1, 9):
        replica.differs(range(2), with_spec=False, now=100.0, config=CONFIG)
        pauses.append(replica.next_at - 100.0)
        assert take(replica, seq, now=100.0) == [0, 1]
        replica.ack(seq, 100.0)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


class Both(RuleBasedStateMachine):
    """A sender's replica beside what the holder really has: `acked` never claims too much."""

    def __init__(self) -> None:
        super().__init__()
        self.replica = Replica.empty(range(4))
        self.mine = [0] * 4
        self.version = 0
        self.theirs: dict[int, int] = {}
        self.flying: list[tuple[int, dict[int, int]]] = []
        self.acks: list[int] = []
        self.history = {0: list(self.mine)}
        self.seq = 0

    @rule(slot=st.integers(0, 3))
    def change(self, slot: int) -> None:
        self.version += 1
        self.mine[slot] = self.version
        self.history[self.version] = list(self.mine)
        self.replica.touch([slot], head=False, at=0.0)

    @precondition(lambda self: self.replica.pending)
    @rule()
    def send(self) -> None:
        self.seq += 1
        part = self.replica.take(self.seq, self.version, 0.0, CONFIG, lambda slot: 50_000, 0)
        self.flying.append((self.seq, {slot: self.mine[slot] for slot in part}))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), keep=st.booleans())
    def arrive(self, data: st.DataObject, keep: bool) -> None:
        at = data.draw(st.integers(0, len(self.flying) - 1))
        seq, slots = self.flying[at] if keep else self.flying.pop(at)
        for slot, value in slots.items():
            self.theirs[slot] = max(self.theirs.get(slot, 0), value)
        self.acks.append(seq)

    @precondition(lambda self: self.flying)
    @rule()
    def lose(self) -> None:
        self.flying.pop()

    @precondition(lambda self: self.acks)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        self.replica.ack(self.acks.pop(data.draw(st.integers(0, len(self.acks) - 1))), 0.0)

    @rule()
    def reconnect(self) -> None:
        self.replica.restart(0.0)

    @invariant()
    def what_is_claimed_is_there(self) -> None:
        if self.replica.acked >= 0:
            before = self.history[self.replica.acked]
            assert all(self.theirs.get(slot, -1) >= value for slot, value in enumerate(before))

    @invariant()
    def what_is_not_there_is_still_pending(self) -> None:
        behind = [slot for slot in range(4) if self.theirs.get(slot, -1) < self.mine[slot]]
        known = {**self.replica.sent, **self.replica.dirty}
        assert all(slot in known for slot in behind)


TestBoth = Both.TestCase
