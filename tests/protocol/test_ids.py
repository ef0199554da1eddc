"""ids: names that all peers derive alike, and an order of peers that all agree on."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import (
    ExecutionId,
    JobId,
    PeerId,
    Revision,
    ShoalId,
    derive,
    execution_id,
    job_id,
    rendezvous,
    revision_of,
)

SHOAL = ShoalId("shoal")
PEERS = [PeerId(f"p{number:02}") for number in range(40)]


@given(st.text(max_size=8), st.lists(st.text(max_size=8) | st.binary(max_size=8), max_size=4))
def test_a_derived_id_is_a_file_name_and_a_topic(domain: str, parts: list[str | bytes]) -> None:
    assert re.fullmatch("[a-z2-7]{32}", derive(domain, *parts))
    assert derive(domain, *parts) == derive(domain, *parts)


def test_parts_do_not_run_together() -> None:
    found = [
        derive("d", "ab", "c"),
        derive("d", "a", "bc"),
        derive("d", "abc"),
        derive("d", "abc", ""),
        derive("d", "", "abc"),
        derive("e", "abc"),
        derive("d"),
    ]
    assert len(set(found)) == len(found)


def test_text_and_its_bytes_are_one_part() -> None:
    assert derive("d", "küche") == derive("d", "küche".encode())


def test_the_name_of_a_job_has_no_owner_in_it_and_everything_else() -> None:
    job = job_id(SHOAL, "default", "standing", "collect")
    assert job == job_id(SHOAL, "default", "standing", "collect")
    others = [
        job_id(ShoalId("other"), "default", "standing", "collect"),
        job_id(SHOAL, "sensors", "standing", "collect"),
        job_id(SHOAL, "default", "one-off", "collect"),
        job_id(SHOAL, "default", "standing", "Collect"),
    ]
    assert len({job, *others}) == 5


def test_each_attempt_has_an_id_of_its_own() -> None:
    revision, peer = revision_of(b"spec"), PEERS[0]
    first = execution_id(revision, 0, 1, peer, 1)
    assert first == execution_id(revision, 0, 1, peer, 1)
    others = [
        execution_id(revision_of(b"spec 2"), 0, 1, peer, 1),
        execution_id(revision, 1, 1, peer, 1),
        execution_id(revision, 0, 2, peer, 1),
        execution_id(revision, 0, 1, PEERS[1], 1),
        execution_id(revision, 0, 1, peer, 2),
        execution_id(revision, 1, 11, peer, 1),
        execution_id(revision, 11, 1, peer, 1),
    ]
    assert len({first, *others}) == 8


@given(st.text(max_size=20), st.permutations(PEERS[:8]))
def test_rendezvous_does_not_depend_on_the_order_given(key: str, peers: list[PeerId]) -> None:
    assert rendezvous(key, peers) == rendezvous(key, PEERS[:8])


@given(st.text(max_size=20), st.integers(0, 7))
def test_a_peer_that_leaves_moves_nobody_else(key: str, gone: int) -> None:
    before = rendezvous(key, PEERS[:8])
    left = [peer for peer in before if peer != PEERS[gone]]
    assert rendezvous(key, left) == left


def test_rendezvous_spreads_keys_over_peers() -> None:
    """1,000 keys over 40 peers: 25 each, and a binomial's tails beyond 6 to 50 do not happen."""
    first = Counter(rendezvous(f"key {number}", PEERS)[0] for number in range(1000))
    assert len(first) == 40
    assert min(first.values()) >= 6 and max(first.values()) <= 50


def test_rendezvous_of_nobody_is_nobody() -> None:
    assert rendezvous("key", []) == []


@pytest.mark.parametrize("kind", [JobId, Revision, ExecutionId])
def test_what_peers_call_a_derived_id_has_that_form(kind: type[str]) -> None:
    """The decoder holds them to it: they become file names and topics."""
    good = sha256(b"").hexdigest()[:32].translate(str.maketrans("0189", "abcd"))
    assert msgspec.convert(good, kind) == good
    for bad in (
        "",
        good[1:],
        good + "a",
        good.upper(),
        good[:-1] + "1",
        good[:-1] + "\n",
        "é" * 32,
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, kind)


@pytest.mark.parametrize("kind", [PeerId, ShoalId])
def test_what_peers_call_a_peer_is_a_plain_word(kind: type[str]) -> None:
    for good in ("p07", "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5", "a" * 64):
        assert msgspec.convert(good, kind) == good
    for bad in ("", "a" * 65, "a/b", "..", "a b", "a\n", "a\x00", "ä", "#", "+"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, kind)
