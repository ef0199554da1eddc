"""execution: the moves there are, the row on disk and back, and a fence that only rises."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import protocol.execution
from protocol.errors import RemoteProtocolError
from protocol.execution import (
    ENDED,
    FENCES_MAX,
    MOVES,
    TWINS,
    Execution,
    Fences,
    State,
    id_of,
    restore_execution,
    verdict_of,
)
from protocol.ids import JobId, PeerId, execution_id, peer_slot
from protocol.job import JobSpec
from protocol.records import Fence, Verdict
from protocol.unread import Unread
from protocol.wire import dumps, loads, open_sealed
from tests.protocol.jobs import Book, fence, job_spec, task_spec
from tests.protocol.schedulenet import ops_schedule, schedule
from tests.protocol.test_template import template

BOOK = Book(job_spec(Count=3))
ME = BOOK.keyring("executor")
FIRST = fence(2, "a", 5)
JOB = BOOK.id


def begin(of: Fence = FIRST, slot: int = 1, book: Book = BOOK) -> Execution:
    data = book.awarded(of, slot)
    return Execution.begin(book.assignment(of, slot), data, book.sealed, (PeerId("a"), PeerId("s")))


# ---- states -----------------------------------------------------------------------------------


def test_every_state_has_its_moves() -> None:
    assert set(MOVES) == set(State)
    assert {state for state in State if not MOVES[state]} == set(ENDED)


@pytest.mark.parametrize("before", list(State))
@pytest.mark.parametrize("after", list(State))
def test_only_what_the_table_says_can_happen(before: State, after: State) -> None:
    execution = begin()
    execution.state = before
    if after in MOVES[before]:
        execution.move(after)
        assert execution.state is after
    else:
        with pytest.raises(AssertionError):
            execution.move(after)


def test_an_execution_is_what_its_award_says() -> None:
    execution = begin()
    assert execution.id == execution_id(BOOK.revision, 1, 2, PeerId("a"), 5)
    assert execution.id == id_of(BOOK.result(FIRST, slot=1))
    assert (execution.job, execution.revision, execution.slot) == (JOB, BOOK.revision, 1)
    assert (execution.fence, execution.coordinator) == (FIRST, "a")
    assert (execution.author, execution.namespace, execution.spec) == (
        "author",
        "default",
        BOOK.job,
    )
    assert not execution.ended
    assert not execution.owes


def test_output_is_published_with_a_result_unless_it_goes_line_by_line() -> None:
    for params, published in (({}, True), ({"Lines": True}, False)):
        publisher = {"Type": "mqtt", "Params": {"Broker": "home", **params}}
        book = Book(task_spec(Publisher=publisher))
        assert begin(slot=0, book=book).publishes is published
    assert not begin().publishes


def test_it_owes_a_result_until_that_is_delivered() -> None:
    execution = begin()
    execution.result_data = b"result"
    assert execution.owes
    execution.delivered = True
    assert not execution.owes


def test_it_answers_to_those_it_was_told_of() -> None:
    execution = begin()
    execution.coordinator = PeerId("successor")
    for peer in ("a", "s", "successor"):
        assert execution.answers_to(PeerId(peer))
    assert not execution.answers_to(PeerId("author"))


def test_a_task_sees_where_it_stands() -> None:
    environment = begin().environment(PeerId("executor"))
    assert environment == {
        "SHOAL_JOB_ID": JOB,
        "SHOAL_EXECUTION_ID": begin().id,
        "SHOAL_PEER_ID": "executor",
        "SHOAL_PARTITION_INDEX": "1",
        "SHOAL_PARTITION_COUNT": "3",
        "SHOAL_TERM": "2",
        "SHOAL_ATTEMPT": "5",
        "BACALHAU_JOB_ID": JOB,
        "BACALHAU_JOB_TYPE": "batch",
        "BACALHAU_EXECUTION_ID": begin().id,
        "BACALHAU_PARTITION_INDEX": "1",
        "BACALHAU_PARTITION_COUNT": "3",
    }


@pytest.mark.parametrize("type_", ["ops", "service"])
def test_the_twins_of_every_type_say_the_same(type_: str) -> None:
    book = Book(job_spec(Type=type_))
    assignment = book.assignment(FIRST, peer_slot(book.id, PeerId("executor")))
    if type_ == "service":
        assignment = book.assignment(FIRST)
    begun = Execution.begin(assignment, b"", book.sealed, ())
    seen = begun.environment(PeerId("executor"))
    twins = {name: value for name, value in seen.items() if name.startswith("BACALHAU_")}
    assert twins.pop("BACALHAU_JOB_TYPE") == type_
    assert set(twins) == {f"BACALHAU_{name}" for name in TWINS}
    for name, value in twins.items():
        assert value == seen[name.replace("BACALHAU_", "SHOAL_")]


def test_a_slot_that_the_job_does_not_have_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="slot 3 of 3"):
        begin(slot=3)


def test_a_spec_that_no_job_can_be_read_from_is_refused() -> None:
    broken = msgspec.structs.replace(BOOK.spec, body=dumps({"Name": "x"}))
    sealed = open_sealed(BOOK.sign(broken, "author"), ME)
    with pytest.raises(RemoteProtocolError, match="cannot read its spec"):
        Execution.begin(BOOK.assignment(FIRST), b"", sealed, ())


@pytest.mark.parametrize("held", [schedule(), ops_schedule(), template()])
def test_what_only_makes_jobs_is_not_run_itself(held: JobSpec) -> None:
    """Its author asked for runs of it, and no coordinator may order another."""
    with pytest.raises(RemoteProtocolError, match="not run itself"):
        begin(slot=0, book=Book(held))


def test_a_job_of_another_namespace_than_its_record_is_refused() -> None:
    """The author's rights were judged by the record's."""
    book = Book(job_spec(Namespace="secret"), namespace="default")
    with pytest.raises(RemoteProtocolError, match="namespace"):
        begin(slot=0, book=book)


# ---- on disk ----------------------------------------------------------------------------------


def test_a_row_comes_back_as_it_was() -> None:
    execution = begin()
    execution.state, execution.stopping = State.STOPPED, "withdrawn"
    execution.coordinator, execution.result_data = PeerId("b"), b"result"
    execution.delivered, execution.started_ms, execution.ended_ms = True, 5, 9
    bucket, key, value = execution.row()
    assert (bucket, key) == ("execution", execution.id)
    assert value is not None
    assert restore_execution(value, ME) == execution


def test_what_is_of_one_life_only_is_not_on_disk() -> None:
    execution = begin()
    before = execution.row()
    execution.next_at, execution.tries, execution.heard_at, execution.hints = 1.0, 2, 3.0, 4
    assert execution.row() == before


@pytest.mark.parametrize(
    "changes",
    [
        {0: BOOK.spec_data},
        {1: BOOK.awarded(FIRST, 1)},
        {2: "nowhere"},
        {8: "yesterday"},
    ],
)
def test_a_foreign_row_is_refused(changes: dict[int, object]) -> None:
    _, _, value = begin().row()
    assert value is not None
    fields = loads(value)
    assert isinstance(fields, list)
    for at, field in changes.items():
        fields[at] = field
    with pytest.raises((RemoteProtocolError, ValueError)):
        restore_execution(dumps(fields), ME)


# ---- the fence --------------------------------------------------------------------------------


def rows_of(fences: Fences) -> dict[str, bytes]:
    return {
        f"{job}/{slot}": dumps(list(msgspec.structs.astuple(f)))
        for (job, slot), f in fences.known.items()
    }


def test_a_fence_rises_by_term_then_coordinator_then_attempt() -> None:
    fences = Fences()
    for of in (fence(1, "a", 1), fence(1, "a", 2), fence(1, "b", 1), fence(2, "a", 1)):
        ((bucket, key, value),) = fences.raise_to(JOB, 0, of)
        assert (bucket, key, value) == (
            "fence",
            f"{JOB}/0",
            dumps([of.term, of.coordinator, of.attempt]),
        )
    assert fences.raise_to(JOB, 0, fence(2, "a", 1)) == []
    assert fences.raise_to(JOB, 0, fence(1, "z", 9)) == []
    assert fences.known == {(JOB, 0): fence(2, "a", 1)}


def test_an_award_at_or_below_the_fence_comes_too_late() -> None:
    fences = Fences()
    assert not fences.stale(JOB, 0, FIRST)
    fences.raise_to(JOB, 0, FIRST)
    assert fences.stale(JOB, 0, fence(2, "a", 4))
    assert fences.stale(JOB, 0, FIRST)  # it was run and forgotten: a replay starts nothing
    assert not fences.stale(JOB, 0, fence(2, "a", 6))
    assert not fences.stale(JOB, 1, FIRST)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 3), st.sampled_from("ab"), st.integers(0, 3))
    )
)
def test_a_fence_never_goes_back_nor_over_a_restart(steps: list[tuple[int, int, str, int]]) -> None:
    fences, disk = Fences(), dict[str, bytes]()
    for slot, term, coordinator, attempt in steps:
        before = fences.known.get((JOB, slot))
        of = fence(term, coordinator, attempt)
        for _, key, value in fences.raise_to(JOB, slot, of):
            assert value is not None
            disk[key] = value
        assert fences.known[(JOB, slot)] == (of if before is None else max(before, of))
        unreadable: list[Unread] = []
        assert Fences.restore(disk, unreadable).known == fences.known
        assert unreadable == []


def test_the_oldest_fence_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert FENCES_MAX >= 10_000
    monkeypatch.setattr(protocol.execution, "FENCES_MAX", 2)
    fences = Fences()
    fences.raise_to(JOB, 0, FIRST)
    fences.raise_to(JOB, 1, FIRST)
    fences.raise_to(JOB, 0, fence(3, "a", 1))  # raised lately, so it stays
    rows = fences.raise_to(JOB, 2, FIRST)
    assert rows[1:] == [("fence", f"{JOB}/1", None)]
    assert [slot for _, slot in fences.known] == [0, 2]


def test_rows_that_cannot_be_read_do_not_keep_the_agent_from_starting() -> None:
    fences = Fences()
    fences.raise_to(JobId("j" * 32), 4, FIRST)
    unreadable: list[Unread] = []
    disk = {
        "x/1": b"\xff",
        f"{JOB}/first": rows_of(fences)[f"{'j' * 32}/4"],
        f"{JOB}/2": dumps([1]),
    }
    restored = Fences.restore({**disk, **rows_of(fences)}, unreadable)
    assert restored.known == fences.known
    assert [each.key for each in unreadable] == list(disk)


def test_an_exit_code_says_how_it_went() -> None:
    assert verdict_of(0) is Verdict.SUCCESS
    assert verdict_of(3) is Verdict.FAILURE
    assert verdict_of(None) is Verdict.FAULT
