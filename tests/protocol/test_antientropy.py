"""Anti-entropy: both end up with the union, cheaply, whatever they start from, and it ends."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.antientropy import (
    BUCKETS,
    BURST_BYTES,
    KEY_CHARS_MAX,
    PART_BYTES,
    Reconciler,
    version_of,
)
from protocol.errors import RemoteProtocolError
from protocol.messages import Message, SyncBuckets, SyncItems, SyncRecords, SyncRoot, SyncWant
from protocol.wire import decode_message, encode_message

MESSAGE_BYTES_MAX = 64 * 1024


@dataclass
class Holder:
    """An owner: records are `key=number`, and the higher number is the newer."""

    records: dict[str, bytes] = field(default_factory=dict)
    padding: int = 0
    full: bool = False
    reconciler: Reconciler = field(init=False)
    news: int = 0

    def __post_init__(self) -> None:
        self.reconciler = Reconciler(1, lambda key: (self.records[key],))

    def merge(self, record: bytes) -> None:
        key, number = record.rstrip(b".").decode().split("=")
        held = self.records.get(key)
        if self.full or (held is not None and int(held.rstrip(b".").split(b"=")[1]) >= int(number)):
            return
        self.records[key] = record
        self.reconciler.put(key, version_of(record))
        self.news += 1

    def hold(self, key: str, number: int) -> None:
        self.merge(f"{key}={number}".encode() + b"." * self.padding)

    def handle(self, message: Message) -> list[Message]:
        if isinstance(message, SyncRecords):
            for record in message.records:
                self.merge(record)
            return []
        assert isinstance(message, SyncRoot | SyncBuckets | SyncItems | SyncWant)
        return self.reconciler.answer(message)


def exchange(one: Holder, other: Holder) -> tuple[Counter[str], int]:
    """One exchange, opened by `one`: kinds of messages that went over the wire, and bytes."""
    kinds: Counter[str] = Counter()
    size = 0
    queue: list[tuple[Message, Holder, Holder]] = [(one.reconciler.start(), other, one)]
    while queue:
        message, to, sender = queue.pop(0)
        frame = encode_message(message)
        assert len(frame) <= MESSAGE_BYTES_MAX
        kinds[type(message).__name__] += 1
        assert kinds.total() < 500, "it does not end"
        size += len(frame)
        arrived = decode_message(frame)
        assert arrived is not None
        queue += [(answer, sender, to) for answer in to.handle(arrived)]
    return kinds, size


def test_agreement_costs_one_small_message() -> None:
    one, other = Holder(), Holder()
    for index in range(10_000):
        one.hold(f"key-{index}", 1)
        other.hold(f"key-{9_999 - index}", 1)
    kinds, size = exchange(one, other)
    assert kinds == {"SyncRoot": 1}
    assert size < 100
    assert len(one.reconciler) == 10_000


def test_one_difference_among_ten_thousand_costs_one_bucket() -> None:
    one, other = Holder(), Holder()
    for index in range(10_000):
        one.hold(f"key-{index}", 1)
        other.hold(f"key-{index}", 1)
    one.hold("key-77", 2)
    kinds, size = exchange(other, one)
    assert other.records == one.records
    assert kinds == {
        "SyncRoot": 1,
        "SyncBuckets": 1,
        "SyncItems": 1,
        "SyncWant": 1,
        "SyncRecords": 2,
    }
    assert size < 6_000


@pytest.mark.parametrize("empty_asks", [True, False])
def test_ten_thousand_keys_come_in_bounded_bursts(empty_asks: bool) -> None:
    full, empty = Holder(padding=200), Holder()
    for index in range(10_000):
        full.hold(f"key-{index}", 1)
    rounds = 0
    while empty.records != full.records:
        empty.news = 0
        _, size = exchange(*((empty, full) if empty_asks else (full, empty)))
        assert empty.news, "an exchange that differs brings something"
        assert size < 2.5 * BURST_BYTES
        rounds += 1
    assert rounds <= 12
    assert empty.reconciler.root == full.reconciler.root


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 3)),
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(0, 3)),
)
def test_one_exchange_brings_both_to_the_union(
    ours: dict[str, int], theirs: dict[str, int]
) -> None:
    one, other = Holder(), Holder()
    for holder, items in ((one, ours), (other, theirs)):
        for key, number in items.items():
            holder.hold(key, number)
    exchange(one, other)
    union = {key: max(ours.get(key, 0), theirs.get(key, 0)) for key in {**ours, **theirs}}
    assert one.records == other.records == {k: f"{k}={n}".encode() for k, n in union.items()}
    assert exchange(one, other)[0] == {"SyncRoot": 1}


def test_a_peer_that_takes_nothing_gets_no_more_than_one_burst_an_exchange() -> None:
    one, other = Holder(padding=1000), Holder(full=True)
    for index in range(2_000):
        one.hold(f"key-{index}", 1)
    firsts = []
    for _ in range(3):
        given_keys: list[bytes] = []
        message = SyncItems(1, tuple(range(BUCKETS)), ())
        for answer in one.reconciler.answer(message):
            assert isinstance(answer, SyncRecords)
            given_keys += answer.records
        assert sum(map(len, given_keys)) < BURST_BYTES + 2000
        firsts.append(given_keys[0])
        exchange(one, other)
    assert len(set(firsts)) == 3, "each time it starts elsewhere"


def crowded(count: int) -> Holder:
    """All keys in one bucket, as somebody who chooses them could have it."""
    holder = Holder()
    for index in range(100 * count):
        key = f"key-{index}-{'x' * 80}"
        probe = Reconciler(1, lambda key: (b"here",))
        probe.put(key, b"12345678")
        if probe.answer(SyncItems(1, (0,), ())):
            holder.hold(key, 1)
        if len(holder.records) == count:
            break
    return holder


def test_a_bucket_too_large_for_a_message_comes_in_pieces() -> None:
    many, few = crowded(600), Holder()
    first = next(iter(many.records))
    few.hold(first, 2)
    kinds, _ = exchange(many, few)
    assert kinds["SyncItems"] == 1
    assert 300 < len(few.records) < 600
    exchange(many, few)
    exchange(many, few)
    assert few.records.keys() == many.records.keys()
    exchange(few, many)
    exchange(few, many)
    assert few.records == many.records
    assert many.records[first].endswith(b"=2")


def test_who_lacks_it_all_gets_a_large_bucket_in_one_exchange() -> None:
    many, few = crowded(600), Holder()
    exchange(few, many)
    assert few.records == many.records


def test_a_key_discarded_is_held_no_more() -> None:
    one, other = Holder(), Holder()
    one.hold("a", 1)
    empty = other.reconciler.root
    assert one.reconciler.version("a") == version_of(b"a=1")
    one.reconciler.discard("a")
    one.reconciler.discard("a")
    assert one.reconciler.root == empty
    assert len(one.reconciler) == 0
    assert one.reconciler.version("a") is None
    one.reconciler.put("a", version_of(b"a=1"))
    one.reconciler.put("a", version_of(b"a=1"))
    assert len(one.reconciler) == 1
    assert one.reconciler.answer(SyncWant(1, ("a", "never-held"))) == [SyncRecords(1, (b"a=1",))]


def test_a_key_may_stand_for_several_records() -> None:
    reconciler = Reconciler(1, lambda key: (b"spec", b"control"))
    reconciler.put("job", version_of(b"spec", b"control"))
    assert reconciler.answer(SyncWant(1, ("job",))) == [SyncRecords(1, (b"spec", b"control"))]
    assert version_of(b"ab", b"c") != version_of(b"a", b"bc")


def test_a_large_record_goes_alone() -> None:
    reconciler = Reconciler(1, lambda key: (b"x" * (PART_BYTES + 1), b"y"))
    reconciler.put("job", b"12345678")
    parts = reconciler.answer(SyncWant(1, ("job",)))
    assert [len(part.records) for part in parts if isinstance(part, SyncRecords)] == [1, 1]


@pytest.mark.parametrize(
    "message",
    [
        SyncBuckets(1, (b"x" * 8,)),
        SyncItems(1, (BUCKETS,), ()),
        SyncItems(1, (), (("k" * (KEY_CHARS_MAX + 1), b"12345678"),)),
        SyncItems(1, (), (("k", b"short"),)),
        SyncItems(1, (), (("k", b"x" * 33),)),
    ],
)
def test_what_no_reconciler_sends_is_refused(message: SyncBuckets | SyncItems) -> None:
    with pytest.raises(RemoteProtocolError):
        Reconciler(1, lambda key: ()).answer(message)
