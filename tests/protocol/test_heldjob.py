"""heldjob: merges do not depend on order, and nothing forged gets into them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import heldjob
from protocol.bounds import INT_MAX
from protocol.errors import RemoteProtocolError
from protocol.heldjob import HOLDERS_MAX, HeldJob, saved_slot
from protocol.ids import JobId, PeerId, Revision, peer_slot
from protocol.messages import JobSync, SlotState
from protocol.records import Desired, Role, Verdict
from protocol.wire import dumps, open_sealed
from tests.protocol.jobs import WALL_MS, Book, at, fence, job_spec

BOOK = Book(job_spec(Count=2), author="m")
BOOK.keyring("operator", Role.OPERATE)
BOOK.keyring("worker", Role.COMPUTE)
ME = BOOK.keyring("me")
FIRST, SECOND = fence(1, "a", 1), fence(1, "a", 2)


def state(slot: int = 0, assignment: bytes = b"", acceptance: bytes = b"") -> SlotState:
    return SlotState(slot, assignment, acceptance)


def refuses(held: HeldJob, sync: JobSync) -> str:
    """A merge that raises changes nothing."""
    before = (held.fingerprint(), held.holders, held.spec_data)
    with pytest.raises(RemoteProtocolError) as caught:
        held.merge(sync, ME)
    assert (held.fingerprint(), held.holders, held.spec_data) == before
    return str(caught.value)


def whole(held: HeldJob) -> JobSync:
    return held.sync(1, list(range(len(held.slots))), with_spec=True)


def parts(held: HeldJob) -> tuple[object, ...]:
    """All that the merge is about, `holders` aside, whose bound makes the first come first."""
    slots = tuple((slot.assignment_data, slot.acceptance_data) for slot in held.slots)
    head = (held.author, held.control_data, held.term, held.coordinator, held.accepted_ms)
    return (*head, slots)


# ---- the merge as an algebra ------------------------------------------------------------------

FENCES = [fence(t, c, n) for t in (1, 2) for c in "ab" for n in (1, 2)]
AWARDS = [
    *(BOOK.awarded(of, slot) for of in FENCES for slot in (0, 1)),
    # Two by one coordinator with one fence: it lies, and all must still agree.
    *(BOOK.awarded(SECOND, slot, executor="liar") for slot in (0, 1)),
]
CHOICES = [
    BOOK.accepted(of, verdict, slot, by)
    for of in FENCES[::3]
    for verdict in Verdict
    for slot in (0, 1)
    for by in "ab"
]
AUTHORS = [BOOK.specified(name) for name in ("k", "m", "z")]
CONTROLS = [
    BOOK.controlled(by, number, desired)
    for by in ("k", "m", "z", "operator")
    for number in (1, 2)
    for desired in Desired
]


def of_slot(records: list[bytes], slot: int) -> st.SearchStrategy[bytes]:
    mine = [data for data in records if open_sealed(data, ME).record.slot == slot]  # type: ignore[union-attr]
    return st.sampled_from([b"", *mine])


SLOTS = {
    slot: st.builds(SlotState, st.just(slot), of_slot(AWARDS, slot), of_slot(CHOICES, slot))
    for slot in (0, 1)
}
SYNCS = st.builds(
    BOOK.sync,
    seq=st.just(1),
    spec=st.sampled_from([b"", *AUTHORS]),
    control=st.sampled_from([b"", *CONTROLS]),
    term=st.integers(1, 3),
    coordinator=st.sampled_from("abc"),
    accepted_ms=st.integers(WALL_MS - 2, WALL_MS + 2),
    holders=st.lists(st.sampled_from("abcdefghij"), max_size=4).map(tuple),
).flatmap(
    lambda sync: st.builds(
        lambda *slots: msgspec.structs.replace(sync, slots=slots), SLOTS[0], SLOTS[1]
    )
)


def merged(*syncs: JobSync) -> HeldJob:
    held = BOOK.held("a")
    for sync in syncs:
        held.merge(sync, ME)
    return held


@settings(max_examples=100)
@given(st.lists(SYNCS, min_size=2, max_size=3))
def test_a_merge_does_not_depend_on_order(syncs: list[JobSync]) -> None:
    first = merged(*syncs)
    for order in permutations(syncs):
        held = merged(*order)
        assert parts(held) == parts(first)
        assert held.fingerprint() == first.fingerprint()


@settings(max_examples=100)
@given(st.lists(SYNCS, max_size=4), st.lists(st.integers(0, 3), max_size=8))
def test_a_merge_repeated_changes_nothing(syncs: list[JobSync], again: list[int]) -> None:
    held = merged(*syncs)
    before = parts(held), held.holders
    for index in again:
        if index < len(syncs):
            change = held.merge(syncs[index], ME)
            assert not change, (change, syncs[index])
            assert change.superseded == []
    assert (parts(held), held.holders) == before


@settings(max_examples=100)
@given(*(st.lists(SYNCS, max_size=2) for _ in range(3)))
def test_holders_are_equal_once_they_exchanged_what_they_have(
    a: list[JobSync], b: list[JobSync], c: list[JobSync]
) -> None:
    """Grouping does not matter either: (a with b) with c, as a with (b with c)."""
    left = merged(*a)
    left.merge(whole(merged(*b)), ME)
    left.merge(whole(merged(*c)), ME)
    inner = merged(*b)
    inner.merge(whole(merged(*c)), ME)
    right = merged(*a)
    right.merge(whole(inner), ME)
    inner.merge(whole(right), ME)
    assert parts(left) == parts(right) == parts(inner)
    assert left.fingerprint() == right.fingerprint() == inner.fingerprint()


@settings(max_examples=100)
@given(st.lists(SYNCS, max_size=4))
def test_fingerprints_are_equal_exactly_where_copies_are(syncs: list[JobSync]) -> None:
    seen: dict[bytes, tuple[object, ...]] = {}
    held = BOOK.held("a")
    for sync in [BOOK.sync(), *syncs]:
        held.merge(sync, ME)
        print_ = held.fingerprint()
        assert seen.setdefault(print_, parts(held)) == parts(held)
    assert len(set(seen)) == len(set(seen.values()))


@settings(max_examples=100)
@given(st.lists(SYNCS, max_size=4))
def test_what_was_saved_comes_back(syncs: list[JobSync]) -> None:
    held = merged(*syncs)
    rows = {
        (bucket, key): value for bucket, key, value in [*held.head_rows(), *held.slot_rows([0, 1])]
    }
    back = HeldJob.restore(
        rows[("spec", held.id)] or b"",
        rows[("job", held.id)] or b"",
        rows.get(("control", held.id)) or b"",
        [saved_slot(rows[("slot", f"{held.id}/{slot}")] or b"", slot) for slot in (0, 1)],
        ME,
    )
    assert parts(back) == parts(held)
    assert (back.holders, back.fingerprint()) == (held.holders, held.fingerprint())
    assert {(bucket, key) for bucket, key, _ in held.forget_rows()} >= set(rows)


# ---- which result counts ----------------------------------------------------------------------


def counts(*choices: bytes) -> bytes:
    held = BOOK.held("a")
    for choice in choices:
        held.merge(BOOK.sync(state(acceptance=choice)), ME)
    return held.slots[0].acceptance_data


def test_a_success_comes_before_a_failure_whatever_their_fences() -> None:
    failure = BOOK.accepted(FIRST, Verdict.FAILURE)
    success = BOOK.accepted(fence(9, "z", 9))
    assert counts(failure, success) == counts(success, failure) == success


@pytest.mark.parametrize("verdict", list(Verdict))
def test_of_two_alike_the_lowest_fence_counts(verdict: Verdict) -> None:
    low, high = BOOK.accepted(FIRST, verdict), BOOK.accepted(SECOND, verdict)
    assert counts(low, high) == counts(high, low) == low


def test_a_result_that_counted_and_no_longer_does_is_told_of() -> None:
    held = BOOK.held("a")
    held.merge(BOOK.sync(state(acceptance=BOOK.accepted(SECOND))), ME)
    merged = held.merge(BOOK.sync(state(acceptance=BOOK.accepted(FIRST))), ME)
    assert [before.fence for before in merged.superseded] == [SECOND]
    assert merged.slots == [0]


def test_one_result_that_two_coordinators_accepted_has_not_changed() -> None:
    held = BOOK.held("a")
    by_a, by_b = BOOK.accepted(FIRST, by="a"), BOOK.accepted(FIRST, by="b")
    changes = [held.merge(BOOK.sync(state(acceptance=data)), ME) for data in (by_a, by_b, by_a)]
    assert any(change.slots for change in changes[1:]) == (by_b < by_a)
    assert [change.superseded for change in changes] == [[], [], []]


def test_a_job_is_done_with_its_last_slot() -> None:
    held = BOOK.held("a")
    assert (held.done, held.end(WALL_MS)) == (False, False)
    for slot in (1, 0):
        assert not held.done
        held.merge(BOOK.sync(state(slot, acceptance=BOOK.accepted(FIRST, slot=slot))), ME)
    assert held.done


def test_it_ended_when_its_last_result_did() -> None:
    held = BOOK.held("a")
    for slot, ended_ms in enumerate((WALL_MS + 5, WALL_MS + 9)):
        result = BOOK.sign(BOOK.result(FIRST, slot=slot, ended_ms=ended_ms), "executor")
        choice = BOOK.sign(BOOK.acceptance(FIRST, slot=slot, result=result), "a")
        held.merge(BOOK.sync(state(slot, acceptance=choice)), ME)
    assert held.end(WALL_MS + 99)
    assert held.ended_ms == WALL_MS + 9
    assert not held.end(WALL_MS + 999)
    early = BOOK.held("a")
    early.merge(whole(held), ME)
    early.end(WALL_MS + 7)  # that executor's clock is ahead
    assert early.ended_ms == WALL_MS + 7


def stopped(**head: int) -> HeldJob:
    slots = (state(slot, acceptance=BOOK.accepted(FIRST, Verdict.STOPPED, slot)) for slot in (0, 1))
    return merged(BOOK.sync(*slots, **head))  # type: ignore[arg-type]


def test_a_job_that_nothing_ran_of_ends_when_that_is_seen() -> None:
    held = stopped()
    assert held.end(at(1e6).wall_ms)
    assert held.ended_ms == at(1e6).wall_ms


def test_fetched_from_another_holder_it_does_not_end_anew() -> None:
    """Holders that forget it one after the other would give it back to each other for ever."""
    held = stopped()
    assert held.end(at(1e6).wall_ms, fetched=True)
    assert held.ended_ms == WALL_MS  # nobody knows better: when it was accepted
    unset = stopped(accepted_ms=0)
    unset.end(WALL_MS, fetched=True)
    assert unset.ended_ms > 0  # zero is "not yet"


# ---- the head ---------------------------------------------------------------------------------


def test_the_higher_term_leads_and_between_equals_the_higher_id() -> None:
    held = BOOK.held("b", term=2)
    for term, coordinator, follows in ((1, "z", False), (2, "a", False), (2, "b", False)):
        assert (
            held.merge(BOOK.sync(term=term, coordinator=coordinator, holders=()), ME).head
            is follows
        )
    assert held.merge(BOOK.sync(term=2, coordinator="c"), ME).head
    assert (held.term, held.coordinator) == (2, "c")


def test_an_award_of_a_later_term_brings_its_coordinator() -> None:
    """Who went on awarding below it would award what nobody takes."""
    held = BOOK.held("a")
    award = BOOK.awarded(fence(4, "d", 1))
    merged = held.merge(BOOK.sync(state(assignment=award)), ME)
    assert (merged.head, held.term, held.coordinator) == (True, 4, "d")
    assert not held.follow(4, PeerId("d"))
    assert held.follow(4, PeerId("e"))


def test_a_huge_term_is_a_number_like_another() -> None:
    held = merged(BOOK.sync(term=INT_MAX), BOOK.sync(term=2))
    assert held.term == INT_MAX


def test_the_earliest_acceptance_counts() -> None:
    held = merged(BOOK.sync(accepted_ms=WALL_MS + 1))
    assert held.accepted_ms == WALL_MS
    assert held.merge(BOOK.sync(accepted_ms=WALL_MS - 1), ME).head
    assert held.accepted_ms == WALL_MS - 1


def test_of_two_authors_of_one_spec_the_lower_id_stays() -> None:
    held = BOOK.held("a")
    assert not held.merge(BOOK.sync(spec=BOOK.specified("z")), ME).head
    assert held.merge(BOOK.sync(spec=BOOK.specified("k")), ME).head
    assert (held.author, held.spec_data) == ("k", BOOK.specified("k"))
    assert held.revision == BOOK.revision


def test_who_may_not_submit_does_not_become_the_author() -> None:
    """No executor would run the job any more."""
    BOOK.keyring("0", Role.COMPUTE)
    assert "may not submit" in refuses(BOOK.held("a"), BOOK.sync(spec=BOOK.specified("0")))


def test_one_key_for_two_jobs_is_refused() -> None:
    other = Book(job_spec(Count=2, Name="other"), author="m", shoal=BOOK.shoal)
    assert "two different jobs" in refuses(BOOK.held("a"), BOOK.sync(spec=other.spec_data))


# ---- control ----------------------------------------------------------------------------------


def test_control_goes_by_number_then_state_then_hash() -> None:
    held = BOOK.held("a")
    assert held.desired is Desired.RUNNING
    held.merge(BOOK.sync(control=BOOK.controlled("m", 1, Desired.STOPPED)), ME)
    held.merge(BOOK.sync(control=BOOK.controlled("m", 1, Desired.RUNNING)), ME)
    assert held.desired is Desired.STOPPED
    held.merge(BOOK.sync(control=BOOK.controlled("m", 2, Desired.RUNNING)), ME)
    assert held.desired is Desired.RUNNING
    held.merge(BOOK.sync(control=BOOK.controlled("operator", 2, Desired.DELETED)), ME)
    assert held.desired is Desired.DELETED


def test_only_the_author_and_operators_are_asked_to_be_obeyed() -> None:
    held = BOOK.held("a")
    for name in ("m", "operator"):
        assert held.checked_control(BOOK.controlled(name), ME).number == 1
    for name in ("k", "worker"):
        with pytest.raises(RemoteProtocolError, match="may not control"):
            held.checked_control(BOOK.controlled(name), ME)


def test_a_stop_by_an_author_who_gave_way_to_another_is_not_lost() -> None:
    """Both accepted one call; a person has stopped the job at the first before they met."""
    stopped = BOOK.held("a")
    stopped.merge(BOOK.sync(control=BOOK.controlled("m")), ME)
    other = BOOK.held("b")
    other.merge(BOOK.sync(spec=BOOK.specified("k")), ME)
    other.merge(whole(stopped), ME)
    stopped.merge(whole(other), ME)
    assert (stopped.author, stopped.desired) == (other.author, other.desired)
    assert (other.author, other.desired) == ("k", Desired.STOPPED)
    head = {bucket: value or b"" for bucket, _, value in other.head_rows()}
    back = HeldJob.restore(head["spec"], head["job"], head["control"], [], ME)
    assert back.desired is Desired.STOPPED


def test_a_forged_control_is_refused() -> None:
    held = BOOK.held("a")
    assert "may not control" in refuses(held, BOOK.sync(control=BOOK.controlled("worker")))
    elsewhere = BOOK.controlled("m", job=JobId("x" * 32))
    assert "control record" in refuses(held, BOOK.sync(control=elsewhere))
    assert "control record" in refuses(held, BOOK.sync(control=BOOK.spec_data))
    refuses(held, BOOK.sync(control=b"garbage"))
    BOOK.keyring("guest", Role.OPERATE, Role.SUBMIT, namespaces=("lab",))
    refuses(held, BOOK.sync(control=BOOK.controlled("guest")))


# ---- forged slots -----------------------------------------------------------------------------


def replaced(record: msgspec.Struct, by: str, **fields: object) -> bytes:
    return BOOK.sign(msgspec.structs.replace(record, **fields), by)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sync",
    [
        lambda: BOOK.sync(state(slot=2)),
        lambda: BOOK.sync(state(slot=1, assignment=BOOK.awarded(FIRST, slot=0))),
        lambda: BOOK.sync(state(assignment=BOOK.sign(BOOK.assignment(FIRST), "b"))),
        lambda: BOOK.sync(state(assignment=BOOK.spec_data)),
        lambda: BOOK.sync(state(assignment=b"garbage")),
        lambda: BOOK.sync(
            state(assignment=replaced(BOOK.assignment(FIRST), "a", job=JobId("x" * 32)))
        ),
        lambda: BOOK.sync(
            state(assignment=replaced(BOOK.assignment(FIRST), "a", revision=Revision("x" * 32)))
        ),
        lambda: BOOK.sync(state(slot=1, acceptance=BOOK.accepted(FIRST, slot=0))),
        lambda: BOOK.sync(state(acceptance=BOOK.awarded(FIRST))),
        lambda: BOOK.sync(state(acceptance=BOOK.sign(BOOK.acceptance(FIRST), "a"))),
        lambda: BOOK.sync(
            state(
                acceptance=replaced(
                    BOOK.acceptance(FIRST, Verdict.STOPPED), "a", job=JobId("x" * 32)
                )
            )
        ),
    ],
)
def test_a_forged_slot_is_refused_with_all_that_came_along(sync: Callable[[], JobSync]) -> None:
    message = sync()
    good = state(0, BOOK.awarded(fence(0, "a", 1)))
    refuses(
        BOOK.held("a"),
        msgspec.structs.replace(
            message,
            slots=(good, *message.slots),
            holders=(PeerId("q"),),
            term=7,
            spec=BOOK.specified("k"),
            control=BOOK.controlled("m"),
        ),
    )


def test_known_bytes_are_taken_as_read() -> None:
    held = merged(BOOK.sync(state(0, BOOK.awarded(FIRST), BOOK.accepted(FIRST))))

    class Deaf(type(ME)):  # type: ignore[misc]
        def verify(self, signer: str, data: bytes, signature: bytes) -> bool:
            raise AssertionError("verified again")

    deaf = Deaf(ME.peer, ME.shoal, ME.certificate)
    assert not held.merge(whole(held), deaf)


# ---- creation ---------------------------------------------------------------------------------


def test_a_job_begins_with_empty_slots() -> None:
    held = BOOK.held("a", "b")
    assert [slot.state for slot in held.slots] == [SlotState(0), SlotState(1)]
    assert (held.id, held.author, held.revision) == (BOOK.id, "m", BOOK.revision)
    assert held.execution_of(held.slots[0]) == ""


def test_an_execution_is_named_after_its_award() -> None:
    held = merged(BOOK.sync(state(1, BOOK.awarded(SECOND, 1))))
    slot = held.slots[1]
    assert held.execution_of(slot) == held.execution_at(slot, SECOND)
    assert held.execution_of(slot) != held.execution_at(slot, FIRST)


def create(data: bytes) -> HeldJob:
    return HeldJob.create(open_sealed(data, ME), PeerId("a"), 1, 0, ())


def test_what_no_job_can_be_made_of_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="spec record"):
        create(BOOK.awarded(FIRST))
    for body in (b"", b"garbage", dumps({"Name": "x"}), dumps({"Type": "batch", "Tasks": b"x"})):
        with pytest.raises(RemoteProtocolError):
            create(replaced(BOOK.spec, "m", body=body))
    with pytest.raises(RemoteProtocolError, match="namespace"):
        create(Book(job_spec(Namespace="secret")).spec_data)


def test_holders_are_few_and_each_is_there_once() -> None:
    names = [PeerId(f"p{number}") for number in range(60)]
    held = HeldJob.create(BOOK.sealed, names[0], 1, 0, (names[0], names[0], *names))
    assert held.holders == tuple(names[:HOLDERS_MAX])
    assert not held.add_holders((PeerId("late"),))
    small = BOOK.held("a", "b")
    assert small.add_holders((PeerId("b"), PeerId("c"), PeerId("c")))
    assert small.holders == ("a", "b", "c")
    assert not small.add_holders((PeerId("a"), PeerId("c")))


def test_a_sync_carries_the_slots_asked_for_and_the_whole_head() -> None:
    held = merged(BOOK.sync(state(1, BOOK.awarded(SECOND, 1)), control=BOOK.controlled("m")))
    sync = held.sync(9, [1], with_spec=False)
    assert (sync.seq, sync.spec, sync.control) == (9, b"", BOOK.controlled("m"))
    assert sync.slots == (SlotState(1, BOOK.awarded(SECOND, 1)),)
    assert sync.fingerprint == held.fingerprint()
    assert held.weigh(1) > len(BOOK.awarded(SECOND, 1)) > held.weigh(0)


def test_a_fingerprint_follows_every_change() -> None:
    held = BOOK.held("a")
    seen = [held.fingerprint()]
    for change in (
        lambda: held.slots[0].offer_assignment(BOOK.assignment(FIRST), BOOK.awarded(FIRST)),
        lambda: held.slots[0].offer_acceptance(
            BOOK.acceptance(FIRST, Verdict.STOPPED), BOOK.accepted(FIRST, Verdict.STOPPED)
        ),
        lambda: held.follow(2, PeerId("a")),
        lambda: held.offer_control(held.checked_control(CONTROLS[6], ME), CONTROLS[6]),
    ):
        assert change()
        seen.append(held.fingerprint())
    assert len(set(seen)) == len(seen)
    assert held.fingerprint() == held.fingerprint()


def test_a_row_that_we_never_wrote_is_refused() -> None:
    held = BOOK.held("a")
    head = {bucket: value or b"" for bucket, _, value in held.head_rows()}
    for spec, job in (
        (b"", head["job"]),
        (head["spec"], b"\x80"),
        (head["spec"], dumps([1])),
        (head["spec"], dumps({})),
    ):
        with pytest.raises((RemoteProtocolError, ValueError)):
            HeldJob.restore(spec, job, b"", [], ME)
    with pytest.raises((RemoteProtocolError, ValueError)):
        saved_slot(b"\x80", 0)


# ---- a list of peers --------------------------------------------------------------------------

LISTED = Book(job_spec(Type="ops"), author="m", shoal=BOOK.shoal)
OPEN = Book(job_spec(Type="ops", NotAfter="2030-01-01T00:00:00Z"), author="m", shoal=BOOK.shoal)


def listed(book: Book, peer: str, by: str = "a", choice: Verdict | None = None) -> SlotState:
    """A peer on the list, as its award by a coordinator has it, and how it ended if it has."""
    slot, of = peer_slot(book.id, PeerId(peer)), fence(1, by, 1)
    bare = book.acceptance(of, choice, slot) if choice is not None else None
    acceptance = book.sign(bare, by) if bare is not None else b""
    return SlotState(slot, book.awarded(of, slot, peer), acceptance)


@settings(max_examples=40)
@given(st.lists(st.sampled_from([(p, c) for p in "wxyz" for c in "ab"]), max_size=8), st.randoms())
def test_lists_of_islands_become_one_in_any_order(
    peers: list[tuple[str, str]], rng: random.Random
) -> None:
    syncs = [LISTED.sync(listed(LISTED, peer, by)) for peer, by in peers]
    one, other = LISTED.held("a"), LISTED.held("a")
    for sync in syncs:
        one.merge(sync, ME)
    rng.shuffle(syncs)
    for sync in [*syncs, *syncs]:
        other.merge(sync, ME)
    assert one.fingerprint() == other.fingerprint() and one.slots == other.slots
    assert one.slots.indices == sorted({peer_slot(LISTED.id, PeerId(p)) for p, _ in peers})
    again = HeldJob.restore(
        one.spec_data,
        next(value or b"" for bucket, _, value in one.head_rows() if bucket == "job"),
        b"",
        [slot.state for slot in one.slots],
        ME,
    )
    assert again.fingerprint() == one.fingerprint()


def test_nobody_is_listed_in_anothers_place_or_without_an_award() -> None:
    held = LISTED.held("a")
    good = listed(LISTED, "x")
    theirs = SlotState(good.slot, LISTED.awarded(FIRST, good.slot, "y"))
    assert refuses(held, LISTED.sync(theirs)) == "a slot that is another peer's"
    bare = SlotState(good.slot, b"", listed(LISTED, "x", choice=Verdict.STOPPED).acceptance)
    assert "of 0" in refuses(held, LISTED.sync(bare))
    numbered = LISTED.sync(SlotState(0, LISTED.awarded(FIRST)))
    assert refuses(held, numbered) == "a slot that is another peer's"
    with pytest.raises(RemoteProtocolError):
        held.require_own(PeerId("y"), good.slot)


def test_a_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heldjob, "SLOTS_MAX", 1)
    held = LISTED.held("a")
    held.merge(LISTED.sync(listed(LISTED, "x")), ME)
    assert "of 1" in refuses(held, LISTED.sync(listed(LISTED, "y")))


def test_a_job_that_had_ended_has_not_when_another_island_listed_more() -> None:
    held = LISTED.held("a")
    held.merge(LISTED.sync(listed(LISTED, "x", choice=Verdict.STOPPED)), ME)
    assert held.done and held.end(WALL_MS + 1) and held.ended_ms
    held.merge(LISTED.sync(listed(LISTED, "y")), ME)
    assert not held.done and not held.ended_ms


def test_an_open_job_has_not_ended_until_somebody_closes_it() -> None:
    held = OPEN.held("a")
    held.merge(OPEN.sync(listed(OPEN, "x", choice=Verdict.STOPPED)), ME)
    before = held.fingerprint()
    assert not held.closed and not held.done
    head = {bucket: value or b"" for bucket, _, value in held.head_rows()}
    assert not HeldJob.restore(held.spec_data, head["job"], b"", [], ME).closed
    sync = msgspec.structs.replace(OPEN.sync(), closed=True)
    assert held.merge(sync, ME).head and held.done
    assert not held.merge(sync, ME)
    assert held.fingerprint() != before
    head = {bucket: value or b"" for bucket, _, value in held.head_rows()}
    assert HeldJob.restore(held.spec_data, head["job"], b"", [], ME).closed
    assert held.sync(1, [], False).closed


def test_a_list_that_nobody_is_on_ends_when_it_is_closed() -> None:
    held = OPEN.held("a")
    held.closed = True
    assert held.end(WALL_MS + 5)
    assert held.ended_ms == WALL_MS
