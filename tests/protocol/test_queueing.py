"""queueing: who is told first that there is room, and that nobody is told for nothing."""

from __future__ import annotations

from protocol.clock import NEVER
from protocol.ids import JobId, PeerId
from protocol.queueing import KEPT_S, TURN_S, WAITERS_MAX, Queue
from protocol.resources import Resources

A, B = PeerId("a"), PeerId("b")
ONE = Resources(1000)


def job(number: int) -> JobId:
    return JobId(f"{number:032}")


def queue(*priorities: int, each: Resources = ONE) -> Queue:
    """Jobs 0, 1, … of A, in that order."""
    made = Queue()
    for number, priority in enumerate(priorities):
        made.join(A, job(number), each, priority, 0.0)
    return made


def called(it: Queue, cores: int, now: float = 0.0, room: int = 64) -> list[int]:
    return [int(waiter.job) for waiter in it.call(Resources(cores * 1000), room, now)]


def test_the_most_urgent_goes_first_and_then_the_first() -> None:
    assert called(queue(0, 50, 0, 50), 3) == [1, 3, 0]


def test_nobody_is_told_of_room_that_is_too_small() -> None:
    it = queue(50, 0)
    it.join(B, job(0), Resources(4000), 90, 0.0)
    assert called(it, 1) == [0]


def test_executions_are_counted_too() -> None:
    assert called(queue(0, 0, 0), 9, room=2) == [0, 1]


def test_who_was_told_is_not_told_again_and_keeps_the_room_for_its_turn() -> None:
    it = queue(0, 0)
    assert called(it, 1) == [0]
    assert called(it, 1, TURN_S / 2) == []
    assert it.deadline == TURN_S
    # It let its turn go by: the next has it, and whoever still waits asks again.
    assert called(it, 1, TURN_S) == [1]
    assert list(it.waiters) == [(A, job(1))]


def test_what_is_kept_is_kept_from_those_behind_only() -> None:
    it = queue(10, 50)
    assert called(it, 1) == [1]
    assert it.ahead(A, job(0), 10, 0.5) == [ONE]
    assert it.ahead(B, job(7), 0, 0.5) == [ONE]
    assert it.ahead(B, job(7), 99, 0.5) == []
    assert it.ahead(A, job(1), 50, 0.5) == []
    assert it.ahead(A, job(0), 10, TURN_S) == []


def test_asked_again_a_job_keeps_its_place() -> None:
    it = queue(0, 0)
    it.join(A, job(0), ONE, 0, 5.0)
    assert called(it, 1, 5.0) == [0]


def test_who_found_a_place_or_comes_no_more_is_forgotten() -> None:
    it = queue(0, 0)
    it.leave(A, job(0))
    it.leave(A, job(0))
    assert called(it, 1, KEPT_S - 1) == [1]
    assert called(queue(0), 1, KEPT_S) == []


def test_the_queue_is_bounded_and_the_urgent_still_get_in() -> None:
    it = queue(*[5] * WAITERS_MAX)
    it.join(B, job(1), ONE, 5, 0.0)
    assert (B, job(1)) not in it.waiters
    it.join(B, job(2), ONE, 6, 0.0)
    assert (B, job(2)) in it.waiters
    assert (A, job(WAITERS_MAX - 1)) not in it.waiters
    assert len(it.waiters) == WAITERS_MAX


def test_without_turns_it_wants_no_waking() -> None:
    assert queue(0, 0).deadline == NEVER
