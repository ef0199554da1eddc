"""standingjob: whoever has seen the same records, in whatever order, holds the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.clock import Now
from protocol.errors import RemoteProtocolError
from protocol.job import JobSpec
from protocol.records import Departure, Desired, Role, Spec
from protocol.standingjob import (
    NUMBER_MAX,
    StandingJob,
    standing_id,
    verified_standing,
)
from protocol.wire import dumps, seal
from tests.protocol.jobs import WALL, at
from tests.protocol.standingbook import PROCESS, StandingBook, daemon

BOOK = StandingBook()
SPECS = [BOOK.spec(by, generation, Priority=p) for by, generation, p in (
    ("a", 1, 0), ("a", 2, 1), ("b", 2, 2), ("b", 3, 0), ("c", 4, 5),
)]  # fmt: skip
CONTROLS = [BOOK.control(desired, number, by, generation) for desired, number, by, generation in (
    (Desired.STOPPED, 1, "a", 1),
    (Desired.DELETED, 1, "b", 2),
    (Desired.RUNNING, 2, "a", 3),
    (Desired.STOPPED, 2, "c", 3),
    (Desired.STOPPED, 2, "b", 3),
)]  # fmt: skip


def merged(*datas: bytes) -> StandingJob:
    held = StandingJob(BOOK.id, BOOK.namespace, BOOK.name)
    for data in datas:
        held.offer(BOOK.opened(data))
    return held


# ---- the merge


@settings(max_examples=60)
@given(st.permutations([*SPECS, *CONTROLS]), st.lists(st.sampled_from([*SPECS, *CONTROLS])))
def test_the_order_and_number_of_offers_say_nothing(order: list[bytes], again: list[bytes]) -> None:
    one, other = merged(*SPECS, *CONTROLS), merged(*again, *order, *again)
    assert one.version == other.version
    assert (one.spec, one.control) == (other.spec, other.control)


def test_of_specs_the_later_generation_wins() -> None:
    held = merged(SPECS[3])
    assert not held.offer(BOOK.opened(SPECS[1]))
    assert held.offer(BOOK.opened(SPECS[4]))
    assert (held.generation, held.author) == (4, "c")
    assert not held.offer(BOOK.opened(SPECS[4]))  # nothing new


def test_of_one_generation_all_keep_the_same() -> None:
    one, other = merged(SPECS[1], SPECS[2]), merged(SPECS[2], SPECS[1])
    assert one.revision == other.revision
    assert one.generation == 2


def test_of_controls_the_number_decides_and_then_the_stronger_wish() -> None:
    assert merged(*CONTROLS[:2]).desired is Desired.DELETED
    assert merged(*CONTROLS[:3]).desired is Desired.RUNNING
    assert merged(*CONTROLS).desired is Desired.STOPPED
    assert merged(*CONTROLS[3:]).version == merged(*CONTROLS[:2:-1]).version


def test_without_a_control_record_it_runs() -> None:
    held = merged(SPECS[0])
    assert (held.desired, held.number, held.generation) == (Desired.RUNNING, 0, 1)
    assert held.wanted(at(1.0)) == daemon()


def test_a_tombstone_keeps_no_spec_that_its_author_saw_and_every_later_one() -> None:
    held = merged(SPECS[0], CONTROLS[1])
    assert (held.spec, held.revision, held.job, held.records) == (None, None, None, (CONTROLS[1],))
    assert not held.offer(BOOK.opened(SPECS[1]))
    assert held.offer(BOOK.opened(SPECS[3]))
    assert held.desired is Desired.DELETED
    assert held.wanted(at(1.0)) is None
    assert held.generation == 3


def test_a_tombstone_alone_knows_its_name_and_is_small() -> None:
    held = StandingJob.restore(BOOK.id, merged(CONTROLS[1]).row()[2] or b"", BOOK.keyring("a"))
    assert (held.name, held.namespace, held.desired) == ("collect", "default", Desired.DELETED)
    assert held.size_bytes < 600


def test_it_expires_only_on_a_clock_that_is_trusted() -> None:
    held = merged(BOOK.spec(NotAfter="2027-01-15T08:00:00Z"))  # WALL
    assert held.wanted(Now(1.0, WALL - 1)) is not None
    assert held.wanted(Now(1.0, WALL)) is None
    assert held.expired(Now(1.0, WALL))
    assert held.wanted(Now(1.0, WALL, wall_trusted=False)) is not None
    assert not merged(CONTROLS[0]).expired(at(1.0))


# ---- on disk


@pytest.mark.parametrize("datas", [SPECS[:1], CONTROLS[:1], [SPECS[0], CONTROLS[0]]])
def test_a_row_reads_back(datas: list[bytes]) -> None:
    held = merged(*datas)
    bucket, key, value = held.row()
    assert bucket == "standing"
    again = StandingJob.restore(key, value or b"", BOOK.keyring("a"))
    assert again == held


@pytest.mark.parametrize(
    "value",
    [
        b"garbage",
        dumps([b"", b"", 0, 0]),
        dumps([b"x", b"", 0, 0]),
        dumps([SPECS[0], b""]),
        dumps([StandingBook("other").spec(), b"", 0, 0]),
    ],
)
def test_a_row_of_something_else_is_refused(value: bytes) -> None:
    with pytest.raises((RemoteProtocolError, ValueError)):
        StandingJob.restore(BOOK.id, value, BOOK.keyring("a"))


# ---- what is a record of a standing job


def test_the_id_is_of_the_name_and_of_nobody() -> None:
    assert standing_id(BOOK.keyring("a"), "default", "collect") == BOOK.id
    assert standing_id(BOOK.keyring("b"), "default", "collect") == BOOK.id
    assert standing_id(BOOK.keyring("b"), "other", "collect") != BOOK.id


@pytest.mark.parametrize("data", [SPECS[0], CONTROLS[0]])
def test_a_record_of_a_member_with_submit_is_one(data: bytes) -> None:
    sealed = verified_standing(data, BOOK.keyring("z"))
    assert sealed is not None and sealed.data == data


def _worker() -> StandingBook:
    book = StandingBook()
    book.keyring("w", Role.COMPUTE)
    return book


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_worker().spec("w"), "may not submit"),
        (_worker().control(by="w"), "may not control"),
        (BOOK.spec_of(daemon().encode(), kind="one-off"), "of kind one-off"),
        (BOOK.spec("a", NUMBER_MAX + 1), "counting"),
        (BOOK.control(number=NUMBER_MAX + 1), "counting"),
        (BOOK.control(generation=NUMBER_MAX + 1), "counting"),
        (BOOK.control(key="other"), "does not give its job's id"),
        (BOOK.control(key=""), "does not give its job's id"),
        (BOOK.control(shoal="elsewhere"), "another shoal"),
        (b"garbage", "."),
    ],
)
def test_what_is_none_is_refused_by_its_bytes(data: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        verified_standing(data, BOOK.keyring("z"))


def test_a_record_of_another_kind_is_none_of_ours() -> None:
    departure = seal(Departure(peer=BOOK.keyring("a").peer, incarnation=1), BOOK.keyring("a"))
    assert verified_standing(departure, BOOK.keyring("a")) is None


def test_who_operates_may_control_without_submitting() -> None:
    book = StandingBook()
    book.keyring("o", Role.OPERATE)
    assert verified_standing(book.control(by="o"), book.keyring("a")) is not None


def test_a_spec_that_this_version_cannot_read_is_kept_and_not_acted_on() -> None:
    batch = JobSpec.from_plain({"Name": "collect", "Type": "batch", "Tasks": [{"Engine": PROCESS}]})
    for body, why in (
        (dumps({"Name": "collect", "Type": "swarm"}), "cannot read its spec"),
        (b"\xff", "cannot read its spec"),
        (batch.encode(), "of another kind"),
        (daemon("other").encode(), "of another kind, name"),
        (daemon(Namespace="other").encode(), "or namespace"),
    ):
        data = BOOK.spec_of(body)
        assert verified_standing(data, BOOK.keyring("a")) is not None
        held = merged(data)
        assert isinstance(held.spec, Spec)
        assert (held.job, held.wanted(at(1.0))) == (None, None)
        assert why in held.unreadable
