"""heldservice: slots that outlive revisions, and what holders agree on beside the records."""

from __future__ import annotations

from itertools import permutations

import pytest

from protocol.errors import RemoteProtocolError
from protocol.heldservice import FAILED, SETTLED, HeldService, Version, created
from protocol.ids import PeerId, Revision
from protocol.job import JobSpec
from protocol.messages import JobSync, SlotState, UpdateState
from protocol.records import Assignment, Fence
from protocol.tree import Plain
from protocol.wire import seal
from tests.protocol.jobs import WALL_MS, Book, fence
from tests.protocol.servicenet import NAME, service
from tests.protocol.standingbook import StandingBook, daemon

A, B = PeerId("a"), PeerId("b")
BOOK = StandingBook(name=NAME)
KEYRING = BOOK.keyring("a")


def version(generation: int = 1, count: int = 2, **fields: Plain) -> Version:
    spec = service(count, command=f"v{generation}", **fields)
    data = BOOK.spec_of(spec.encode(), generation=generation)
    return Version.of(BOOK.opened(data))


def held(of: Version | None = None) -> HeldService:
    it = of or version()
    made = created(it.data, KEYRING, A, 1, WALL_MS, (A, B))
    assert isinstance(made, HeldService)
    made.adopt(it)
    return made


def awarded(
    slot: int = 0, of: Fence | None = None, revision: Revision | None = None
) -> tuple[Assignment, bytes]:
    at = of or fence(1, "a", 1)
    assignment = Assignment(
        job=BOOK.id,
        revision=revision or version().revision,
        slot=slot,
        fence=at,
        executor=B,
        lease_ms=15_000,
    )
    return assignment, seal(assignment, BOOK.keyring(at.coordinator))


def sync(it: HeldService, *slots: SlotState, **fields: object) -> JobSync:
    values: dict[str, object] = {
        "seq": 1,
        "job": it.id,
        "spec": b"",
        "control": b"",
        "term": it.term,
        "coordinator": it.coordinator,
        "accepted_ms": it.accepted_ms,
        "slots": slots,
        "holders": (A,),
        "fingerprint": b"",
    }
    return JobSync(**{**values, **fields})  # type: ignore[arg-type]


# ---- what it is to run -------------------------------------------------------------------------


def test_it_never_ends_and_rests_while_it_is_stopped() -> None:
    it = held()
    assert not it.done and not it.end(WALL_MS)
    it.ended_ms = WALL_MS
    assert it.done


def test_a_later_generation_is_followed_and_what_all_slots_ran_remembered() -> None:
    first, second = version(1), version(2, count=3)
    it = held(first)
    it.slots[0].offer_assignment(*awarded())
    assert it.adopt(second)
    assert (it.revision, len(it.slots)) == (second.revision, 3)
    assert it.previous is not None and it.previous.revision == first.revision
    assert not it.adopt(second)


def test_one_that_not_all_slots_came_to_run_is_nothing_to_go_back_to() -> None:
    it = held()
    it.slots[0].offer_assignment(*awarded())
    it.adopt(version(2))
    it.adopt(version(3))
    assert it.previous is not None and it.previous.revision == version(1).revision


def test_fewer_slots_keep_their_fences() -> None:
    it = held()
    it.adopt(version(2, count=1))
    assert it.job.count == 1 and len(it.slots) == 2


def test_what_failed_is_gone_back_from_until_another_comes() -> None:
    it = held()
    it.adopt(version(2))
    it.conclude(FAILED)
    assert (it.revision, it.failed, it.paused) == (version(1).revision, True, False)
    it.adopt(version(2))
    assert it.revision == version(1).revision
    it.adopt(version(3))
    assert (it.revision, it.failed) == (version(3).revision, False)


def test_what_failed_pauses_if_its_author_says_so() -> None:
    it = held()
    it.adopt(version(2, Update={"OnFailure": "pause"}))
    it.conclude(FAILED)
    assert it.paused and it.revision == version(1).revision


def test_what_failed_pauses_where_nothing_is_known_to_go_back_to() -> None:
    it = held()
    it.previous = None
    it.conclude(FAILED)
    assert it.paused and it.revision == version(1).revision


# ---- the merge ---------------------------------------------------------------------------------


def test_holders_that_heard_the_same_hold_the_same_in_whatever_order() -> None:
    rank = (version().spec.generation, version().revision)
    it = held()
    heard = [
        sync(it, SlotState(0, awarded(0)[1])),
        sync(it, SlotState(0, awarded(0, fence(1, "a", 2))[1])),
        sync(it, SlotState(5, awarded(5, fence(3, "b", 1))[1])),
        sync(it, update=UpdateState(*rank, SETTLED)),
        sync(it, update=UpdateState(*rank, FAILED)),
    ]
    prints = []
    for order in permutations(heard):
        other = held()
        for each in order:
            other.merge(each, KEYRING)
            assert not other.merge(each, KEYRING)
        prints.append(other.fingerprint())
    assert len(set(prints)) == 1 and prints[0] != it.fingerprint()


def test_slots_of_any_revision_and_number_are_taken() -> None:
    it = held()
    merged = it.merge(sync(it, SlotState(7, awarded(7, revision=version(9).revision)[1])), KEYRING)
    assert merged.slots == [7] and len(it.slots) == 8


def test_more_empty_slots_make_no_difference() -> None:
    it, other = held(), held()
    other.fit(9)
    assert it.fingerprint() == other.fingerprint()


def test_the_generation_makes_no_difference() -> None:
    assert held(version(1)).fingerprint() == held(version(2)).fingerprint()


def test_a_record_of_another_slot_is_refused() -> None:
    it = held()
    with pytest.raises(RemoteProtocolError, match="another job or slot"):
        it.merge(sync(it, SlotState(1, awarded(0)[1])), KEYRING)


def test_a_service_s_slot_is_never_accepted() -> None:
    it = held()
    with pytest.raises(RemoteProtocolError, match="never accepted"):
        it.merge(sync(it, SlotState(0, b"", b"x")), KEYRING)


def test_who_lacks_the_spec_is_given_what_may_be_gone_back_to() -> None:
    first, second = version(1), version(2)
    it = held(first)
    it.adopt(second)
    message = it.sync(1, [0], with_spec=True)
    assert message.spec == first.data
    assert it.sync(1, [0], with_spec=False).spec == b""
    other = created(message.spec, KEYRING, A, 1, WALL_MS, (A,))
    assert isinstance(other, HeldService)
    other.adopt(second)
    assert other.previous is not None and other.previous.revision == first.revision


# ---- made and restored -------------------------------------------------------------------------


def restored(it: HeldService) -> HeldService:
    rows = {(bucket, key): value for bucket, key, value in it.head_rows()}
    spec, head = rows["spec", it.id], rows["job", it.id]
    assert spec is not None and head is not None
    again = HeldService.restore(spec, head, b"", [slot.state for slot in it.slots], KEYRING)
    assert isinstance(again, HeldService)
    value = rows["service", it.id]
    assert value is not None
    again.recall(value, KEYRING)
    return again


def test_it_comes_back_from_its_rows() -> None:
    it = held()
    it.slots[1].offer_assignment(*awarded(1))
    it.adopt(version(2, count=1))
    it.conclude(FAILED)
    it.ended_ms = WALL_MS
    again = restored(it)
    again.adopt(version(2, count=1))
    assert again.fingerprint() == it.fingerprint()
    assert (again.revision, again.done, again.failed) == (it.revision, True, True)
    assert again.previous == it.previous


def test_one_without_a_past_comes_back_too() -> None:
    it = held()
    it.previous = None
    again = restored(it)
    assert (again.previous, again.update) == (None, None)


def test_what_is_forgotten_leaves_no_row() -> None:
    it = held()
    kept = {(bucket, key) for bucket, key, _ in (*it.head_rows(), *it.slot_rows([0, 1]))}
    gone = {(bucket, key) for bucket, key, value in it.forget_rows() if value is None}
    assert kept <= gone


@pytest.mark.parametrize("spec", [daemon(NAME)])
def test_no_other_standing_job_has_holders(spec: JobSpec) -> None:
    data = BOOK.spec_of(spec.encode())
    with pytest.raises(RemoteProtocolError, match="only a service"):
        created(data, KEYRING, A, 1, WALL_MS, (A,))
    with pytest.raises(RemoteProtocolError, match="not a service"):
        Version.of(BOOK.opened(data))


def test_a_batch_job_is_made_as_ever() -> None:
    book = Book(shoal=BOOK.shoal)
    made = created(book.spec_data, book.keyring("a"), A, 1, WALL_MS, (A,))
    assert not made.service and not isinstance(made, HeldService)


def test_holders_that_are_gone_make_room_for_others_once_there_are_many() -> None:
    it = held()
    it.add_holders(tuple(PeerId(f"p{number}") for number in range(20)))
    full = it.holders
    it.make_room(lambda peer: peer not in (A, B))
    assert len(full) == 16 and it.holders == (A, B)
    it.make_room(lambda peer: True)
    assert it.holders == (A, B)
