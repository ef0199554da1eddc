"""Rumours: each is passed on once, in small batches, unless others were quicker."""

from __future__ import annotations

from math import inf
from random import Random

from protocol.messages import Rumours
from protocol.rumours import (
    BATCH_BYTES,
    PENDING_MAX,
    RECORD_BYTES_MAX,
    SEEN_MAX,
    WAIT_MAX_S,
    WAIT_MIN_S,
    RumourMill,
    digest_of,
)


def mill() -> RumourMill:
    return RumourMill(Random(1))


def test_news_waits_a_moment_and_goes_out_once() -> None:
    m = mill()
    assert m.deadline == inf
    m.pass_on(digest_of(b"news"), b"news", 10.0)
    assert 10.0 + WAIT_MIN_S <= m.deadline <= 10.0 + WAIT_MAX_S
    assert m.flush(10.0) is None
    assert m.flush(m.deadline) == Rumours((b"news",))
    assert m.deadline == inf and m.flush(99.0) is None


def test_what_others_gossiped_meanwhile_is_not_repeated() -> None:
    m = mill()
    m.pass_on(digest_of(b"a"), b"a", 10.0)
    m.pass_on(digest_of(b"b"), b"b", 10.0)
    m.drop(digest_of(b"a"))
    m.drop(digest_of(b"never"))
    assert m.flush(m.deadline) == Rumours((b"b",))
    m.pass_on(digest_of(b"c"), b"c", 20.0)
    m.drop(digest_of(b"c"))
    assert m.deadline == inf


def test_batches_are_small() -> None:
    m = mill()
    records = [bytes([index]) * (BATCH_BYTES // 3) for index in range(7)]
    for record in records:
        m.pass_on(digest_of(record), record, 10.0)
    batches = []
    while m.deadline < inf:
        batch = m.flush(m.deadline)
        assert batch is not None and sum(map(len, batch.records)) <= BATCH_BYTES
        batches += batch.records
    assert batches == records


def test_a_large_record_goes_alone_and_a_huge_one_not_at_all() -> None:
    m = mill()
    for record in (b"x" * (BATCH_BYTES + 1), b"small"):
        m.pass_on(digest_of(record), record, 10.0)
    first = m.flush(m.deadline)
    assert first is not None and len(first.records) == 1
    assert m.flush(m.deadline) == Rumours((b"small",))
    m.pass_on(b"", b"x" * (RECORD_BYTES_MAX + 1), 10.0)
    assert m.deadline == inf


def test_both_memories_are_bounded() -> None:
    m = mill()
    digests = [index.to_bytes(16, "big") for index in range(SEEN_MAX + 5)]
    for digest in digests:
        m.remember(digest)
    m.remember(digests[5])
    m.remember(b"one more")
    assert not m.seen(digests[4]) and m.seen(digests[5]) and not m.seen(digests[6])
    for digest in digests:
        m.pass_on(digest, digest, 10.0)
    total = 0
    while m.deadline < inf:
        batch = m.flush(m.deadline)
        assert batch is not None
        total += len(batch.records)
    assert total == PENDING_MAX
