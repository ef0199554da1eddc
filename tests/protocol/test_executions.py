"""executions: the live ones are found without looking at the hundreds that ended."""

from __future__ import annotations

from protocol.execution import Execution, State
from protocol.executions import Executions
from protocol.wire import open_sealed
from tests.protocol.jobs import Book, fence, job_spec

BOOK = Book(job_spec(Count=3))


def begun(slot: int = 0, attempt: int = 1) -> Execution:
    data = BOOK.awarded(fence(1, "a", attempt), slot)
    keyring = BOOK.keyring("a")
    assignment = open_sealed(data, keyring).record
    return Execution.begin(assignment, data, open_sealed(BOOK.spec_data, keyring), ())  # type: ignore[arg-type]


def kept(*executions: Execution) -> Executions:
    found = Executions()
    for execution in executions:
        found[execution.id] = execution
    return found


def test_one_that_runs_is_open_and_live() -> None:
    one, two = begun(0), begun(1)
    found = kept(one, two)
    assert found.open == found.live == [one, two]
    assert found.open_of(one.job, 1) == [two]


def test_one_that_owes_its_result_is_live_and_not_open() -> None:
    execution = begun()
    found = kept(execution)
    execution.move(State.COMPLETED)
    execution.result_data = b"result"
    assert found.live == [execution]
    assert found.open == []


def test_what_is_delivered_is_kept_and_not_looked_at_again() -> None:
    execution = begun()
    found = kept(execution)
    execution.move(State.COMPLETED)
    execution.delivered = True
    assert found.live == []
    assert list(found.values()) == [execution]


def test_what_is_removed_is_gone() -> None:
    one, two = begun(0), begun(1)
    found = kept(one, two)
    del found[one.id]
    assert found.live == [two]
    assert one.id not in found


def test_the_open_ones_of_its_slot_are_those_beside_it() -> None:
    one, other, ended = begun(0), begun(1), begun(0, 2)
    ended.move(State.COMPLETED)
    later = begun(0, 3)
    assert kept(one, other, ended, later).same_slot(one) == [one, later]


def test_earlier_runs_are_of_one_award_and_the_latest_is_last() -> None:
    first, another = begun(), begun(0, 2)
    second = first.again()
    running = second.again()
    for execution in (first, second, another):
        execution.state = State.FAILED
    assert kept(running, second, another, first).earlier_runs(running) == [first, second]
